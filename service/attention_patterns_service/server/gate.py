"""The gate of the server: it lets a call in or refuses it as soon as it comes, before any message of it is read."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from attention_patterns_service.contract.errors import Failure, attempt, status_of
from attention_patterns_service.server.handlers import Desk, Method, StreamHandler, UnaryHandler
from attention_patterns_service.server.logs import log_refusal

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
else:
    _Handler = grpc.RpcMethodHandler


class Gate(grpc.GenericRpcHandler):
    """The gate that every call passes but those of health: whoever watches the server must see it."""

    def __init__(self, methods: Mapping[str, Method], *, desk: Desk, refusers: ThreadPoolExecutor) -> None:
        """Serves ``methods``, each under its full name; ``refusers`` do nothing but refuse, so that none waits."""
        self._methods = methods
        self._desk = desk
        self._refusers = refusers

    def service(self, details: grpc.HandlerCallDetails) -> _Handler | None:
        """Returns the handler of a call; None for a method that is not among the server's own."""
        method = self._methods.get(details.method)
        if method is None:
            return None
        name = details.method.rpartition("/")[2]
        token = attempt(lambda: self._let_in(method, details.invocation_metadata))
        if isinstance(token, Failure):
            self._desk.metrics.count_refusal(name, token)
            return self._refusal(name, token)
        if method.refuse:
            return grpc.stream_stream_rpc_method_handler(StreamHandler(method, name=name, token=token, desk=self._desk))
        return grpc.stream_unary_rpc_method_handler(UnaryHandler(method, name=name, token=token, desk=self._desk))

    def _let_in(self, method: Method, metadata: Any) -> str:
        """Counts the call in and returns the name of its token; each message of a stream is charged when it comes."""
        token = self._desk.access.identify(metadata)
        if method.refuse is None:
            self._desk.access.charge(token)
        self._desk.load.accept(token)
        return token

    def _refusal(self, name: str, failure: Failure) -> _Handler:
        """Returns a handler that refuses a call without reading a message."""

        def refuse(_messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            log_refusal(name, failure, peer=str(context.peer()))
            context.abort_with_status(status_of(failure))
            return b""

        refuse.experimental_thread_pool = self._refusers  # type: ignore[attr-defined] # grpc looks for it there
        return grpc.stream_unary_rpc_method_handler(refuse)
