"""The gRPC server of this process."""

from concurrent.futures import ThreadPoolExecutor
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection as grpc_reflection
from prometheus_client import CollectorRegistry

from attention_patterns import PatternClassifier
from attention_patterns.errors import ServerError
from attention_patterns_service.limits import Limits
from attention_patterns_service.server.access import Access, Open
from attention_patterns_service.server.gate import Gate, ReflectionGuard
from attention_patterns_service.server.handlers import Bookkeeping
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.methods import SERVICE, AttentionPatternService
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.open_inference.methods import SERVICE as INFERENCE
from attention_patterns_service.server.open_inference.methods import OpenInference
from attention_patterns_service.server.pipeline import Pipeline
from attention_patterns_service.server.traces import load_tracing
from attention_patterns_service.server.watchdog import Watchdog

_CONNECTIONS = [
    ("grpc.keepalive_time_ms", 60_000),  # a connection whose other end is gone is noticed
    ("grpc.keepalive_permit_without_calls", 1),  # also where it has no call
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # and clients may ask as well: most do not before 10 s
    ("grpc.max_concurrent_streams", 100),  # per connection: more wait at the client, and floods of resets are cut off
    ("grpc.max_connection_age_ms", 600_000),  # clients connect anew at times, and find servers that were added
]
_SPARE_THREADS = 4  # for health and reflection, which must not wait for calls in flight


class AttentionServer:
    """A server in this process; as a context manager it is started and stopped.

    Attributes:
        endpoint: "host:port" that the server is bound to.
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
        credentials: grpc.ServerCredentials | None = None,
        reflection: bool = False,
        shared_port: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        """Binds the address; ``start`` serves.

        Args:
            classifier: Classifier that answers the calls.
            host: Interface to bind.
            port: Port to bind; 0 takes a free one, which ``endpoint`` names.
            limits: Limits of requests and of the load.
            access: Decides who may call; everyone by default.
            credentials: Credentials for TLS; without them nothing is encrypted.
            reflection: Whether the server describes its methods to those who may call.
            shared_port: Whether other processes may bind the port as well, and share its connections.
            metrics: Figures to keep; new ones by default.

        Raises:
            ServerError: The address cannot be bound.
            MissingExtraError: Traces are asked for and their extra is not installed.
        """
        limits, access = limits or Limits(), access or Open()
        self.metrics = metrics or Metrics(CollectorRegistry())
        self.load = Load(limits, self.metrics.set_load)
        self._pipeline = Pipeline(classifier, self.load, self.metrics)
        self._watchdog = Watchdog(limits.seconds)
        self.replace(classifier)
        methods = AttentionPatternService(self._pipeline, access).methods() | OpenInference(self._pipeline).methods()
        books = Bookkeeping(self.load, self.metrics, self._watchdog, load_tracing())
        self._server = grpc.server(
            ThreadPoolExecutor(limits.calls + _SPARE_THREADS, thread_name_prefix="rpc"),
            handlers=[Gate(methods, access=access, books=books)],
            interceptors=[ReflectionGuard(access)],
            options=[
                ("grpc.max_receive_message_length", limits.message_bytes),
                *_CONNECTIONS,
                ("grpc.so_reuseport", int(shared_port)),  # 0: a taken port is an error, not a second server beside it
            ],
        )
        self._health = health.HealthServicer(experimental_non_blocking=True)  # watchers hold no thread
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflection:
            names = (SERVICE, INFERENCE, health.SERVICE_NAME, grpc_reflection.SERVICE_NAME)
            grpc_reflection.enable_server_reflection(names, self._server)
        self.endpoint = f"{host}:{self._bind(f'{host}:{port}', credentials)}"

    def replace(self, classifier: PatternClassifier) -> None:
        """Has ``classifier`` answer from now on; requests in flight keep the one they began with."""
        self._pipeline.classifier = classifier
        self.metrics.set_model(classifier.bundle)

    def start(self) -> None:
        """Serves until ``stop``."""
        self._watchdog.start()
        self._server.start()
        for name in ("", SERVICE, INFERENCE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, *, grace: float | None = None) -> None:
        """Reports NOT_SERVING, refuses new calls, and ends those that are in flight after ``grace`` seconds."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()
        self._watchdog.stop()

    def __enter__(self) -> Self:
        """Starts the server."""
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the server at once."""
        self.stop()

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Binds an address and returns its port."""
        try:
            if credentials:
                return self._server.add_secure_port(address, credentials)
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServerError(f"{address} cannot be bound: {error}") from error
