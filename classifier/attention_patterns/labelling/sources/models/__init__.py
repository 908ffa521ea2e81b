"""Attention of Hugging Face models over texts or pictures.

source.py        models as a source: texts cut into units, and the model of each unit loaded
hugging_face.py  a loaded model that is run over texts or pictures; the only file that imports torch
task_run.py      one run of a model over inputs of a task: its selection, and the outcome of each input
slabs.py         the attention of a batch, rendered and measured layer by layer
taps.py          the places where a model's attention leaves its modules
ways.py          the way of taking a model's attention that changes nothing else it returns
turns.py         the replicas of a model, and the threads that take turns with them
encodings.py     texts and pictures as the arguments of a model, in batches
architecture.py  what a model's configuration and modules say of its inputs
"""
