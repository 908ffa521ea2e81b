"""Code that library, labeller and server share in their programs.

extras.py       the extra that a missing package comes with, and the command that installs it here
json_logs.py    logs as one JSON object per line
outside_files.py  files from outside, read only where they are regular, of a bearable size, and hold what they should
terminal.py     grids of patterns, shares and attention as tables in the terminal
whole_files.py  files that appear under their name only when they are whole
"""
