"""The gRPC server of the classifier, and its client.

The parts are loaded when they are first used: a client needs no server, and a health check neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_patterns_service.client import Client
    from attention_patterns_service.contract.model_info import ModelInfo
    from attention_patterns_service.limits import Limits
    from attention_patterns_service.server.server import AttentionServer

__all__ = ["AttentionServer", "Client", "Limits", "ModelInfo"]

_HOMES = {
    "AttentionServer": "server.server",
    "Client": "client",
    "Limits": "limits",
    "ModelInfo": "contract.model_info",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
