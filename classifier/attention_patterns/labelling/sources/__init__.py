"""Sources of attention to label, and the files and arguments that they are read from.

dumps/     attention that was written to files
models/    attention of Hugging Face models over texts or pictures
texts/     the texts and pictures that models read
source.py  what a source is, and what it hands to the run
inputs.py  arguments of the command line: PATH or NAME=PATH
files.py   files on this machine and behind URLs
memory.py  the memory that a run may use
"""
