"""Code that library, labeller and server share in their programs.

command_line.py       the end of a command whose arguments are wrong
extras.py             the extra that a missing package comes with, and the command that installs it here
foreign_text.py       text that others wrote, made safe for where it is shown
json_logs.py          logs as one JSON object per line
outside_files.py      files from outside, read only where they are regular and small, and hold what they should
terminal.py           grids of patterns, shares and attention as tables in the terminal
temporary_folders.py  temporary folders that killed processes do not leave behind
threads.py            pools of threads that exist from the start
whole_files.py        files that appear under their name only when they are whole
"""
