"""Limits on calls, bytes, maps and time: beyond them a call is refused, and none keeps its place for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client, Limits
from attention_patterns_service.contract.converters import IMAGES, images_request_of
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from tests.helpers.calls import HeldStreams, message_of, method_of
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal
from tests.helpers.servers import until

ENDED = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


def large_message(layers):
    """Returns a message of so many layers of the same 12 maps, a millisecond of work each."""
    maps = random_maps(1, 12, 64, 64).astype(np.float16)
    return message_of(np.broadcast_to(maps, (layers, 12, 64, 64)))


def is_idle(server):
    return server.load.calls == server.load.bytes == 0


def test_calls_over_the_limit_are_refused_at_once_and_health_is_not(classifier):
    with (
        AttentionServer(classifier, port=0, limits=Limits(calls=2)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        Client(server.endpoint, retry_seconds=0) as client,
    ):
        with HeldStreams(channel, 2):
            with pytest.raises(errors.OverloadedError, match="2 calls are in flight, the server takes 2"):
                client.model()
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for _ in range(5):
            until(lambda: is_idle(server))  # what ended was counted out
            assert client.model().max_maps


def test_calls_that_are_cancelled_are_counted_out(classifier):
    with (
        AttentionServer(classifier, port=0, limits=Limits(calls=2)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        for _ in range(20):
            call = method_of(channel, "StreamClassifyHeads", "stream_stream")(iter([b""]))
            next(call)
            call.cancel()
            until(lambda: is_idle(server))


def test_bytes_over_the_limit_are_refused(classifier):
    large, small = message_of(random_maps(6, 4, 100, 100)), message_of(random_maps(9, 9))
    with (
        AttentionServer(classifier, port=0, limits=Limits(bytes=len(large) - 1)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        with pytest.raises(
            grpc.RpcError, match=f"0 bytes are in flight and {len(large)} came, the server takes"
        ) as refused:
            method_of(channel)(large)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        method_of(channel)(small)
        requests = [pb.ClassifyHeadsRequest.FromString(message) for message in (large, small)]
        streamed = (pb.StreamClassifyHeadsRequest(request=request) for request in requests)
        answers = list(AttentionPatternServiceStub(channel).StreamClassifyHeads(streamed))
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
        method_of(channel)(message_of(maps))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_images_over_the_count_are_refused(classifier):
    images = IMAGES.write(images_request_of(np.zeros((11, 3, 48, 48), np.uint8)))
    with (
        AttentionServer(classifier, port=0, limits=Limits(maps=10)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        pytest.raises(grpc.RpcError, match="the request holds 11 maps"),
    ):
        method_of(channel, "ClassifyImages")(images)


def test_a_request_ends_with_the_server_s_time(classifier):
    """A second of work is asked for where a request may take a twentieth."""
    with (
        AttentionServer(classifier, port=0, limits=Limits(seconds=0.05)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        Client(server.endpoint) as client,
    ):
        with pytest.raises(grpc.RpcError) as ended:
            method_of(channel)(large_message(100))
        assert ended.value.code() in ENDED
        until(lambda: is_idle(server))

        def is_answered():  # where the cores are busy, in one of several tries
            with suppress(errors.AttentionPatternsError):
                return client.classify(random_maps(9, 9)).length == 9

        assert until(is_answered)


def test_a_call_whose_time_is_over_costs_nothing_more(classifier):
    """Several seconds of work are asked for with a deadline of a fifth of a second."""
    layers = 200
    message = large_message(layers)
    with (
        AttentionServer(classifier, port=0) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        ThreadPoolExecutor(4) as pool,
    ):
        calls = [pool.submit(method_of(channel), message, timeout=0.2) for _ in range(4)]
        for call in calls:
            assert call.exception().code() in ENDED
        until(lambda: is_idle(server))
        classified = server.metrics.registry.get_sample_value("attention_maps_total", {"pattern": "Heterogeneous"}) or 0
        assert classified < 4 * 12 * layers / 2


def test_a_silent_stream_is_ended(classifier):
    silent = threading.Event()

    def requests():
        yield pb.StreamClassifyHeadsRequest()
        silent.wait()

    with (
        AttentionServer(classifier, port=0, limits=Limits(idle_seconds=0.2)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        with pytest.raises(grpc.RpcError, match=r"no request came for 0\.2 s") as ended:
            list(AttentionPatternServiceStub(channel).StreamClassifyHeads(requests()))
        silent.set()
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_calls_without_a_message_hold_no_place_for_ever(classifier):
    silent = threading.Event()

    def no_message():
        silent.wait()
        yield b""

    with (
        AttentionServer(classifier, port=0, limits=Limits(calls=2)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        Client(server.endpoint, retry_seconds=0) as client,
    ):
        waiting = server._watchdog._waiting
        calls = [method_of(channel, "GetModel", "stream_unary").future(no_message()) for _ in range(2)]
        until(lambda: len(waiting) == 2)
        with pytest.raises(errors.OverloadedError):
            client.model()
        waiting.update(dict.fromkeys(waiting, 0.0))  # their time is over
        assert [call.exception().code() for call in calls] == [grpc.StatusCode.CANCELLED] * 2
        until(lambda: is_idle(server))
        assert client.model().max_maps
        silent.set()


@pytest.mark.parametrize("name", ["ClassifyHeads", "ClassifyImages", "GetModel"])
def test_bytes_that_are_not_a_message_are_named(server, name):
    with grpc.insecure_channel(server.endpoint) as channel:
        with pytest.raises(grpc.RpcError, match=f"the message is not a {name}Request") as refused:
            method_of(channel, name)(b"\xff\xff\xff")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError, match="the call holds no message, expected one"):
            method_of(channel, name, "stream_unary")(iter([]))


def test_a_stream_ends_at_bytes_that_are_not_a_message(server):
    with grpc.insecure_channel(server.endpoint) as channel:
        good = pb.StreamClassifyHeadsRequest().SerializeToString()
        call = method_of(channel, "StreamClassifyHeads", "stream_stream")(iter([good, b"\xff\xff\xff", good]))
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
        method_of(channel, "ClassifyImages")(pb.ClassifyImagesRequest(**whole).SerializeToString())
    assert refused.value.code().name == code


def test_images_are_answered_as_by_the_library(server, classifier):
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 48, 48), np.uint8)
    with Client(server.endpoint) as client:
        assert_equal(client.classify_images(images), classifier.classify_images(images))
