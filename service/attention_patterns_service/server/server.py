"""The gRPC server of this process."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import grpc
from prometheus_client import CollectorRegistry

from attention_patterns import PatternClassifier
from attention_patterns_service.limits import Limits
from attention_patterns_service.server.access import Access, Open
from attention_patterns_service.server.address import Address
from attention_patterns_service.server.client_names import ClientNames
from attention_patterns_service.server.gate import Gate
from attention_patterns_service.server.handlers import Desk
from attention_patterns_service.server.health import Health, HealthPort
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.methods import SERVICE, AttentionPatternService
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.open_inference.methods import SERVICE as INFERENCE
from attention_patterns_service.server.open_inference.methods import OpenInference
from attention_patterns_service.server.pipeline import Pipeline
from attention_patterns_service.server.reflection import Reflection
from attention_patterns_service.server.threads import start_pool
from attention_patterns_service.server.traces import load_tracing
from attention_patterns_service.server.watchdog import Watchdog

_CONNECTIONS = [
    ("grpc.keepalive_time_ms", 60_000),  # a connection whose other end is gone is noticed
    ("grpc.keepalive_permit_without_calls", 1),  # also where it has no call
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # and clients may ask as well: most do not before 10 s
    ("grpc.max_concurrent_streams", 100),  # per connection: more wait at the client, and floods of resets are cut off
    ("grpc.server_handshake_timeout_ms", 20_000),  # a connection that says nothing gives its place back
    ("grpc.max_connection_age_ms", 600_000),  # clients connect anew at times, and find servers that were added
]
_SPARE_THREADS = 4  # for calls that begin while others, which ended, leave their threads
_REFUSERS = 2  # threads
_SERVING = "(_serve)"  # at the end of the name of gRPC's own thread


class AttentionServer:
    """A server in this process; as a context manager it is started and stopped.

    Attributes:
        endpoint: Address that the server is bound to, as clients dial it: "host:port" or "unix:PATH".
        load: Calls and bytes in flight.
        metrics: Figures of the server.
    """

    def __init__(
        self,
        classifier: PatternClassifier,
        *,
        host: str = "127.0.0.1",
        port: int = 50051,
        limits: Limits | None = None,
        access: Access | None = None,
        client_names: ClientNames | None = None,
        credentials: grpc.ServerCredentials | None = None,
        health_address: Address | None = None,
        reflection: bool = False,
        shared_port: bool = False,
        metrics: Metrics | None = None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        """Binds the address; ``start`` serves.

        Args:
            classifier: Classifier that answers the calls.
            host: Interface to bind, or "unix:PATH" for a socket file.
            port: Port to bind; 0 takes a free one, which ``endpoint`` names.
            limits: Limits of requests and of the load.
            access: Decides who may call; everyone by default.
            client_names: Decides who may call by the names in their certificates; everyone by default.
            credentials: Credentials for TLS; without them nothing is encrypted.
            health_address: Address that answers health checks alone, never encrypted; None for none.
            reflection: Whether the server describes its methods to those who may call.
            shared_port: Whether other processes may bind the port as well, and share its connections.
            metrics: Figures to keep; new ones by default.
            on_death: Called once gRPC's own thread has died, after which no call is answered.

        Raises:
            ServerError: The address cannot be bound, or the threads cannot be started.
            MissingExtraError: Traces are asked for and their extra is not installed.
        """
        limits, access = limits or Limits(), access or Open()
        self.metrics = metrics or Metrics(CollectorRegistry())
        self.load = Load(limits, self.metrics.set_load)
        self._pipeline = Pipeline(classifier, self.load, self.metrics)
        self._watchdog = Watchdog(limits.seconds, on_death=on_death)
        self.replace(classifier)
        methods = AttentionPatternService(self._pipeline, access).methods() | OpenInference(self._pipeline).methods()
        if reflection:
            methods |= Reflection(SERVICE, INFERENCE).methods()
        trace = load_tracing()
        self._pools = {
            "rpc": start_pool(limits.calls + _SPARE_THREADS, "rpc"),
            "read": start_pool(limits.calls + _SPARE_THREADS, "read"),
            "refuse": start_pool(_REFUSERS, "refuse"),
        }
        desk = Desk(
            access, client_names or ClientNames(), self.load, self.metrics, self._watchdog, trace, self._pools["read"]
        )
        self._health = Health(SERVICE, INFERENCE)
        self._server = grpc.server(
            self._pools["rpc"],
            handlers=[self._health, Gate(methods, desk=desk, refusers=self._pools["refuse"])],
            options=[
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_allowed_incoming_connections", limits.connections),  # more are closed at once
                *_CONNECTIONS,
                ("grpc.so_reuseport", int(shared_port)),  # 0: a taken port is an error, not a second server beside it
            ],
        )
        address = Address(host, port)
        if not shared_port:
            address.check_free()
        self.endpoint = str(replace(address, port=address.bind_to(self._server, credentials)))
        services = (SERVICE, INFERENCE)
        self._health_port = HealthPort(health_address, *services, options=_CONNECTIONS) if health_address else None

    def replace(self, classifier: PatternClassifier) -> None:
        """Has ``classifier`` answer from now on; requests in flight keep the one they began with."""
        self._pipeline.classifier = classifier
        self.metrics.set_model(classifier.bundle)

    def start(self) -> None:
        """Serves until ``stop``."""
        before = set(threading.enumerate())
        self._server.start()
        if self._health_port:
            self._health_port.start()
        self._watchdog.guard([t for t in threading.enumerate() if t not in before and t.name.endswith(_SERVING)])
        self._watchdog.start()
        self._report(serving=True)

    def stop(self, *, grace: float | None = None) -> None:
        """Reports NOT_SERVING, refuses new calls, and ends those that are in flight after ``grace`` seconds."""
        self._report(serving=False)
        self._watchdog.guard(())
        self._server.stop(grace).wait()
        if self._health_port:
            self._health_port.stop()
        self._watchdog.stop()
        for pool in self._pools.values():
            pool.shutdown(wait=False)
        self._health.close()

    def __enter__(self) -> Self:
        """Starts the server."""
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the server at once."""
        self.stop()

    def _report(self, *, serving: bool) -> None:
        self._health.report(serving=serving)
        if self._health_port:
            self._health_port.report(serving=serving)
