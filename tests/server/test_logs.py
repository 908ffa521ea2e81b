"""Logs of server processes: bounded lines, no content, and readers who stop reading."""

import json
import os
import signal
import socket
import subprocess
from contextlib import contextmanager, suppress
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
import trustme

from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from tests.helpers.servers import ATTENTION_SERVE, endpoint_of, free_port, serving, until

LONG = 4 << 20  # bytes; a message may hold as many besides its payload


def request(**fields):
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[9, 9], data=(np.ones((9, 9), np.float32) / 9).tobytes())
    return pb.ClassifyHeadsRequest(attention=tensor, **fields)


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def test_what_callers_send_makes_no_long_line_and_no_content():
    """A long id is refused before it is kept; names of groups and tokens stay out of the log, good or bad."""
    group = pb.TokenGroup(name="a secret name", positions=[99])
    with serving("--log-level=debug") as (process, endpoint):
        options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
        with grpc.insecure_channel(endpoint, options=options) as channel:
            stub = AttentionPatternServiceStub(channel)
            long = "\u202e" * (LONG // 6)
            streamed = pb.StreamClassifyHeadsRequest(request=request(request_id=long))
            codes = [
                code_of(lambda: stub.ClassifyHeads(request(request_id="\x1b[31m" + long))),
                code_of(lambda: stub.ClassifyImages(pb.ClassifyImagesRequest(request_id=long))),
                code_of(lambda: list(stub.StreamClassifyHeads(iter([streamed])))),
                code_of(lambda: stub.ClassifyHeads(request(request_id="\x1b[31m\u202e", token_groups=[group]))),
                code_of(lambda: stub.ClassifyHeads(request(tokens=["another secret"] * 8))),
            ]
        process.terminate()
        lines = process.stderr.read().splitlines()
    assert codes == ["INVALID_ARGUMENT", "INVALID_ARGUMENT", "OK", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]
    assert max(map(len, lines)) < 1000
    assert all(line.isascii() and line.isprintable() for line in lines)
    calls = [call for call in map(json.loads, lines) if call["event"] == "call"]
    assert [call.get("request_id") for call in calls] == [None, None, None, "\x1b[31m\u202e", None]
    assert "secret" not in "".join(lines)


@contextmanager
def unread(*options):
    """A server whose standard error is a pipe that nobody reads; gives the process, its endpoint and the pipe."""
    reading, writing = os.pipe()
    command = [ATTENTION_SERVE, "--port=0", "--log-level=info", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing, text=True) as process:
        os.close(writing)
        try:
            yield process, endpoint_of(process.stdout.readline()), reading
        finally:
            process.kill()
            os.close(reading)


def call_often(endpoint, times):
    with grpc.insecure_channel(endpoint) as channel:
        stub = AttentionPatternServiceStub(channel)
        for _ in range(times):
            stub.GetModel(pb.GetModelRequest(), timeout=60)


def dropped_lines(port):
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if line[0] != "#")
    return float(lines["attention_log_lines_dropped_total"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reader_who_stops_stops_nothing(workers):
    """More calls are answered than pipe and queue together hold lines, and SIGTERM ends the server as ever."""
    metrics = f"--metrics-port={(port := free_port())}"
    with unread(f"--workers={workers}", metrics) as (process, endpoint, _):
        call_often(endpoint, 5000)
        assert dropped_lines(port) > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


def test_strangers_cannot_fill_the_log(tmp_path):
    """Handshakes that fail are no calls; a line for each would fill the pipe."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    with unread("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem") as (process, endpoint, reading):
        host, port = endpoint.split(":")
        for _ in range(500):
            with socket.create_connection((host, int(port))) as stranger, suppress(ConnectionError):
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                while stranger.recv(100):  # until it is refused
                    pass
        process.terminate()
        assert process.wait(120) == 0
        os.set_blocking(reading, False)
        with suppress(BlockingIOError):
            assert os.read(reading, 1000) == b""


def test_a_reader_who_comes_back_learns_how_many_lines_were_dropped():
    with unread(f"--metrics-port={(port := free_port())}") as (process, endpoint, reading):
        call_often(endpoint, 5000)
        dropped = int(dropped_lines(port))
        assert dropped > 0
        with open(reading, closefd=False) as log:
            lines = []
            until(lambda: lines.append(json.loads(log.readline())) or lines[-1]["event"] == "log lines dropped")
            assert lines[-1]["lines"] == dropped
            call_often(endpoint, 1)
            process.send_signal(signal.SIGTERM)
            lines += map(json.loads, log)
        assert process.wait(60) == 0
    assert sum(line["event"] == "call" for line in lines) == 5001 - dropped


def test_all_lines_before_the_end_are_written():
    """Also those that wait in the queue when the signal comes, as far as there is a reader."""
    with unread() as (process, endpoint, reading):
        call_often(endpoint, 2000)
        process.send_signal(signal.SIGTERM)
        with open(reading, closefd=False) as log:
            assert sum(json.loads(line)["event"] == "call" for line in log) == 2000
        assert process.wait(60) == 0


def test_a_server_without_standard_error_serves():
    command = ["sh", "-c", f"exec {ATTENTION_SERVE} --port=0 2>&-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        call_often(endpoint_of(process.stdout.readline()), 10)
        process.terminate()
        assert process.wait(60) == 0
