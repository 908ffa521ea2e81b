"""Limits on calls, bytes, maps and time: beyond them a call is refused, and none keeps its place for ever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client, Limits
from attention_patterns_service.contract.converters import IMAGES, images_request_of
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from attention_patterns_service.server.access import Tokens
from attention_patterns_service.server.methods import SERVICE
from attention_patterns_service.server.token_file import add_token
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
    most = len(large) + 100  # of a stream each message is a few bytes longer
    with (
        AttentionServer(classifier, port=0, limits=Limits(bytes=2 * most, message_bytes=most)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        server.load.add_bytes(messages=101)
        with pytest.raises(
            grpc.RpcError, match=f"101 bytes of messages are in flight and {len(large)} came, the server takes"
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
        with pytest.raises(grpc.RpcError, match=r"no request that could be answered came for 0\.2 s") as ended:
            list(AttentionPatternServiceStub(channel).StreamClassifyHeads(requests()))
        silent.set()
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def good_and_bad_streams(channel, **metadata):
    """Returns a method of streams, and a message that is answered."""
    method = method_of(channel, "StreamClassifyHeads", "stream_stream")
    request = pb.ClassifyHeadsRequest.FromString(message_of(random_maps(9, 9)))
    return partial(method, **metadata), pb.StreamClassifyHeadsRequest(request=request).SerializeToString()


def reason_of(answer):
    return pb.StreamClassifyHeadsResponse.FromString(answer).error.reason


def test_bad_messages_are_no_sign_of_life(classifier):
    ended = threading.Event()

    def requests(good):
        yield good
        while not ended.wait(0.05):
            yield b""

    with (
        AttentionServer(classifier, port=0, limits=Limits(idle_seconds=1)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        stream, good = good_and_bad_streams(channel)
        reasons = []
        with pytest.raises(grpc.RpcError, match="no request that could be answered came for 1 s"):
            reasons.extend(map(reason_of, stream(requests(good))))
        ended.set()


def test_a_stream_has_an_age(classifier):
    with (
        AttentionServer(classifier, port=0, limits=Limits(stream_seconds=1)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        (stream, good), reasons = good_and_bad_streams(channel), set()
        answers = map(reason_of, stream(iter(lambda: good, None)))
        with pytest.raises(grpc.RpcError, match="the stream has been open for 1 s, the longest; open another"):
            reasons.update(answers)
        assert reasons == {""}


def test_each_message_of_a_stream_needs_a_known_token(classifier, tmp_path):
    path = tmp_path / "tokens.json"
    secret = add_token(path, "bob", calls_per_second=1000)
    access, sent = Tokens(path), SimpleQueue()
    with (
        AttentionServer(classifier, port=0, access=access) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        stream, good = good_and_bad_streams(channel, metadata=[("authorization", f"Bearer {secret}")])
        answers = stream(iter(sent.get, None))
        sent.put(good)
        assert reason_of(next(answers)) == ""
        path.unlink()
        add_token(path, "eve", calls_per_second=1)
        access.reload()
        sent.put(good)
        with pytest.raises(grpc.RpcError, match="is not known to the server") as refused:
            next(answers)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        until(lambda: is_idle(server))
        sent.put(None)


def test_each_message_of_a_stream_counts_for_the_rate(classifier, tmp_path):
    secret = add_token(tmp_path / "tokens.json", "bob", calls_per_second=1)
    with (
        AttentionServer(classifier, port=0, access=Tokens(tmp_path / "tokens.json")) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        stream, good = good_and_bad_streams(channel, metadata=[("authorization", f"Bearer {secret}")])
        begun = time.monotonic()
        reasons = list(map(reason_of, stream(iter([good] * 100))))
        seconds = time.monotonic() - begun
    assert set(reasons) == {"", "RATE_LIMIT"}
    assert reasons.count("") <= 1 + seconds


def test_the_rate_is_kept_by_a_clock_that_nobody_sets(tmp_path):
    """The clock is set back by an hour between two calls, and forth again."""
    add_token(tmp_path / "tokens.json", "bob", calls_per_second=2)
    access, now = Tokens(tmp_path / "tokens.json"), time.time
    access.charge("bob")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: now() - 3600)
        access.charge("bob")
        with pytest.raises(errors.RateLimitError):
            access.charge("bob")
        begun = time.monotonic()
        until(lambda: time.monotonic() > begun + 1)
        access.charge("bob")


def test_a_token_has_a_share_of_the_places(classifier, tmp_path):
    path = tmp_path / "tokens.json"
    bob, eve = (add_token(path, name, calls_per_second=1000) for name in ("bob", "eve"))
    with (
        AttentionServer(classifier, port=0, access=Tokens(path), limits=Limits(calls=3, token_calls=2)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
        Client(server.endpoint, token=bob) as client,
        Client(server.endpoint, token=eve) as other,
    ):
        with HeldStreams(channel, 2, metadata=[("authorization", f"Bearer {bob}")]):
            with pytest.raises(errors.OverloadedError, match="2 calls of bob are in flight, the server takes 2 of one"):
                client.model()
            assert other.model().max_maps
        until(lambda: is_idle(server))
        assert client.model().max_maps


def test_messages_of_a_stream_count_by_their_own_outcome(classifier):
    with (
        AttentionServer(classifier, port=0) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        stream, good = good_and_bad_streams(channel)
        assert list(map(reason_of, stream(iter([good, b"", b"", good])))) == ["", "DATA_TYPE", "DATA_TYPE", ""]
        value, method = server.metrics.registry.get_sample_value, {"method": "StreamClassifyHeads"}
        until(lambda: value("attention_streams_total", method | {"code": "OK"}))
        assert value("attention_requests_total", method | {"code": "OK"}) == 2
        assert value("attention_requests_total", method | {"code": "INVALID_ARGUMENT"}) == 2
        assert value("attention_refused_total", {"reason": "DATA_TYPE"}) == 2


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_streams_of_reflection_are_calls_like_others(classifier, version):
    """They hold places of calls, and health answers beside them."""
    silent = threading.Event()
    question = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()

    def questions():
        yield question
        silent.wait()

    with (
        AttentionServer(classifier, port=0, limits=Limits(calls=4), reflection=True) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        ask = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
        streams = [ask(questions()) for _ in range(4)]
        for stream in streams:
            answer = reflection_pb2.ServerReflectionResponse.FromString(next(stream))
            assert SERVICE in {service.name for service in answer.list_services_response.service}
        for _ in range(40):
            with pytest.raises(grpc.RpcError, match="4 calls are in flight"):
                next(ask(questions()))
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        silent.set()
        for stream in streams:
            list(stream)
        described = reflection_pb2.ServerReflectionRequest(
            file_containing_symbol=f"grpc.reflection.{version}.ServerReflection"
        )
        (answer,) = ask(iter([described.SerializeToString()]))
        assert reflection_pb2.ServerReflectionResponse.FromString(answer).HasField("file_descriptor_response")


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


def test_a_stream_goes_on_after_bytes_that_are_not_a_message(server):
    with grpc.insecure_channel(server.endpoint) as channel:
        good = pb.StreamClassifyHeadsRequest(request=pb.ClassifyHeadsRequest.FromString(message_of(random_maps(9, 9))))
        sent = [good.SerializeToString(), b"\xff\xff\xff", good.SerializeToString()]
        answers = method_of(channel, "StreamClassifyHeads", "stream_stream")(iter(sent))
        errors_of = [pb.StreamClassifyHeadsResponse.FromString(answer).error for answer in answers]
    assert [error.reason for error in errors_of] == ["", "MESSAGE", ""]
    assert errors_of[1].message.startswith("the message is not a StreamClassifyHeadsRequest")


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
