"""The net, its examples and its training.

examples.py   images and targets to train on
export.py     a trained net as the files of a model bundle
fit.py        the training of a net on examples
net.py        the net, and the design it is built from
recipe.py     the way from labelled maps to nets
synthetic.py  synthetic maps of known composition, for pre-training
"""
