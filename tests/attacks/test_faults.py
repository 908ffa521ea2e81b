"""Servers that are killed, stopped or given another bundle while they are called, and callers who break the rules."""

import os
import random
import resource
import signal
import socket
import ssl
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attention_patterns import errors
from attention_patterns_service import Client
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from tests.attacks.faults import PREFACE, Figures, Server, frame, head, head_block, killed, replaced
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal
from tests.server.test_limits import Held, message_of, method
from tests.server.test_process import serving, until

MAPS = random_maps(3, 12, 24, 24)
CALLS = 16  # that the attacked server takes
HELLO = PREFACE + frame(4, 0, 0)
HEADS = "ClassifyHeads"
REQUEST = message_of(random_maps(9, 9))


def prefixed(message, *, compressed=0):
    """A message as it stands in a call."""
    return struct.pack(">BI", compressed, len(message)) + message


def data(payload, *, stream=1, end=False):
    """The frame that holds it."""
    return frame(0, end, stream, payload)


@contextmanager
def connection(port, *words):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as one:
        one.sendall(b"".join(words))
        yield one


@contextmanager
def speaking(port, *words, window=1 << 16):
    """A connection whose other end has said how much it takes: without that, 64 KB; an answer finds ``window``."""
    with connection(port, PREFACE, frame(4, 0, 0, struct.pack(">HI", 4, window))) as one:
        read_until(one, frame(4, 1, 0))  # our settings are known there
        one.sendall(b"".join((frame(4, 1, 0), *words)))  # and the other's here
        yield one


def read_until(one, wanted=None):
    """Reads until that came or, by default, until the server closes."""
    got = b""
    with suppress(ConnectionError):
        while not (wanted and wanted in got):
            part = one.recv(1 << 16)
            if not part:
                break
            got += part
    assert wanted is None or wanted in got
    return got


def ended_with(code):
    """What stands in the trailers of a call that ended so."""
    return b"\x0bgrpc-status" + bytes([len(str(code))]) + str(code).encode()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_request_comes_to_one_end_while_servers_are_killed(workers):
    meanwhile, afterwards = killed(100, workers=workers, seed=workers)
    assert meanwhile.sound, meanwhile
    assert meanwhile.faults
    assert afterwards.answered == afterwards.requests, afterwards


@pytest.mark.parametrize("workers", [1, 2])
def test_every_answer_is_of_an_installed_bundle_while_it_is_replaced(tmp_path, workers):
    meanwhile, afterwards = replaced(100, workers=workers, seed=workers, folder=tmp_path)
    assert meanwhile.sound, meanwhile
    assert set(meanwhile.errors) <= {"ModelReplacedError"}
    assert meanwhile.faults
    assert afterwards.answered == afterwards.requests, afterwards


def test_no_worker_outlives_the_process_above_it():
    first = Server("--grace=1", workers=2)
    workers = [Path(f"/proc/{worker}") for worker in first.workers()]
    try:
        first.process.kill()
        until(lambda: not any(worker.exists() for worker in workers), seconds=15)
    finally:
        for worker in workers:
            if worker.exists():
                os.kill(int(worker.name), signal.SIGKILL)
        first.stop()
    assert Server(workers=2, port=first.port).stop() == 0  # the port is free again


@pytest.mark.parametrize("workers", [1, 2])
def test_a_successor_takes_over_while_its_predecessor_ends_what_is_under_way(classifier, workers):
    expected, go_on = classifier.classify(MAPS), threading.Event()

    def requests():
        for _ in range(2):
            yield pb.StreamClassifyHeadsRequest(request=pb.ClassifyHeadsRequest.FromString(REQUEST))
            go_on.wait(60)

    with ExitStack() as stack:
        first = Server(workers=workers)
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
        time.sleep(0.5)  # now that call is under way as well
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
        assert first.process.wait(60) == 0
        assert_equal(client.classify(MAPS), expected)


def is_refused(endpoint):
    """Whether a new call finds nobody."""
    with grpc.insecure_channel(endpoint) as channel:
        try:
            AttentionPatternServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=20)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False


def test_a_grace_that_is_over_ends_calls_of_all_kinds():
    with serving("--grace=0.5", "--log-level=error") as (process, endpoint):
        port = int(endpoint.rpartition(":")[2])
        silent = connection(port, HELLO, head(1, HEADS))
        with silent as one, connection(port, *UNREAD_STREAM) as other:
            time.sleep(0.5)
            process.terminate()
            assert process.wait(20) == 0
            read_until(one)
            read_until(other)


def unread(name, message, *, count=1):
    """A call whose answers find no room: as long as it does not allow more, 0 bytes of them may come."""
    no_room = frame(4, 0, 0, struct.pack(">HI", 4, 0))  # SETTINGS_INITIAL_WINDOW_SIZE
    return PREFACE, no_room, head(1, name), *(count * [data(prefixed(message))]), data(b"", end=count == 1)


