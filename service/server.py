"""The gRPC server: one classifier behind ``AttentionPatternService``, with health and reflection."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Queue
from threading import Thread
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from classifier import PatternClassifier
from classifier.errors import ServerError
from service.converters import declaration_of, maps_of, model_response_of, response_of, stream_response_of
from service.errors import Failure, attempt, status_of
from service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from service.pb.attention_patterns.v1 import attention_patterns_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["AttentionPatternService"].full_name
MAX_MESSAGE_BYTES = 256 << 20
THREADS = 16  # calls answered at a time; an open stream holds one
READ_AHEAD = 2  # requests of a stream that are classified while their answers' turn comes

_Request = pb.StreamClassifyHeadsRequest
_Response = pb.StreamClassifyHeadsResponse


class AttentionPatternServicer(pb_grpc.AttentionPatternServiceServicer):
    """The RPC methods; all they do is translate and hand over."""

    def __init__(self, classifier: PatternClassifier, *, max_message_bytes: int) -> None:
        """Serves ``classifier``; ``max_message_bytes`` is what clients are told."""
        self._classifier = classifier
        self._model = model_response_of(classifier.bundle, max_message_bytes=max_message_bytes)

    def ClassifyHeads(  # noqa: N802
        self, request: pb.ClassifyHeadsRequest, context: grpc.ServicerContext
    ) -> pb.ClassifyHeadsResponse:
        """Classifies the heads of one input."""
        outcome = attempt(lambda: self._classify(request))
        if isinstance(outcome, Failure):
            context.abort_with_status(status_of(outcome))
        return outcome

    def StreamClassifyHeads(  # noqa: N802
        self,
        request_iterator: Iterator[_Request],
        context: grpc.ServicerContext,  # noqa: ARG002  as gRPC calls it
    ) -> Iterator[_Response]:
        """Answers each request of a stream, in order."""
        return in_order(self._answer, request_iterator)

    def GetModel(  # noqa: N802
        self,
        request: pb.GetModelRequest,  # noqa: ARG002  as gRPC calls it
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.GetModelResponse:
        """Describes the model."""
        return self._model

    def _classify(self, request: pb.ClassifyHeadsRequest) -> pb.ClassifyHeadsResponse:
        maps = maps_of(request)
        result = self._classifier.classify_read(maps, declaration_of(request, maps.length))
        return response_of(result, maps=maps, bundle=self._classifier.bundle, request_id=request.request_id)

    def _answer(self, message: _Request) -> _Response:
        return stream_response_of(message.request, attempt(lambda: self._classify(message.request)))


def in_order(answer: Callable[[_Request], _Response], requests: Iterator[_Request]) -> Iterator[_Response]:
    """Yields the answers in the order of the requests, reading and answering a few ahead.

    A thread of its own reads, so that no answer waits for the request after it.
    """
    pending: Queue[Future[_Response] | None] = Queue(READ_AHEAD)

    def read() -> None:
        with suppress(grpc.RpcError):  # the call was cancelled
            for request in requests:
                pending.put(pool.submit(answer, request))
        pending.put(None)

    with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="stream") as pool:
        Thread(target=read, name="stream-reader", daemon=True).start()
        future = pending.get()
        try:
            while future is not None:
                yield future.result()
                future = pending.get()
        finally:
            while future is not None:  # nobody listens any more: let the reader come to its end
                future = pending.get()


class AttentionServer:
    """A server in this process; as a context manager it is started and stopped."""

    def __init__(
        self,
        classifier: PatternClassifier,
        *,
        host: str = "127.0.0.1",
        port: int = 50051,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        threads: int = THREADS,
    ) -> None:
        """Binds, and does not serve yet.

        Args:
            classifier: answers the calls.
            host: the interface to bind.
            port: 0 takes a free one, which ``endpoint`` names.
            max_message_bytes: largest message taken.
            threads: calls answered at a time; an open stream holds one.

        Raises:
            ServerError: the address cannot be bound.
        """
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server beside the first
            ],
        )
        self._health = health.HealthServicer()
        servicer = AttentionPatternServicer(classifier, max_message_bytes=max_message_bytes)
        pb_grpc.add_AttentionPatternServiceServicer_to_server(  # type: ignore[no-untyped-call] # generated code
            servicer, self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise ServerError(f"{host}:{port} cannot be bound: {error}") from error
        self.endpoint = f"{host}:{bound}"

    def start(self) -> None:
        """Serves until ``stop``."""
        self._server.start()
        for name in ("", SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, *, grace: float | None = None) -> None:
        """Reports NOT_SERVING, refuses new calls, and returns when those in flight are done or ``grace`` s are over."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()

    def __enter__(self) -> Self:
        """Starts."""
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops at once."""
        self.stop()
