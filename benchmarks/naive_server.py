"""Serves as generated code does: the whole message is parsed, and its bytes are copied at each access.

``python -m benchmarks.naive_server`` prints its endpoint and serves until its standard input ends.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from attention_patterns import PatternClassifier
from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns_service.contract.converters import response_of
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2_grpc as pb_grpc


class Servicer(pb_grpc.AttentionPatternServiceServicer):
    """The method ClassifyHeads, for float32 tensors without declarations."""

    def __init__(self) -> None:
        self._classifier = PatternClassifier.load()

    def ClassifyHeads(  # noqa: N802  gRPC's name
        self,
        request: pb.ClassifyHeadsRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.ClassifyHeadsResponse:
        """Classifies the heads of one input."""
        shape = list(request.attention.shape)
        maps = read_attention(np.frombuffer(request.attention.data, np.float32).reshape(shape), None)
        result = self._classifier.classify_read(maps, read_declaration(maps.length))
        return response_of(result, maps=maps, bundle=self._classifier.bundle, request_id=request.request_id)


def main() -> None:
    """Serves until the standard input ends."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(8), options=unlimited)
    pb_grpc.add_AttentionPatternServiceServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call] # generated
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)  # noqa: T201  read by who started it
    server.start()
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    main()
