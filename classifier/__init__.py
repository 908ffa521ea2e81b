"""Classifies transformer self-attention maps by pattern and measures what their heads attend to."""

from classifier.attention_map import DataType
from classifier.bundle import ModelBundle
from classifier.classification import Classification, Classifier, Prediction
from classifier.errors import (
    AttentionPatternsError,
    BundleError,
    InvalidAttentionError,
    InvalidDeclarationError,
    ServerError,
    SourceError,
)
from classifier.measures import AttentionTo, Evidence
from classifier.pattern_classifier import PatternClassifier
from classifier.patterns import PATTERNS, Pattern

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
