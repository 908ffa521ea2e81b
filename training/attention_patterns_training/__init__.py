"""The workshop: collects attention maps, gathers hand labels, trains the net and exports the model bundle.

sources/     texts and pictures, the transformers that read them, and their attention maps
labels/      the labelled data set, and the labelling of maps by hand
net/         the net, its examples and its training
evaluation/  figures of the net, and the cards that state them
train.py     the training of the shipped net and the export of its bundle
__main__.py  the commands, ``python -m attention_patterns_training``
"""
