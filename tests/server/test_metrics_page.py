"""The metrics page beside callers who are silent, slow or many, and for readers who must show a token."""

import gzip
import signal
import ssl
import threading
from contextlib import ExitStack, contextmanager, suppress
from http.client import BadStatusLine, HTTPConnection, HTTPSConnection
from urllib.request import urlopen

import pytest
import trustme
from prometheus_client import CollectorRegistry, Gauge

from attention_patterns_service.command.metrics_page import start_metrics_page
from attention_patterns_service.command.settings import Settings
from tests.helpers.http2 import connection, read_until
from tests.helpers.servers import Holdings, free_port, run, serving, until

THREADS = 8  # of the page, one per connection


@contextmanager
def page(**settings):
    """Yields a metrics page of this process and its port."""
    registry = CollectorRegistry()
    Gauge("answer", "The answer.", registry=registry).set(42)
    running = start_metrics_page(Settings(metrics_port=free_port(), **settings), registry)
    try:
        yield running, running.server_address[1]
    finally:
        running.shutdown()
        running.server_close()


def read(port, path="/metrics"):
    with urlopen(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.read().decode()


def test_metrics_are_answered_at_any_path_and_packed_where_that_is_asked_for():
    with page() as (_, port):
        assert "answer 42.0\n" in read(port)
        assert read(port, "/") == read(port)
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        assert "answer 42.0\n" in gzip.decompress(connection.getresponse().read()).decode()


@pytest.mark.parametrize("workers", [1, 2])
def test_800_silent_connections_hold_few_threads_and_keep_nobody_out(workers):
    with (
        serving(f"--workers={workers}", f"--metrics-port={(port := free_port())}") as (process, _),
        ExitStack() as connections,
    ):
        before = Holdings.of(process.pid).threads
        for _ in range(800):
            connections.enter_context(connection(port))
        assert "attention_requests_in_flight" in read(port)
        assert Holdings.of(process.pid).threads <= before + THREADS + 2  # two may be about to end
        assert Holdings.of(process.pid).files < 200


def threads_of_connections():
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


SILENT, HALF, ENDLESS_LINE = b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n", b"GET /" + bytes(1 << 20)
MANY_HEADERS = b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 1000


@pytest.mark.parametrize("sent", [SILENT, HALF, ENDLESS_LINE, MANY_HEADERS, b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\n"])
def test_a_connection_that_does_not_ask_is_cut(sent):
    with page() as (running, port):
        running.seconds = 0.5
        with connection(port) as client:
            with suppress(ConnectionError):  # cut in the middle
                client.sendall(sent)
            read_until(client)
        assert "answer 42.0\n" in read(port)


def drip(client):
    """Sends one byte after another until the connection is cut."""
    client.settimeout(0.05)
    with suppress(ConnectionError):
        while True:
            client.sendall(b"G")
            with suppress(TimeoutError):
                if not client.recv(1):
                    return


def test_a_request_that_drips_is_cut():
    """No single wait is long: only the time of the whole connection can end it."""
    with page() as (running, port), connection(port) as client:
        running.seconds = 0.5
        drip(client)
        assert "answer 42.0\n" in read(port)


def test_an_answer_that_is_not_read_is_cut():
    with page() as (running, port):
        for number in range(3000):
            Gauge(f"g{number}", "x" * 3000, registry=running.registry)
        with connection(port, b"GET /metrics HTTP/1.1\r\n\r\n") as client:
            until(lambda: threads_of_connections() == 1)
            running.seconds = 0.5
            until(lambda: threads_of_connections() == 0)
            assert len(read_until(client)) < 3000 * 3000
        running.seconds = 60.0
        assert len(read(port)) > 3000 * 3000


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "X" * 5000])
def test_other_methods_are_refused(method):
    with page() as (_, port):
        client = HTTPConnection("127.0.0.1", port)
        client.request(method, "/metrics")
        assert client.getresponse().status >= 400
        assert "answer 42.0\n" in read(port)


def ask(port, token=None, context=None):
    """Returns the status and the text of an answer."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    client = HTTPSConnection("localhost", port, context=context) if context else HTTPConnection("127.0.0.1", port)
    client.request("GET", "/metrics", headers=headers)
    answer = client.getresponse()
    return answer.status, answer.read().decode()


def test_metrics_are_shown_to_known_readers_alone(tmp_path):
    tokens = tmp_path / "metrics.json"
    secret = run("token", "add", "prometheus", "--tokens", tokens).stdout.strip()
    with page(metrics_tokens=tokens) as (running, port):
        for shown in (None, "", "wrong", f"{secret}x"):
            status, text = ask(port, shown)
            assert (status, "answer" in text) == (401, False)
        assert ask(port, secret)[0] == 200
        tokens.write_text("{")
        running.reload()
        assert ask(port, secret)[0] == 200  # the file before it stays
        tokens.unlink()
        other = run("token", "add", "prometheus", "--tokens", tokens).stdout.strip()
        running.reload()
        assert [ask(port, shown)[0] for shown in (secret, other)] == [401, 200]


def test_a_reader_s_share_is_kept(tmp_path):
    tokens = tmp_path / "metrics.json"
    secret = run("token", "add", "often", "--tokens", tokens, "--calls-per-second=1").stdout.strip()
    with page(metrics_tokens=tokens) as (_, port):
        status, text = until(lambda: (answer := ask(port, secret))[0] != 200 and answer)
        assert (status, text) == (429, "often may make 1 calls per second; call again later\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_reads_the_tokens_of_the_metrics_again(tmp_path, workers):
    tokens = tmp_path / "metrics.json"
    first = run("token", "add", "first", "--tokens", tokens).stdout.strip()
    options = f"--metrics-port={(port := free_port())}", f"--metrics-tokens={tokens}", f"--workers={workers}"
    with serving(*options) as (process, _):
        assert ask(port, first)[0] == 200
        tokens.unlink()
        second = run("token", "add", "second", "--tokens", tokens).stdout.strip()
        process.send_signal(signal.SIGHUP)
        until(lambda: ask(port, second)[0] == 200)
        assert ask(port, first)[0] == 401


def issue(authority, folder):
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(folder / "tls.crt")


def test_metrics_are_encrypted_by_the_certificate_of_the_server(tmp_path):
    first, second = trustme.CA(), trustme.CA()
    contexts = [ssl.create_default_context(cadata=each.cert_pem.bytes().decode()) for each in (first, second)]
    issue(first, tmp_path)
    settings = {"tls_cert": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key", "metrics_tls": True}
    with page(**settings) as (running, port):
        running.seconds = 60.0
        with ExitStack() as silent:  # that never shake hands
            for _ in range(3 * THREADS):
                silent.enter_context(connection(port))
            assert "answer 42.0\n" in ask(port, context=contexts[0])[1]
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, context=contexts[1])
        with pytest.raises((ConnectionError, BadStatusLine)):
            ask(port)
        issue(second, tmp_path)  # renewed while it serves
        assert "answer 42.0\n" in ask(port, context=contexts[1])[1]
