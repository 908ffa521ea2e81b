"""Callers who break the rules of the protocols below, do not end their calls, or ask for too much."""

import random
import resource
import socket
import ssl
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import grpc
import numpy as np
import pytest

from attention_patterns import errors
from attention_patterns_service import Client
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from tests.helpers.calls import HeldStreams, message_of, method_of
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal
from tests.helpers.http2 import (
    CONTINUATION,
    HEADERS,
    HELLO,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    connection,
    data,
    ended_with,
    frame,
    head,
    head_block,
    prefixed,
    read_until,
    settled_connection,
    window,
)
from tests.helpers.servers import Holdings, Server, calls_in_flight, free_port, until

MAPS = random_maps(3, 12, 24, 24)
CALLS = 16  # that the attacked server takes
HEADS, STREAM = "ClassifyHeads", "StreamClassifyHeads"
REQUEST = message_of(random_maps(9, 9))
STREAMED = pb.StreamClassifyHeadsRequest(request=pb.ClassifyHeadsRequest.FromString(REQUEST)).SerializeToString()


def unread(name, message, *, count=1):
    """Returns a call whose answers find no room: its client takes 0 bytes of them."""
    return PREFACE, window(0), head(1, name), *(count * [data(prefixed(message))]), data(b"", end=count == 1)


SILENT = HELLO, head(1, HEADS)
HALF_SENT = HELLO, head(1, HEADS), data(prefixed(REQUEST)[:100])
UNREAD = unread(HEADS, REQUEST)
UNREAD_STREAM = unread(STREAM, STREAMED, count=20)


def garbage(server):
    for seed in range(20):
        with connection(server.port, random.Random(seed).randbytes(5000)) as client:
            read_until(client)


def garbage_after_the_preface(server):
    for seed in range(20):
        with connection(server.port, HELLO, random.Random(seed).randbytes(100_000)) as client:
            read_until(client)


