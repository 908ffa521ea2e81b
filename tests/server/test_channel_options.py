"""gRPC takes any option and says nothing of one that it does not know: each is held by what it does."""

import ast
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc

import attention_patterns_service
from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client, connection
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.server import server as server_module
from attention_patterns_service.server.methods import SERVICE
from tests.helpers.http2 import HELLO, PING, SETTINGS_KNOWN, frame, read_until
from tests.helpers.http2 import connection as http2_connection

_GOAWAY_OF_AGE, _GOAWAY_OF_PINGS = b"max_age", b"too_many_pings"
_MOST_STREAMS = 3  # of the settings: calls on one connection
_ACKNOWLEDGED = 1


def names_of_options():
    """Yields every name of an option in the package."""
    for path in Path(attention_patterns_service.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.elts[0], ast.Constant):
                name = node.elts[0].value
                if isinstance(name, str) and name.startswith("grpc."):
                    yield name


def test_grpc_knows_every_option():
    names, library = set(names_of_options()), Path(cygrpc.__file__).read_bytes()
    assert {"grpc.so_reuseport", "grpc.service_config"} <= names
    assert [name for name in sorted(names) if f"{name}\0".encode() not in library] == []


def changed(options, **values):
    """Returns options with other values; names are given with _ for the last dots, and must be there."""
    assert set(values) <= {name.rpartition(".")[2] for name, _ in options}
    return [(name, values.get(name.rpartition(".")[2], value)) for name, value in options]


@pytest.fixture
def server_of(classifier, monkeypatch):
    """Starts servers with some of their options changed, and returns their ports."""
    started = []

    def start(**values):
        monkeypatch.setattr(server_module, "_CONNECTIONS", changed(server_module._CONNECTIONS, **values))
        started.append(AttentionServer(classifier, port=0))
        started[-1].start()
        return int(started[-1].endpoint.rpartition(":")[2])

    yield start
    for server in started:
        server.stop()


def test_clients_may_ping_at_intervals_without_a_call(server_of):
    """The interval is shortened; at gRPC's own of five minutes the server would close the connection."""
    port, received = server_of(min_ping_interval_without_data_ms=50), b""
    with http2_connection(port, HELLO) as connected:
        for number in range(6):
            word = struct.pack(">Q", number)
            connected.sendall(frame(PING, 0, 0, word))
            received += read_until(connected, frame(PING, _ACKNOWLEDGED, 0, word))
            time.sleep(0.1)
    assert _GOAWAY_OF_PINGS not in received


def test_clients_may_not_ping_all_the_time(server_of):
    with http2_connection(server_of(), HELLO, *[frame(PING, 0, 0, bytes(8))] * 6) as connected:
        read_until(connected, _GOAWAY_OF_PINGS)


def test_the_server_asks_a_silent_connection_whether_it_is_there(server_of):
    with http2_connection(server_of(keepalive_time_ms=100), HELLO, SETTINGS_KNOWN) as connected:
        read_until(connected, frame(PING, 0, 0, bytes(8))[:9])


def test_a_connection_carries_so_many_calls(server_of):
    with http2_connection(server_of(), HELLO) as connected:
        read_until(connected, struct.pack(">HI", _MOST_STREAMS, 100))


def test_a_connection_ends_by_its_age(server_of):
    with http2_connection(server_of(max_connection_age_ms=100), HELLO, SETTINGS_KNOWN) as connected:
        read_until(connected, _GOAWAY_OF_AGE)


@pytest.fixture
def client_of(monkeypatch):
    """Returns a way to make clients with some of their options changed."""

    def make(endpoint, *, timeout=60, **values):
        monkeypatch.setattr(connection, "_OPTIONS", changed(connection._OPTIONS, **values))
        return Client(endpoint, timeout=timeout, retry_seconds=300)

    return make


@pytest.fixture
def listener():
    """A socket that listens, and its endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening, f"127.0.0.1:{listening.getsockname()[1]}"


def test_the_client_asks_whether_a_server_that_does_not_answer_is_there(client_of, listener):
    listening, endpoint = listener
    with ThreadPoolExecutor(1) as pool, client_of(endpoint, keepalive_time_ms=100) as client:
        asked = pool.submit(client.model)
        connected, _ = listening.accept()
        with connected:
            connected.settimeout(120)
            connected.sendall(HELLO.partition(b"SM\r\n\r\n")[2] + SETTINGS_KNOWN)
            read_until(connected, frame(PING, 0, 0, bytes(8))[:9])
            client.close()
        assert asked.exception()


def test_the_client_tries_a_server_again_within_seconds(client_of, listener):
    """The longest pause is shortened; with gRPC's own, twelve attempts would take eight minutes."""
    listening, endpoint = listener
    with ThreadPoolExecutor(1) as pool, client_of(endpoint, max_reconnect_backoff_ms=50, timeout=None) as client:
        asked = pool.submit(client.model)
        for _ in range(12):
            listening.accept()[0].close()
        client.close()
        listening.close()
        assert isinstance(asked.exception(), (errors.ServerError, ValueError))


def test_an_answer_may_be_of_any_size():
    """gRPC's own limit is 4 MiB."""
    large = pb.GetModelResponse(name="x" * (5 << 20), contract_version=9).SerializeToString()
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: large)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"GetModel": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}") as client:
        assert len(client.model().name) == 5 << 20
    server.stop(None).wait()
