"""The labelled data set, and the labelling of maps by hand.

annotate.py         a local page on which maps are labelled by key press
annotators.py       the annotators, the maps that wait for them, and where they agree
answers.py          the file of an annotator's answers, as the page writes it
collect_maps.py     the maps to be labelled: run, drawn and dealt to splits
collection_plan.py  the sources to draw maps from, how many of each, and the shares of the splits
dataset.py          the data set as a folder
hand_labels.py      contact sheets, collected answers, agreement and calibration
sheets.py           pictures of maps, one by one and on contact sheets
"""
