"""Calls to a server as bytes, below the client: messages, methods, and streams that stay open."""

import threading

from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns_service.contract.converters import HEADS, declared_request, request_of
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from attention_patterns_service.server.methods import SERVICE


def method_of(channel, name="ClassifyHeads", kind="unary_unary"):
    """Returns a method that takes and gives bytes."""
    return getattr(channel, kind)(f"/{SERVICE}/{name}")


def message_of(maps):
    """Returns the message that asks to classify maps."""
    attention = read_attention(maps, None)
    declared = declared_request(read_declaration(attention.length), length=attention.length)
    return HEADS.write(request_of(attention, declared))


class HeldStreams:
    """Streams that stay open inside the context; each has been answered once."""

    def __init__(self, channel, count, metadata=None):
        """Opens the streams and waits for their answers."""
        self._let_go = threading.Event()
        stub = AttentionPatternServiceStub(channel)
        self.calls = [stub.StreamClassifyHeads(self._requests(), metadata=metadata) for _ in range(count)]
        for call in self.calls:
            next(call)

    def _requests(self):
        yield pb.StreamClassifyHeadsRequest()
        self._let_go.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._let_go.set()
        for call in self.calls:
            list(call)
