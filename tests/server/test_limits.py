import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client, Limits
from attention_patterns_service.contract.converters import (
    HEADS,
    IMAGES,
    declared_request,
    images_request_of,
    request_of,
)
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal


def method(channel, name="ClassifyHeads", kind="unary_unary"):
    """A method as raw bytes."""
    return getattr(channel, kind)(f"/attention_patterns.v1.AttentionPatternService/{name}")


def message_of(maps):
    from attention_patterns.attention_map import read_attention, read_declaration  # noqa: PLC0415

    read = read_attention(maps, None)
    return HEADS.write(request_of(read, declared_request(read_declaration(read.length), length=read.length)))


def reason(error):
    (info,) = [value for key, value in error.value.trailing_metadata() if key == "grpc-status-details-bin"]
    return info


class Held:
    """Open streams, each of which has been answered once."""

    def __init__(self, channel, count):
        self.let_go = threading.Event()
        stub = AttentionPatternServiceStub(channel)
        self.calls = [stub.StreamClassifyHeads(self._requests()) for _ in range(count)]
        for call in self.calls:
            next(call)

    def _requests(self):
        yield pb.StreamClassifyHeadsRequest()
        self.let_go.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.let_go.set()
        for call in self.calls:
            list(call)


def test_calls_over_the_limit_are_refused_at_once_and_health_is_not(classifier):
    with (
        AttentionServer(classifier, port=0, limits=Limits(calls=2, idle_seconds=20)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        Client(server.endpoint) as client,
    ):
        with Held(channel, 2):
            with pytest.raises(errors.OverloadedError, match="2 calls are in flight, the server takes 2"):
                client.model()
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for _ in range(5):
            assert client.classify(random_maps(9, 9)).length == 9  # what ended was counted out


def test_calls_that_are_cancelled_are_counted_out(classifier):
    with (
        AttentionServer(classifier, port=0, limits=Limits(calls=2, idle_seconds=20)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        for _ in range(20):
            call = method(channel, "StreamClassifyHeads", "stream_stream")(iter([b""]))
            next(call)
            call.cancel()
            deadline = time.monotonic() + 30
            while server.load.calls and time.monotonic() < deadline:
                time.sleep(0.005)
        assert server.load.calls == server.load.bytes == 0


def test_bytes_over_the_limit_are_refused(classifier):
    large, small = message_of(random_maps(6, 4, 100, 100)), message_of(random_maps(9, 9))
    with (
        AttentionServer(classifier, port=0, limits=Limits(bytes=len(large) - 1)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        with pytest.raises(
            grpc.RpcError, match=f"0 bytes are in flight and {len(large)} came, the server takes"
        ) as told:
            method(channel)(large)
        assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        method(channel)(small)
        stub = AttentionPatternServiceStub(channel)
        requests = [pb.ClassifyHeadsRequest.FromString(one) for one in (large, small)]
        answers = list(stub.StreamClassifyHeads(pb.StreamClassifyHeadsRequest(request=one) for one in requests))
        assert [answer.error.reason for answer in answers] == ["OVERLOADED", ""]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (random_maps(11, 9, 9), "the request holds 11 maps, expected at most 10; send it in parts"),
        (random_maps(21, 21), "attention is of 21 tokens, expected at most 20"),
    ],
)
def test_more_or_longer_maps_than_the_server_takes_are_refused(classifier, maps, message):
    with (
        AttentionServer(classifier, port=0, limits=Limits(maps=10, length=20)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        pytest.raises(grpc.RpcError, match=message) as refused,
    ):
        method(channel)(message_of(maps))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_images_over_the_count_are_refused(classifier):
    images = IMAGES.write(images_request_of(np.zeros((11, 3, 48, 48), np.uint8)))
    with (
        AttentionServer(classifier, port=0, limits=Limits(maps=10)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        pytest.raises(grpc.RpcError, match="the request holds 11 maps"),
    ):
        method(channel, "ClassifyImages")(images)


def test_a_request_ends_with_the_server_s_time(classifier):
    message = message_of(np.broadcast_to(random_maps(1, 12, 64, 64).astype(np.float16), (700, 12, 64, 64)))
    with (
        AttentionServer(classifier, port=0, limits=Limits(seconds=0.05)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        Client(server.endpoint) as client,
    ):
        with pytest.raises(grpc.RpcError) as ended:
            method(channel)(message)
        assert ended.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        assert client.classify(random_maps(9, 9)).length == 9


def test_a_call_whose_time_is_over_costs_nothing_more(classifier):
    """Ten seconds of work are asked for with a deadline of a fifth of a second."""
    maps = random_maps(1, 12, 64, 64).astype(np.float16)
    message = message_of(np.broadcast_to(maps, (700, 12, 64, 64)))
    with (
        AttentionServer(classifier, port=0) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        ThreadPoolExecutor(4) as pool,
    ):
        calls = [pool.submit(method(channel), message, timeout=0.2) for _ in range(4)]
        for call in calls:
            assert call.exception().code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        deadline = time.monotonic() + 30
        while server.load.calls and time.monotonic() < deadline:
            time.sleep(0.005)
        classified = server.metrics.registry.get_sample_value("attention_maps_total", {"pattern": "Heterogeneous"}) or 0
        assert server.load.calls == server.load.bytes == 0
        assert classified < 4 * 8400 / 2


def test_a_silent_stream_is_ended(classifier):
    with (
        AttentionServer(classifier, port=0, limits=Limits(idle_seconds=0.2)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        held = Held(channel, 1)
        with pytest.raises(grpc.RpcError, match=r"no request came for 0\.2 s") as ended:
            next(held.calls[0])
        held.let_go.set()
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_calls_without_a_message_hold_no_place_for_ever(classifier):
    silent = threading.Event()

    def nothing():
        silent.wait()
        yield b""

    with (
        AttentionServer(classifier, port=0, limits=Limits(calls=2, seconds=1)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        Client(server.endpoint) as client,
    ):
        calls = [method(channel, "GetModel", "stream_unary").future(nothing()) for _ in range(2)]
        deadline = time.monotonic() + 30
        while server.load.calls < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        with pytest.raises(errors.OverloadedError):
            client.model()
        assert [call.exception(timeout=30).code() for call in calls] == [grpc.StatusCode.CANCELLED] * 2
        assert client.model().max_maps
        silent.set()


@pytest.mark.parametrize("name", ["ClassifyHeads", "ClassifyImages", "GetModel"])
def test_what_is_no_message_is_named(server, name):
    with grpc.insecure_channel(server.endpoint) as channel:
        with pytest.raises(grpc.RpcError, match="the message is not a ") as refused:
            method(channel, name)(b"\xff\xff\xff")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError, match="the call holds no message, expected one"):
            method(channel, name, "stream_unary")(iter([]))


def test_a_stream_ends_at_what_is_no_message(server):
    with grpc.insecure_channel(server.endpoint) as channel:
        good = pb.StreamClassifyHeadsRequest().SerializeToString()
        call = method(channel, "StreamClassifyHeads", "stream_stream")(iter([good, b"\xff\xff\xff", good]))
        assert pb.StreamClassifyHeadsResponse.FromString(next(call)).error.reason == "DATA_TYPE"
        with pytest.raises(grpc.RpcError, match="the message is not a StreamClassifyHeadsRequest"):
            next(call)


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"rendering_version": 9}, "FAILED_PRECONDITION", "rendering_version is 9, the model reads 1"),
        ({"image_size": 64}, "ABORTED", "image_size is 64, the model reads images of 48 pixels a side"),
        ({"images": b""}, "INVALID_ARGUMENT", "images has 0 bytes, expected 6912 for each of at least one image"),
        ({"images": b"12"}, "INVALID_ARGUMENT", "images has 2 bytes"),
        ({"request_id": "x" * 257}, "INVALID_ARGUMENT", "request_id has 257 characters"),
    ],
)
def test_images_that_the_model_does_not_read_are_refused(server, fields, code, message):
    whole = {"rendering_version": 1, "image_size": 48, "images": bytes(6912)} | fields
    with grpc.insecure_channel(server.endpoint) as channel, pytest.raises(grpc.RpcError, match=message) as refused:
        method(channel, "ClassifyImages")(pb.ClassifyImagesRequest(**whole).SerializeToString())
    assert refused.value.code().name == code


def test_images_are_answered_as_by_the_library(server, classifier):
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 48, 48), np.uint8)
    with Client(server.endpoint) as client:
        assert_equal(client.classify_images(images), classifier.classify_images(images))