def http_1(server):
    for _ in range(20):
        with connection(server.port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
            read_until(client)


def tls(server):
    for _ in range(20):
        with connection(server.port) as client, pytest.raises((ssl.SSLError, ConnectionError)):
            ssl._create_unverified_context().wrap_socket(client)


def cut_anywhere(server):
    """Calls that stop at any byte, and whose connection is closed or reset there."""
    whole = HELLO + head(1, HEADS) + data(prefixed(REQUEST), end=True)
    for size in range(0, len(whole), 5):
        with connection(server.port, whole[:size]) as client:
            if size % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def too_large_a_frame(server):
    with connection(server.port, HELLO, head(1, HEADS), b"\xff\xff\xff\0\0\0\0\0\1", bytes(100_000)) as client:
        read_until(client)


def more_promised_than_taken(server):
    for size in (1 << 31, (1 << 32) - 1, 1 << 30):
        promise = data(b"\0" + struct.pack(">I", size) + b"some")
        with connection(server.port, HELLO, head(1, HEADS), promise) as client:
            read_until(client, ended_with(8))


def gzip_bomb(server):
    """2 GiB of zeros in 2 MB."""
    block, squeeze = bytes(1 << 24), zlib.compressobj(9, zlib.DEFLATED, 31)
    first, other = (squeeze.compress(block) + squeeze.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = prefixed(first + 127 * other, compressed=1)
    pieces = [bomb[begin : begin + (1 << 14)] for begin in range(0, len(bomb), 1 << 14)]
    words = head(1, HEADS, {"grpc-encoding": "gzip"}), *map(data, pieces)
    with settled_connection(server.port, *words) as client:
        assert ended_with(0) not in read_until(client, b"grpc-status")


def large_metadata(server):
    with grpc.insecure_channel(server.endpoint) as channel, pytest.raises(grpc.RpcError, match="metadata"):
        method_of(channel, "GetModel")(b"", metadata=(("much", "x" * 100_000),), timeout=60)


def endless_header(server):
    block = head_block(HEADS)
    with connection(server.port, HELLO, frame(HEADERS, 0, 1, block)) as client, suppress(ConnectionError):
        for _ in range(2000):
            client.sendall(frame(CONTINUATION, 0, 1, block))


def calls_that_are_reset(server):
    cancel = struct.pack(">I", 8)
    calls = (head(n, HEADS) + frame(RST_STREAM, 0, n, cancel) for n in range(1, 4000, 2))
    with connection(server.port, HELLO) as client, suppress(ConnectionError):
        for call in calls:
            client.sendall(call)


def pings_and_settings(server):
    for flood in (20_000 * frame(PING, 0, 0, bytes(8)), 20_000 * frame(SETTINGS, 0, 0)):
        with connection(server.port, HELLO) as client, suppress(ConnectionError, TimeoutError):
            client.settimeout(2)
            client.sendall(flood)


def many_connections(server):
    for _ in range(1000):
        with connection(server.port):
            pass
    with ExitStack() as stack:
        for words in 250 * [b""] + 250 * [HELLO]:
            stack.enter_context(connection(server.port, words))
        until(lambda: Holdings.of(server.process.pid).files >= 500)


def byte_by_byte(server):
    """Slow, but they keep to the rules and are answered."""
    whole = HELLO + head(1, HEADS) + data(prefixed(message_of(random_maps(3, 3))), end=True)
    with ExitStack() as stack:
        clients = [stack.enter_context(connection(server.port)) for _ in range(4)]
        for byte in whole:
            for client in clients:
                client.sendall(bytes([byte]))
            time.sleep(0.001)
        for client in clients:
            read_until(client, ended_with(0))


def silent_streams(server):
    """They are ended after --max-idle-seconds."""
    with ExitStack() as stack:
        for client in [stack.enter_context(connection(server.port, HELLO, head(1, STREAM))) for _ in range(4)]:
            read_until(client, ended_with(4))


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
    server = Server(
        f"--max-calls={CALLS}",
        "--max-seconds=3",
        "--max-idle-seconds=1",
        "--max-message-mib=8",
        f"--metrics-port={(metrics_port := free_port())}",
    )
    server.metrics_port = metrics_port
    yield server
    assert server.process.poll() is None
    assert server.stop() == 0


@contextmanager
def asking(endpoint, classifier, *, refused=False):
    """Has a client ask all the while; all its answers are right, and none is missing but where it may be refused."""
    expected, ends, stopped = classifier.classify(MAPS), [], threading.Event()

    def ask():
        with Client(endpoint) as client:
            while not stopped.wait(0.01):
                try:
                    assert_equal(client.classify(MAPS), expected)
                    ends.append("answered")
                except errors.OverloadedError:
                    ends.append("refused")

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        try:
            until(lambda: ends or asked.done())
            yield
            so_far = len(ends)
            until(lambda: len(ends) > so_far or asked.done())
        finally:
            stopped.set()
        asked.result(300)
    assert "answered" in ends
    assert refused or "refused" not in ends


def calls_are_free(endpoint):
    """Returns whether as many streams as the server takes are answered at a time."""
    with grpc.insecure_channel(endpoint) as channel:
        try:
            with HeldStreams(channel, CALLS):
                return True
        except grpc.RpcError:
            return False


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_broken_client_harms_nobody(attacked, classifier, attack):
    """The first attack fills what is kept, and those after it leave nothing."""
    attack(attacked)
    until(lambda: calls_are_free(attacked.endpoint))
    before = Holdings.of(attacked.process.pid)
    with asking(attacked.endpoint, classifier, refused=attack in MORE_CALLS_THAN_PLACES):
        for _ in range(2):
            attack(attacked)
    until(lambda: calls_are_free(attacked.endpoint))

    def holds_no_more():
        now = Holdings.of(attacked.process.pid)
        return now.files <= before.files and now.threads <= before.threads + 8  # pools fill up

    until(holds_no_more)
    assert Holdings.of(attacked.process.pid).peak < before.peak + 48, before


def test_calls_are_held_no_longer_than_the_limits_say(attacked):
    """Fills the server with callers that stand still, each in its own way; their time over, others are answered."""
    kinds = (SILENT, HALF_SENT, UNREAD, UNREAD_STREAM)
    until(lambda: calls_are_free(attacked.endpoint))
    with ExitStack() as stack:
        for words in CALLS // len(kinds) * kinds:
            stack.enter_context(connection(attacked.port, *words))
        until(lambda: calls_in_flight(attacked.metrics_port) == CALLS)
        assert not calls_are_free(attacked.endpoint)
        until(lambda: calls_are_free(attacked.endpoint))


def test_a_grace_that_is_over_ends_calls_of_all_kinds():
    server = Server("--grace=0.5", f"--metrics-port={(metrics_port := free_port())}")
    with ExitStack() as stack:
        clients = [stack.enter_context(connection(server.port, *words)) for words in (SILENT, UNREAD_STREAM)]
        until(lambda: calls_in_flight(metrics_port) == 2)
        assert server.stop() == 0
        for client in clients:
            read_until(client)


@pytest.fixture(scope="module")
def roomy():
    """A server of the limits that it has by default, and a channel to it."""
    server = Server()
    options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    with grpc.insecure_channel(server.endpoint, options=options) as channel:
        yield server, channel
    assert server.stop() == 0


def test_a_server_that_has_no_file_left_recovers(roomy, classifier):
    server, _ = roomy
    expected, pid = classifier.classify(MAPS), server.process.pid
    with Client(server.endpoint) as client:
        assert_equal(client.classify(MAPS), expected)
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (Holdings.of(pid).files + 10, hard))
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connection(server.port))
            assert_equal(client.classify(MAPS), expected)
        with Client(server.endpoint) as other:
            assert_equal(other.classify(MAPS), expected)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


FIELDS = {  # each of two bytes, or three
    "heads": b"\x58\1" * (30 << 20),
    "tokens": b"\x1a\0" * (30 << 20),
    "token groups": b"\x22\0" * (30 << 20),
    "flags of a mask": b"\x42" + b"\x80\x80\x80\x1e" + b"\1" * (60 << 20),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_message_of_millions_of_fields_is_refused_at_little_cost(roomy, classifier, name):
    server, channel = roomy
    before = Holdings.of(server.process.pid)
    with asking(server.endpoint, classifier), pytest.raises(grpc.RpcError) as refused:
        method_of(channel)(REQUEST + FIELDS[name], timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert Holdings.of(server.process.pid).peak < before.peak + 500


@pytest.mark.parametrize("names", [["x" * 30_000], [str(number) for number in range(300)]], ids=["long", "many"])
def test_an_answer_is_not_larger_than_a_message_may_be(roomy, names):
    """Each of 16,384 maps is answered with the name of each group: half a megabyte asks for half a gigabyte."""
    server, channel = roomy
    maps = np.full((16_384, 2, 2), 0.5, np.float32)
    request = pb.ClassifyHeadsRequest(
        attention=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=maps.shape, data=maps.tobytes()),
        token_groups=[pb.TokenGroup(name=name, positions=[0]) for name in names],
    )
    before = Holdings.of(server.process.pid)
    with pytest.raises(grpc.RpcError) as refused:
        AttentionPatternServiceStub(channel).ClassifyHeads(request, timeout=60)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert Holdings.of(server.process.pid).peak < before.peak + 500
