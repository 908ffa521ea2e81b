"""Health, as grpc.health.v1 describes it, which answers whatever else the server has to do.

The servicer of grpcio-health-checking holds a lock while it sends, and takes the same lock in gRPC's own thread when a
watcher leaves: a server with watchers that come and go would at some time stand still.
"""

from collections.abc import Callable, Iterator, Sequence
from threading import Event, Semaphore
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

from attention_patterns.errors import AbandonedError, MessageError, OverloadedError
from attention_patterns_service.contract.errors import Failure, attempt, status_of
from attention_patterns_service.contract.wire import read_small
from attention_patterns_service.limits import HEALTH_CALLS
from attention_patterns_service.server.address import Address
from attention_patterns_service.server.threads import start_pool
from attention_patterns_service.server.watchdog import Watchdog

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
else:
    _Handler = grpc.RpcMethodHandler

NAME = "grpc.health.v1.Health"
WATCHERS = 64  # calls of Watch, each of which holds a thread
_PATIENCE = 0.5  # seconds in which a message has to come: one that says nothing makes way for others
_SPARE = 8
_Status = health_pb2.HealthCheckResponse


class Health(grpc.GenericRpcHandler):
    """The health of services, all of which serve or none, for any caller: whoever watches the server must see it.

    Attributes:
        pool: Threads that answer.
    """

    def __init__(self, *services: str) -> None:
        """Reports NOT_SERVING for these services, and for "", the server, until it is told otherwise."""
        self._services = {"", *services}
        self._status = _Status.NOT_SERVING
        self._reading = Semaphore(HEALTH_CALLS)
        self._watchdog = Watchdog(_PATIENCE, on_death=lambda: None)
        self._watchdog.start()
        self._watchers: set[Event] = set()
        self.pool = start_pool(WATCHERS + HEALTH_CALLS + _SPARE, "health")
        check, watch = self._check, self._watch
        self._handlers: dict[str, _Handler] = {
            f"/{NAME}/Check": grpc.stream_unary_rpc_method_handler(self._on_own_threads(check)),
            f"/{NAME}/Watch": grpc.stream_stream_rpc_method_handler(self._on_own_threads(watch)),
        }

    def service(self, details: grpc.HandlerCallDetails) -> _Handler | None:
        """Returns the handler of a call; None for a method of another service."""
        return self._handlers.get(details.method)

    def report(self, *, serving: bool) -> None:
        """Reports whether the services serve from now on, to watchers too."""
        self._status = _Status.SERVING if serving else _Status.NOT_SERVING
        for watcher in list(self._watchers):
            watcher.set()

    def close(self) -> None:
        """Lets the threads go, once the server has stopped."""
        self._watchdog.stop()
        self.pool.shutdown(wait=False)

    def _on_own_threads(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        def behavior(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            return answer(messages, context)

        behavior.experimental_thread_pool = self.pool  # type: ignore[attr-defined] # grpc looks for it there
        return behavior

    def _read(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> str:
        """Returns the name of the service that a call asks for."""
        try:
            with self._reading, self._watchdog.waiting(context):
                message = next(messages, None)
        except grpc.RpcError as error:
            raise AbandonedError("the call ended before its message came") from error
        if message is None:
            raise MessageError("the call holds no message, expected one")
        return str(read_small(health_pb2.HealthCheckRequest, message).service)

    def _check(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        service = _or_abort(context, lambda: self._read(messages, context))
        if service not in self._services:
            context.abort(grpc.StatusCode.NOT_FOUND, f"service {service!r:.80} is not known")
        return _write(self._status)

    def _watch(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        service = _or_abort(context, lambda: self._read(messages, context))
        changed = Event()
        if len(self._watchers) >= WATCHERS:
            refused = OverloadedError(f"{WATCHERS} calls watch the health, the server takes no more; use Check")
            _or_abort(context, lambda: _raise(refused))
        self._watchers.add(changed)
        try:
            context.add_callback(changed.set)
            told: int | None = None
            while context.is_active():
                status = self._status if service in self._services else _Status.SERVICE_UNKNOWN
                if status != told:
                    yield _write(status)
                    told = status
                changed.wait()
                changed.clear()
        finally:
            self._watchers.discard(changed)


class HealthPort:
    """A port that answers health checks alone, for probes that speak no TLS and have no certificate.

    It has threads of its own: callers of the other port, whatever they do, keep no probe waiting.
    """

    def __init__(self, address: Address, *services: str, options: Sequence[tuple[str, int]]) -> None:
        """Binds ``address``, to report on ``services``.

        Raises:
            ServerError: The address cannot be bound, or the threads cannot be started.
        """
        self._health = Health(*services)
        limits = [("grpc.max_receive_message_length", 4096), *options]
        self._server = grpc.server(self._health.pool, handlers=[self._health], options=limits)
        address.bind_to(self._server, None)

    def start(self) -> None:
        """Serves until ``stop``."""
        self._server.start()

    def report(self, *, serving: bool) -> None:
        """Reports whether the services serve from now on."""
        self._health.report(serving=serving)

    def stop(self) -> None:
        """Stops at once."""
        self._server.stop(None)
        self._health.close()


def _or_abort(context: grpc.ServicerContext, work: Callable[[], str]) -> str:
    """Returns the result of ``work``, or ends the call with its failure."""
    outcome = attempt(work)
    if isinstance(outcome, Failure):
        context.abort_with_status(status_of(outcome))
    return str(outcome)


def _raise(error: Exception) -> str:
    raise error


def _write(status: int) -> bytes:
    message: bytes = _Status(status=status).SerializeToString()
    return message
