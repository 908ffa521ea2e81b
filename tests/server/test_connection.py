"""The obstacle on the way to a server is named, also where the deadline is shorter than the retries."""

import socket
import warnings

import grpc
import pytest
import trustme

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client
from attention_patterns_service.connection import Address
from attention_patterns_service.retries import Retries


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def encrypted(classifier, authority):
    """A server with TLS."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    with AttentionServer(classifier, port=0, credentials=grpc.ssl_server_credentials([pair])) as server:
        yield server


@pytest.fixture
def nobody():
    """An endpoint on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def trusting(authority):
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes())


def assert_unreachable(cause, endpoint, **options):
    """Asks within a second, of the ten in which calls are repeated."""
    with Client(endpoint, timeout=1, **options) as client:
        with pytest.raises(errors.UnreachableError, match=cause) as unreachable:
            client.model()
        assert str(unreachable.value).startswith(f"server {endpoint} cannot be reached: ")


def test_a_refused_connection_is_named(nobody):
    assert_unreachable("Connection refused", nobody)


def test_a_certificate_that_is_not_trusted_is_named(encrypted):
    assert_unreachable("(?i)certificate.verify.failed", encrypted.endpoint, credentials=trusting(trustme.CA()))


def test_a_server_without_tls_is_named(server, authority):
    assert_unreachable("(?i)wrong.version.number", server.endpoint, credentials=trusting(authority))


def test_a_name_that_is_not_known_is_named():
    assert_unreachable("(?i)domain name not found", "nobody.invalid:50051")


def test_an_address_without_a_port_is_named():
    assert_unreachable("; localhost has no port, expected host:port$", "localhost")


def test_a_proxy_of_the_environment_is_named(nobody, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{nobody}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert_unreachable("Connection refused.*; the environment's http_proxy is in use, set no_proxy", "192.0.2.7:50051")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert_unreachable("Connection refused[^;]*$", nobody)


def test_the_attempt_before_is_named_where_the_last_one_ran_out_of_time():
    def refused():
        error = errors.UnreachableError("connection refused")
        error.retry_after = 0.0
        return error

    failures = iter([refused(), errors.DeadlineError("no answer in time")])

    def attempt(_seconds):
        raise next(failures)

    with pytest.raises(errors.DeadlineError, match=r"^no answer in time; the attempt before: connection refused$"):
        Retries(timeout=60, retry_seconds=60).call(attempt)


@pytest.mark.parametrize(
    ("endpoint", "hosts"),
    [
        ("127.0.0.1:50051", {"127.0.0.1": 50051}),
        ("localhost", {"localhost": None}),
        ("[::1]:50051", {"::1": 50051}),
        ("dns:///name:1", {"name": 1}),
        ("dns://10.0.0.1:53/name:1", {"name": 1}),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", {"127.0.0.1": 1, "10.0.0.1": 2}),
        ("ipv6:[::1]:1", {"::1": 1}),
        ("unix:/run/socket", {}),
        ("http://name:1", {"http://name:1": None}),
        ("name:port", {"name:port": None}),
        ("", {"": None}),
    ],
)
def test_an_address_is_taken_apart(endpoint, hosts):
    assert Address.read(endpoint).hosts == hosts


HERE = ("127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1", "dns:///localhost:1", "ipv4:127.0.0.1:1,127.0.0.2:2")
SOCKETS = ("unix:/run/socket", "unix-abstract:name")
ELSEWHERE = ("host:1", "192.0.2.7:1", "[2001:db8::1]:1", "dns:///host:1", "dns://127.0.0.1/host:1")
BOTH = "ipv4:127.0.0.1:1,192.0.2.7:1"


@pytest.mark.parametrize("endpoint", [*ELSEWHERE, BOTH])
def test_a_token_that_travels_without_tls_is_warned_of(endpoint):
    with pytest.warns(UserWarning, match=r"the token travels to .* without TLS, readable on the way: pass credentials"):
        Client(endpoint, token="secret")
    Client(endpoint).close()
    Client(endpoint, token="secret", credentials=grpc.ssl_channel_credentials()).close()


@pytest.mark.parametrize("endpoint", [*HERE, *SOCKETS])
def test_a_token_that_stays_on_this_machine_is_not(endpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Client(endpoint, token="secret").close()