STREAMED = pb.StreamClassifyHeadsRequest(request=pb.ClassifyHeadsRequest.FromString(REQUEST)).SerializeToString()
UNREAD_STREAM = unread("StreamClassifyHeads", STREAMED, count=20)


def garbage(port):
    for seed in range(20):
        with connection(port, random.Random(seed).randbytes(5000)) as one:
            read_until(one)


def garbage_after_the_preface(port):
    for seed in range(20):
        with connection(port, HELLO, random.Random(seed).randbytes(100_000)) as one:
            read_until(one)


def http_1(port):
    for _ in range(20):
        with connection(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n") as one:
            read_until(one)


def tls(port):
    for _ in range(20):
        with connection(port) as one, pytest.raises((ssl.SSLError, ConnectionError)):
            ssl._create_unverified_context().wrap_socket(one)


def cut_anywhere(port):
    """Calls that stop at any byte, and whose connection is closed or reset there."""
    whole = HELLO + head(1, HEADS) + data(prefixed(REQUEST), end=True)
    for size in range(0, len(whole), 5):
        with connection(port, whole[:size]) as one:
            if size % 2:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def too_large_a_frame(port):
    with connection(port, HELLO, head(1, HEADS), b"\xff\xff\xff\0\0\0\0\0\1", bytes(100_000)) as one:
        read_until(one)


def more_promised_than_taken(port):
    for size in (1 << 31, (1 << 32) - 1, 1 << 30):
        with connection(port, HELLO, head(1, HEADS), data(b"\0" + struct.pack(">I", size) + b"some")) as one:
            read_until(one, ended_with(8))


def gzip_bomb(port):
    """2 GiB of zeros in 2 MB."""
    block, squeeze = bytes(1 << 24), zlib.compressobj(9, zlib.DEFLATED, 31)
    first, other = (squeeze.compress(block) + squeeze.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = prefixed(first + 127 * other, compressed=1)
    parts = [bomb[begin : begin + (1 << 14)] for begin in range(0, len(bomb), 1 << 14)]
    with speaking(port, head(1, HEADS, {"grpc-encoding": "gzip"}), *map(data, parts)) as one:
        assert ended_with(0) not in read_until(one, b"grpc-status")


def large_metadata(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError, match="metadata"):
        method(channel, "GetModel")(b"", metadata=(("much", "x" * 100_000),), timeout=20)


def endless_header(port):
    block = head_block(HEADS)
    with connection(port, HELLO, frame(1, 0, 1, block)) as one, suppress(ConnectionError):
        for _ in range(2000):
            one.sendall(frame(9, 0, 1, head_block(HEADS)))


def calls_that_are_reset(port):
    calls = (head(n, HEADS) + frame(3, 0, n, struct.pack(">I", 8)) for n in range(1, 4000, 2))
    with connection(port, HELLO) as one, suppress(ConnectionError):
        for call in calls:
            one.sendall(call)


def pings_and_settings(port):
    for flood in (20_000 * frame(6, 0, 0, bytes(8)), 20_000 * frame(4, 0, 0)):
        with connection(port, HELLO) as one, suppress(ConnectionError, TimeoutError):
            one.settimeout(2)
            one.sendall(flood)


def many_connections(port):
    for _ in range(1000):
        with connection(port):
            pass
    with ExitStack() as stack:
        for words in 250 * [b""] + 250 * [HELLO]:
            stack.enter_context(connection(port, words))
        time.sleep(0.5)


def byte_by_byte(port):
    """Slow, but they keep to the rules and are answered."""
    whole = HELLO + head(1, HEADS) + data(prefixed(REQUEST), end=True)
    with ExitStack() as stack:
        slow = [stack.enter_context(connection(port)) for _ in range(4)]
        for byte in whole:
            for one in slow:
                one.sendall(bytes([byte]))
            time.sleep(0.001)
        for one in slow:
            read_until(one, ended_with(0))


def silent_streams(port):
    """They are ended after --max-idle-seconds."""
    with ExitStack() as stack:
        for one in [stack.enter_context(connection(port, HELLO, head(1, "StreamClassifyHeads"))) for _ in range(4)]:
            read_until(one, ended_with(4))


ATTACKS = (
    garbage,
    garbage_after_the_preface,
    http_1,
    tls,
    cut_anywhere,
    too_large_a_frame,
    more_promised_than_taken,
    gzip_bomb,
    large_metadata,
    endless_header,
    calls_that_are_reset,
    pings_and_settings,
    many_connections,
    byte_by_byte,
    silent_streams,
)


MORE_CALLS_THAN_PLACES = (cut_anywhere, calls_that_are_reset)  # a call keeps its place until its end is seen


@pytest.fixture(scope="module")
def attacked():
    """A server of small limits that is attacked; it survives."""
    limits = (f"--max-calls={CALLS}", "--max-seconds=3", "--max-idle-seconds=1", "--max-message-mib=8")
    server = Server(*limits)
    yield server
    assert server.process.poll() is None
    assert server.stop() == 0


@contextmanager
def asking(endpoint, classifier, *, refused=False):
    """A client that asks all the while; all its answers are right, and none is missing but where it may be refused."""
    expected, ended, stopped = classifier.classify(MAPS), [], threading.Event()

    def ask():
        with Client(endpoint, timeout=20) as client:
            while not stopped.wait(0.01):
                try:
                    assert_equal(client.classify(MAPS), expected)
                    ended.append("answered")
                except errors.OverloadedError:
                    ended.append("refused")

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        try:
            until(lambda: ended or asked.done())
            yield
            so_far = len(ended)
            until(lambda: len(ended) > so_far or asked.done())
        finally:
            stopped.set()
        asked.result(60)
    assert "answered" in ended
    assert refused or "refused" not in ended


def calls_are_free(endpoint):
    """As many streams as the server takes are answered at a time."""
    with grpc.insecure_channel(endpoint) as channel:
        try:
            with Held(channel, CALLS):
                return True
        except grpc.RpcError:
            return False


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_broken_client_harms_nobody(attacked, classifier, attack):
    """The first attack fills what is kept, and those after it leave nothing."""
    attack(attacked.port)
    assert until(lambda: calls_are_free(attacked.endpoint))
    before = Figures.of(attacked.process.pid)
    with asking(attacked.endpoint, classifier, refused=attack in MORE_CALLS_THAN_PLACES):
        for _ in range(2):
            attack(attacked.port)
    assert until(lambda: calls_are_free(attacked.endpoint))

    def back():
        now = Figures.of(attacked.process.pid)
        return now.files <= before.files and now.threads <= before.threads + 8  # pools fill up

    until(back)
    assert Figures.of(attacked.process.pid).peak < before.peak + 48, before


def test_a_server_that_has_no_file_left_recovers(classifier):
    with serving("--log-level=error") as (process, endpoint), Client(endpoint) as client:
        expected = classifier.classify(MAPS)
        assert_equal(client.classify(MAPS), expected)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (40, 40))
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connection(int(endpoint.rpartition(":")[2])))
            assert_equal(client.classify(MAPS), expected)
        with Client(endpoint) as other:
            assert_equal(other.classify(MAPS), expected)


