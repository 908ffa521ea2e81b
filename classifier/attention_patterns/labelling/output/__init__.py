"""The output of a run.

folder.py  the run folder: parts, manifest, lock
part.py    the work on one unit, which makes one part
table.py   the columns of all tables, and their rows
tally.py   sentences on inputs that are alike, counted
"""
