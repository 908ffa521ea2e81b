"""Servers that are killed, stopped or given another bundle while they are called."""

import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attention_patterns_service import Client
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from tests.attacks.faults import kill_servers, replace_bundles
from tests.helpers.calls import message_of
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal
from tests.helpers.http2 import HELLO, connection, data, ended_with, head, prefixed, read_until
from tests.helpers.servers import Server, calls_in_flight, free_port, until

MAPS = random_maps(3, 12, 24, 24)
HEADS = "ClassifyHeads"
REQUEST = message_of(random_maps(9, 9))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_request_comes_to_one_end_while_servers_are_killed(workers):
    meanwhile, afterwards = kill_servers(40, workers=workers, seed=workers, afterwards=24)
    assert meanwhile.sound, meanwhile
    assert meanwhile.faults
    assert afterwards.answered == afterwards.requests, afterwards


@pytest.mark.parametrize("workers", [1, 2])
def test_every_answer_is_of_an_installed_bundle_while_it_is_replaced(tmp_path, workers):
    meanwhile, afterwards = replace_bundles(40, workers=workers, seed=workers, folder=tmp_path, afterwards=24)
    assert meanwhile.sound, meanwhile
    assert set(meanwhile.errors) <= {"ModelReplacedError"}
    assert meanwhile.faults
    assert afterwards.answered == afterwards.requests, afterwards


def test_no_worker_outlives_the_process_above_it():
    server = Server("--grace=1", workers=2)
    workers = [Path(f"/proc/{worker}") for worker in server.workers()]
    try:
        server.process.kill()
        until(lambda: not any(worker.exists() for worker in workers))
    finally:
        for worker in workers:
            if worker.exists():
                os.kill(int(worker.name), signal.SIGKILL)
        server.stop()
    assert Server(port=server.port).stop() == 0  # a port that anybody still has would be refused


@pytest.mark.parametrize("workers", [1, 2])
def test_a_successor_takes_over_while_its_predecessor_ends_what_is_in_flight(classifier, workers):
    expected, go_on = classifier.classify(MAPS), threading.Event()

    def requests():
        for _ in range(2):
            yield pb.StreamClassifyHeadsRequest(request=pb.ClassifyHeadsRequest.FromString(REQUEST))
            go_on.wait(300)

    with ExitStack() as stack:
        first = Server(f"--metrics-port={(metrics := free_port())}", "--grace=300", workers=workers)
        stack.callback(first.stop)
        client = stack.enter_context(Client(first.endpoint))
        assert_equal(client.classify(MAPS), expected)
        channel = stack.enter_context(grpc.insecure_channel(first.endpoint))
        stack.callback(go_on.set)
        states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        answers = AttentionPatternServiceStub(channel).StreamClassifyHeads(requests())
        assert next(answers).HasField("response")
        slow = stack.enter_context(connection(first.port, HELLO, head(1, HEADS), data(prefixed(REQUEST)[:100])))
        until(lambda: calls_in_flight(metrics) == 2)
        first.process.terminate()
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        states.cancel()
        until(lambda: is_refused(first.endpoint))  # by the last worker as well
        second = Server(workers=workers, port=first.port)
        stack.callback(second.stop)
        assert_equal(client.classify(MAPS), expected)
        assert first.process.poll() is None
        go_on.set()
        assert [answer.WhichOneof("outcome") for answer in answers] == ["response"]
        slow.sendall(data(prefixed(REQUEST)[100:], end=True))
        read_until(slow, ended_with(0))
        slow.close()
        assert first.process.wait(300) == 0
        assert_equal(client.classify(MAPS), expected)


def is_refused(endpoint):
    """Returns whether a new call finds nobody."""
    with grpc.insecure_channel(endpoint) as channel:
        try:
            AttentionPatternServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=60)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False
