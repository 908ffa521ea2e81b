"""The way of every call of ours through the server: let in or refused, read, answered, and told of."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import grpc

from attention_patterns.errors import AbandonedError, MessageError
from attention_patterns_service.contract.errors import Failure, attempt, status_of
from attention_patterns_service.server.access import Access
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.logs import log_call
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.streams import in_order
from attention_patterns_service.server.traces import Trace
from attention_patterns_service.server.watchdog import Watchdog

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
else:
    _Handler = grpc.RpcMethodHandler
_REFUSING = ThreadPoolExecutor(2, thread_name_prefix="refuse")  # threads that only say no, so that a no never waits


@dataclass(frozen=True)
class Door:
    """A method of the server: what answers one message, and whether a call may hold many."""

    answer: Callable[[bytes, Call], bytes]
    streaming: bool = False


class Gate(grpc.GenericRpcHandler):
    """Finds the handler of a call as soon as it comes, before any message of it is read.

    Handlers take a stream of requests, also where the client sends a single one, which is the same on the wire. Only so
    a message is read no sooner than a thread is there for it, and a call that is cancelled first is still counted out.
    """

    def __init__(
        self,
        doors: dict[str, Door],
        *,
        access: Access,
        load: Load,
        metrics: Metrics,
        watchdog: Watchdog,
        trace: Trace | None,
    ) -> None:
        """Serves ``doors``, each by the full name of its method."""
        self._doors = doors
        self._access = access
        self._load = load
        self._metrics = metrics
        self._watchdog = watchdog
        self._trace = trace

    def service(self, details: grpc.HandlerCallDetails) -> _Handler | None:
        """The handler of a call; none for a method that is not ours."""
        door = self._doors.get(details.method)
        if door is None:
            return None
        name = details.method.rpartition("/")[2]
        caller = attempt(lambda: self._let_in(details.invocation_metadata))
        if isinstance(caller, Failure):
            self._metrics.refused(name, caller)
            return _refusal(caller)

        def unary(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            call = Call(context, method=name, caller=caller, seconds=self._load.limits.seconds)
            ends = count()  # of the work and of the call, in either order

            def over() -> None:  # the answer was taken, or nobody wants it
                self._watchdog.forget(context)
                if next(ends):
                    self._load.done()

            if not context.add_callback(over):
                over()
            outcome = attempt(lambda: self._answer(door, self._message(requests, context), call))
            failure = outcome if isinstance(outcome, Failure) else None
            self._end(call, failure)
            if next(ends):
                self._load.done()
            else:
                self._watchdog.watch(context)
                if not context.is_active():  # it ended in between
                    self._watchdog.forget(context)
            if failure:
                context.abort_with_status(status_of(failure))
            return cast("bytes", outcome)

        def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            call = Call(context, method=name, caller=caller, seconds=self._load.limits.seconds)
            failure: Failure | None = None
            answers = in_order(
                lambda data: self._answer(door, data, call), requests, idle_seconds=self._load.limits.idle_seconds
            )
            try:
                while (outcome := attempt(lambda: next(answers, None))) is not None:
                    if isinstance(outcome, Failure):
                        failure = outcome
                        break
                    with self._watchdog.waiting(context):
                        yield outcome
            finally:
                answers.close()
                self._load.done()
                self._end(call, failure)
            if failure:
                context.abort_with_status(status_of(failure))

        if door.streaming:
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.stream_unary_rpc_method_handler(unary)

    def _let_in(self, metadata: Any) -> str:
        caller = self._access.admit(metadata)
        self._load.accept()
        return caller

    def _message(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """The message of a call that has one."""
        try:
            with self._watchdog.waiting(context):
                data = next(requests, None)
        except grpc.RpcError as error:
            raise AbandonedError("the call ended before its message came") from error
        if data is None:
            raise MessageError("the call holds no message, expected one")
        return data

    def _answer(self, door: Door, data: bytes, call: Call) -> bytes:
        call.received += len(data)
        answer = door.answer(data, call)
        call.sent += len(answer)
        return answer

    def _end(self, call: Call, failure: Failure | None) -> None:
        self._metrics.ended(call, failure)
        log_call(call, failure)
        if self._trace:
            self._trace(call, failure, call.metadata)


class Guard(grpc.ServerInterceptor):
    """Asks for a token where a method is not ours, health excepted, which whoever watches the server must see."""

    def __init__(self, access: Access) -> None:
        """Asks ``access``."""
        self._access = access

    def intercept_service(
        self, continuation: Callable[..., _Handler | None], details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """The handler, or one that says no."""
        if not details.method.startswith("/grpc.reflection."):
            return continuation(details)
        caller = attempt(lambda: self._access.admit(details.invocation_metadata))
        return _refusal(caller) if isinstance(caller, Failure) else continuation(details)


def _refusal(failure: Failure) -> _Handler:
    """A handler that says no without reading a request."""

    def refuse(_requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(status_of(failure))
        return b""

    refuse.experimental_thread_pool = _REFUSING  # type: ignore[attr-defined] # how grpc is told
    return grpc.stream_unary_rpc_method_handler(refuse)
