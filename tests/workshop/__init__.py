"""Tests of the workshop: data set, labelling, training and figures.

conftest.py          the data set, its validation split and the bundled model's answers to it
test_annotate.py     the annotation page, driven in a browser
test_commands.py     the commands of the workshop
test_dataset.py      the shipped data set and its card
test_drift.py        the drift of incoming maps from the training maps
test_hand_labels.py  contact sheets, collected answers and agreement
test_model_card.py   the figures of the shipped model, and the programs that measure them
test_training.py     the net, its examples, its training and its export
"""