@pytest.mark.parametrize(
    "words",
    [
        (HELLO, head(1, HEADS)),
        (HELLO, head(1, HEADS), data(prefixed(REQUEST)[:100])),
        unread(HEADS, REQUEST),
        UNREAD_STREAM,
    ],
    ids=["no message", "half a message", "answer not read", "answers of a stream not read"],
)
def test_a_call_is_held_no_longer_than_the_limits_say(attacked, words):
    """As many as the server takes stand still; their time over, others are answered."""
    assert until(lambda: calls_are_free(attacked.endpoint))
    with ExitStack() as stack:
        for _ in range(CALLS):
            stack.enter_context(connection(attacked.port, *words))
        time.sleep(0.5)
        assert not calls_are_free(attacked.endpoint)
        until(lambda: calls_are_free(attacked.endpoint), seconds=15)


@pytest.fixture(scope="module")
def roomy():
    """A server of the limits that it has by default, and a channel to it."""
    server = Server()
    options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    with grpc.insecure_channel(server.endpoint, options=options) as channel:
        yield server, channel
    assert server.stop() == 0


FIELDS = {  # each of two bytes, or three
    "heads": b"\x58\1" * (30 << 20),
    "tokens": b"\x1a\0" * (30 << 20),
    "token groups": b"\x22\0" * (30 << 20),
    "flags of a mask": b"\x42" + b"\x80\x80\x80\x1e" + b"\1" * (60 << 20),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_message_of_millions_of_fields_is_refused_at_little_cost(roomy, classifier, name):
    server, channel = roomy
    before = Figures.of(server.process.pid)
    with asking(server.endpoint, classifier), pytest.raises(grpc.RpcError) as refused:
        method(channel)(REQUEST + FIELDS[name], timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert Figures.of(server.process.pid).peak < before.peak + 500


@pytest.mark.parametrize("names", [["x" * 30_000], [str(number) for number in range(300)]], ids=["long", "many"])
def test_an_answer_is_not_larger_than_a_message_may_be(roomy, names):
    """Each of 16,384 maps is answered with the name of each group: half a megabyte asks for half a gigabyte."""
    server, channel = roomy
    maps = np.full((16_384, 2, 2), 0.5, np.float32)
    asked = pb.ClassifyHeadsRequest(
        attention=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=maps.shape, data=maps.tobytes()),
        token_groups=[pb.TokenGroup(name=name, positions=[0]) for name in names],
    )
    before = Figures.of(server.process.pid)
    with pytest.raises(grpc.RpcError) as refused:
        AttentionPatternServiceStub(channel).ClassifyHeads(asked, timeout=30)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert Figures.of(server.process.pid).peak < before.peak + 500
