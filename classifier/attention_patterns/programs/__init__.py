"""What the programs of the house share, library, labeller and server alike.

extras.py       which extra a missing package comes with, and how it is installed here
json_logs.py    logs as one JSON object per line
terminal.py     grids, shares and attention as tables in the terminal
whole_files.py  files that appear under their name only when they are whole
"""
