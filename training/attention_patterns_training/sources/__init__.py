"""The sources of attention: texts and pictures, the transformers that read them, and the maps that come out.

attention_sources.py  attention of every source model, as it is and under interventions
corpus.py             documentation that the source models are trained on
export_sample.py      the bundled sample
sentences.py          sentences made by a grammar, and tasks to fine-tune on
shapes.py             drawn pictures, for the vision transformer
source_models.py      the transformers that are trained here for their attention
source_training.py    their batches, losses and training loop
texts.py              the texts whose attention maps are labelled
"""
