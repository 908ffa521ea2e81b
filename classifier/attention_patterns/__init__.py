"""Classifies transformer self-attention maps by pattern and measures what their heads attend to."""

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
