"""The gRPC service over the classifier, and its client."""

from service.client import Client
from service.converters import ModelInfo
from service.server import AttentionServer

__all__ = ["AttentionServer", "Client", "ModelInfo"]
