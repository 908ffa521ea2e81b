"""The labeller: labels whole corpora offline, dumps or a model's attention over inputs, into a folder of tables.

command/  ``attention-label``: options, messages, progress
output/   the run folder, its parts and the columns of its tables
report/   the page of a run, and its figures for a paper
run/      units of work through an engine into the run folder
sources/  attention to label: dumps, and models over texts and pictures
summary/  the verdict on each head over many inputs
"""
