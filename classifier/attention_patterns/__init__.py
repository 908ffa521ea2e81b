"""Classifies transformer self-attention maps by pattern and measures what their heads attend to.

errors.py              the tree of everything raised on purpose
patterns.py            the five patterns
special_tokens.py      special tokens by name
per_process.py         objects that a forked process makes anew
attention_map.py       an array of attention maps and what the caller declares of it, checked
kernel.py              the one compiled pass that checks, renders and measures maps
row_sums.py            rows that do not sum to 1 and are taken all the same
explanations.py        the causes for which maps are refused
rendering.py           maps to images: the rendering and its version
measures.py            the measures of a head, each declared once
outputs.py             outputs of a Hugging Face model, taken apart into inputs
bundle.py              the model bundle: net, figures and card
drift.py               the distance of incoming maps from the training maps
session.py             the net at work, by onnxruntime
classification.py      the results
classifier.py          the classifier: the ways in, and the one road on which they end
pattern_classifier.py  the classifier in this process
sample.py              the bundled sample, and the encoder it came from
programs/              what the programs of the house share
labelling/             the batch labeller
assets/                the bundled model and sample
"""

from attention_patterns.attention_map import DataType
from attention_patterns.bundle import ModelBundle
from attention_patterns.classification import Classification, Prediction
from attention_patterns.classifier import Classifier
from attention_patterns.errors import (
    AttentionPatternsError,
    BundleError,
    InvalidAttentionError,
    InvalidDeclarationError,
    ServerError,
    SourceError,
)
from attention_patterns.measures import AttentionTo, Evidence
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.patterns import PATTERNS, Pattern

__all__ = [
    "PATTERNS",
    "AttentionPatternsError",
    "AttentionTo",
    "BundleError",
    "Classification",
    "Classifier",
    "DataType",
    "Evidence",
    "InvalidAttentionError",
    "InvalidDeclarationError",
    "ModelBundle",
    "Pattern",
    "PatternClassifier",
    "Prediction",
    "ServerError",
    "SourceError",
]
