"""The gRPC server of this process."""

from concurrent.futures import ThreadPoolExecutor
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection as reflecting
from prometheus_client import CollectorRegistry

from attention_patterns import PatternClassifier
from attention_patterns.errors import ServerError
from attention_patterns_service.limits import Limits
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.server.access import Access, Open
from attention_patterns_service.server.gate import Door, Gate, Guard
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.methods import Methods
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.open_inference.methods import SERVICE as INFERENCE
from attention_patterns_service.server.open_inference.methods import OpenInference
from attention_patterns_service.server.traces import tracing
from attention_patterns_service.server.watchdog import Watchdog

SERVICE = pb.DESCRIPTOR.services_by_name["AttentionPatternService"].full_name
_CONNECTIONS = [
    ("grpc.keepalive_time_ms", 60_000),  # a connection whose other end is gone is noticed
    ("grpc.keepalive_permit_without_calls", 1),  # also where it has no call
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),  # and clients may ask as well
    ("grpc.max_concurrent_streams", 100),  # of a connection: more wait at the client, and floods of resets are cut off
    ("grpc.max_connection_age_ms", 600_000),  # clients connect anew at times, and find servers that were added
]
_SPARE_THREADS = 4  # for health and reflection, which must not wait for calls under way


class AttentionServer:
    """A server in this process; as a context manager it is started and stopped."""

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
        """Binds, and does not serve yet.

        Args:
            classifier: answers the calls.
            host: the interface to bind.
            port: 0 takes a free one, which ``endpoint`` names.
            limits: what is taken on at a time.
            access: who may call; everyone by default.
            credentials: for TLS; without them what travels can be read on the way.
            reflection: whether the server describes its methods to those who may call.
            shared_port: whether other processes may bind the port as well, and share its connections.
            metrics: where figures are kept.

        Raises:
            ServerError: the address cannot be bound.
        """
        limits, access = limits or Limits(), access or Open()
        self.metrics = metrics or Metrics(CollectorRegistry())
        self.load = Load(limits, self.metrics.under_way)
        self._methods = Methods(classifier, self.load, self.metrics)
        self._watchdog = Watchdog(limits.seconds)
        self.replace(classifier)
        doors = {
            "ClassifyHeads": Door(self._methods.classify_heads),
            "StreamClassifyHeads": Door(self._methods.classify_streamed, streaming=True),
            "ClassifyImages": Door(self._methods.classify_images),
            "GetModel": Door(self._methods.get_model),
        }
        inference = OpenInference(lambda: self._methods.classifier, self.load, self.metrics)
        gate = Gate(
            {f"/{SERVICE}/{name}": door for name, door in doors.items()} | inference.doors(),
            access=access,
            load=self.load,
            metrics=self.metrics,
            watchdog=self._watchdog,
            trace=tracing(),
        )
        self._server = grpc.server(
            ThreadPoolExecutor(limits.calls + _SPARE_THREADS, thread_name_prefix="rpc"),
            handlers=[gate],
            interceptors=[Guard(access)],
            options=[
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_send_message_length", -1),
                *_CONNECTIONS,
                ("grpc.so_reuseport", int(shared_port)),  # 0: a taken port is an error, not a second server beside it
            ],
        )
        self._health = health.HealthServicer(experimental_non_blocking=True)  # watchers hold no thread
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflection:
            names = (SERVICE, INFERENCE, health.SERVICE_NAME, reflecting.SERVICE_NAME)
            reflecting.enable_server_reflection(names, self._server)
        address = f"{host}:{port}"
        try:
            if credentials:
                bound = self._server.add_secure_port(address, credentials)
            else:
                bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServerError(f"{address} cannot be bound: {error}") from error
        self.endpoint = f"{host}:{bound}"

    def replace(self, classifier: PatternClassifier) -> None:
        """Has ``classifier`` answer from now on; requests under way keep the one they began with."""
        self._methods.classifier = classifier
        self.metrics.loaded(classifier.bundle)

    def start(self) -> None:
        """Serves until ``stop``."""
        self._watchdog.start()
        self._server.start()
        for name in ("", SERVICE, INFERENCE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, *, grace: float | None = None) -> None:
        """Reports NOT_SERVING, refuses new calls, and returns when those in flight are done or ``grace`` s are over."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()
        self._watchdog.stop()

    def __enter__(self) -> Self:
        """Starts."""
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops at once."""
        self.stop()
