"""The gRPC server of the classifier, and its client; each is loaded when it is first used.

client.py      the client: the library's calls, answered by a server
connection.py  the connection of a client: options, address, advice where it fails
retries.py     calls that are repeated while the server is away or busy
limits.py      the limits of a server, and the checks against them
contract/      messages and the library's types, translated both ways
server/        the server
command/       the ``attention-serve`` command
pb/            code generated from the contract
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
    from attention_patterns.programs.extras import name_missing_extra  # noqa: PLC0415  a health check needs no library

    with name_missing_extra("service", needed_by=__name__):
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
