"""The figures of a net, and the cards that state them.

ablation.py    other designs and recipes, on the validation split
baselines.py   a rule and boosted trees on the measured evidence, which see no picture
card.py        the model card, from the figures
data_card.py   the card and the Croissant metadata of the data set
evaluate.py    figures of a bundle through the serving path
markdown.py    tables and templates of the cards
measure.py     all figures and pictures of the shipped bundle
pictures.py    the pictures of the model card
results.py     results.json, which holds the figures of the card
robustness.py  changes that must not change the answer, and inputs that are no attention
speed.py       designs and int8 variants against the net of the paper
"""
