"""The gate of the server: it lets a call in or refuses it as soon as it comes, before any message of it is read."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from attention_patterns_service.contract.errors import Failure, attempt, status_of
from attention_patterns_service.server.access import Access
from attention_patterns_service.server.handlers import Bookkeeping, Method, StreamHandler, UnaryHandler

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
else:
    _Handler = grpc.RpcMethodHandler
_REFUSERS = ThreadPoolExecutor(2, thread_name_prefix="refuse")  # they do nothing else, so that a refusal never waits


class Gate(grpc.GenericRpcHandler):
    """The gate that every call of the server's own methods passes."""

    def __init__(self, methods: Mapping[str, Method], *, access: Access, books: Bookkeeping) -> None:
        """Serves ``methods``, each under its full name."""
        self._methods = methods
        self._access = access
        self._books = books

    def service(self, details: grpc.HandlerCallDetails) -> _Handler | None:
        """Returns the handler of a call; None for a method that is not among the server's own."""
        method = self._methods.get(details.method)
        if method is None:
            return None
        name = details.method.rpartition("/")[2]
        caller = attempt(lambda: self._let_in(details.invocation_metadata))
        if isinstance(caller, Failure):
            self._books.metrics.count_refusal(name, caller)
            return _refusal(caller)
        if method.streaming:
            stream = StreamHandler(method, name=name, caller=caller, books=self._books)
            return grpc.stream_stream_rpc_method_handler(stream)
        unary = UnaryHandler(method, name=name, caller=caller, books=self._books)
        return grpc.stream_unary_rpc_method_handler(unary)

    def _let_in(self, metadata: Any) -> str:
        """Counts the call in and returns the name of its caller."""
        caller = self._access.admit(metadata)
        self._books.load.accept()
        return caller


class ReflectionGuard(grpc.ServerInterceptor):
    """An interceptor that asks for a token before the methods are described.

    Health stays open: whoever watches the server must see it.
    """

    def __init__(self, access: Access) -> None:
        """Asks ``access``."""
        self._access = access

    def intercept_service(
        self, continuation: Callable[..., _Handler | None], details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Returns the handler of a call, or one that refuses it."""
        if not details.method.startswith("/grpc.reflection."):
            return continuation(details)
        caller = attempt(lambda: self._access.admit(details.invocation_metadata))
        return _refusal(caller) if isinstance(caller, Failure) else continuation(details)


def _refusal(failure: Failure) -> _Handler:
    """Returns a handler that refuses a call without reading a message."""

    def refuse(_messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(status_of(failure))
        return b""

    refuse.experimental_thread_pool = _REFUSERS  # type: ignore[attr-defined] # grpc looks for it there
    return grpc.stream_unary_rpc_method_handler(refuse)
