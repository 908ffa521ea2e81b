"""Health answers whatever its callers do, and its watchers keep nothing from ending."""

import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attention_patterns_service import AttentionServer
from attention_patterns_service.server.health import NAME, WATCHERS
from attention_patterns_service.server.methods import SERVICE
from tests.helpers.servers import until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ASKED = health_pb2.HealthCheckRequest()


@pytest.fixture
def running(classifier):
    with AttentionServer(classifier, port=0) as server, grpc.insecure_channel(server.endpoint) as channel:
        yield server, channel


def test_watchers_that_come_and_go_hold_nothing_up(running):
    """Each comes while others leave: a lock that is held while an answer is sent would stop gRPC's own thread."""
    server, _ = running

    def watch():
        for _ in range(10):
            with grpc.insecure_channel(server.endpoint, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                watchers = [stub.Watch(ASKED, timeout=300) for _ in range(12)]
                assert [next(watcher).status for watcher in watchers] == [SERVING] * 12

    threads = [threading.Thread(target=watch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    until(lambda: not server._health._watchers)


def test_watchers_are_told_of_the_end(classifier):
    with AttentionServer(classifier, port=0) as server, grpc.insecure_channel(server.endpoint) as channel:
        watchers = [health_pb2_grpc.HealthStub(channel).Watch(ASKED) for _ in range(5)]
        assert [next(watcher).status for watcher in watchers] == [SERVING] * 5
        server.stop(grace=0.5)
        assert [next(watcher).status for watcher in watchers] == [NOT_SERVING] * 5


def test_more_watchers_than_threads_are_refused_and_checks_answered(running):
    _, channel = running
    stub = health_pb2_grpc.HealthStub(channel)
    watchers = [stub.Watch(ASKED) for _ in range(WATCHERS)]
    assert [next(watcher).status for watcher in watchers] == [SERVING] * WATCHERS
    with pytest.raises(grpc.RpcError, match=f"{WATCHERS} calls watch the health, the server takes no more; use Check"):
        next(stub.Watch(ASKED))
    assert stub.Check(ASKED, timeout=60).status == SERVING


def test_callers_that_say_nothing_make_way(running):
    _, channel = running
    silent = threading.Event()

    def no_message():
        silent.wait()
        yield b""

    ask = channel.stream_unary(f"/{NAME}/Check")
    calls = [ask.future(no_message()) for _ in range(60)]
    until(lambda: sum(call.running() for call in calls) == 60)

    def is_answered():
        return health_pb2_grpc.HealthStub(channel).Check(ASKED, timeout=60).status == SERVING

    assert until(is_answered)
    silent.set()


@pytest.mark.parametrize(
    ("message", "code", "details"),
    [
        (b"\xff", "INVALID_ARGUMENT", "the message is not a HealthCheckRequest"),
        (bytes(5000), "INVALID_ARGUMENT", "the message has 5000 bytes, expected at most 4096"),
        (
            health_pb2.HealthCheckRequest(service="other").SerializeToString(),
            "NOT_FOUND",
            "service 'other' is not known",
        ),
    ],
)
def test_other_questions_are_refused(running, message, code, details):
    _, channel = running
    with pytest.raises(grpc.RpcError, match=details) as refused:
        channel.unary_unary(f"/{NAME}/Check")(message)
    assert refused.value.code().name == code


def test_a_service_that_is_not_known_is_watched(running):
    _, channel = running
    watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="other"))
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watched.cancel()
    assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE)).status == SERVING
