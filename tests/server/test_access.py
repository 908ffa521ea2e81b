import json
import subprocess
import sys

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client
from attention_patterns_service.command.process import credentials_of
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.server.access import Tokens
from tests.helpers.drawn_maps import random_maps


def new_token(path, name, *options):
    command = [sys.executable, "-m", "attention_patterns_service.server.access", str(path), name, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def token(folder):
    return new_token(folder / "tokens.json", "alice")


@pytest.fixture(scope="module")
def guarded(classifier, folder, token):
    """A server that asks for tokens."""
    access = Tokens(folder / "tokens.json")
    with AttentionServer(classifier, port=0, access=access, reflection=True) as running:
        yield running


def test_a_known_token_is_let_in(guarded, token):
    with Client(guarded.endpoint, token=token) as client:
        assert client.classify(random_maps(9, 9)).length == 9


@pytest.mark.parametrize("shown", [None, "", "wrong", "wrong token"])
def test_any_other_token_is_refused(guarded, shown):
    with Client(guarded.endpoint, token=shown) as client, pytest.raises(errors.AuthenticationError):
        client.model()


@pytest.mark.parametrize("method", ["ClassifyHeads", "StreamClassifyHeads", "ClassifyImages", "GetModel"])
@pytest.mark.parametrize("metadata", [[], [("authorization", "Basic x")], [("authorization", "Bearer ~")]])
def test_nothing_of_ours_answers_without_a_token(guarded, method, metadata):
    with grpc.insecure_channel(guarded.endpoint) as channel:
        call = channel.unary_unary(f"/attention_patterns.v1.AttentionPatternService/{method}")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", metadata=metadata, timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_health_is_told_without_a_token_and_reflection_is_not(guarded):
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(guarded.endpoint) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked])))


def test_a_token_s_share_is_kept(classifier, tmp_path):
    secret = new_token(tmp_path / "tokens.json", "bob", "--calls-per-second=2")
    other = new_token(tmp_path / "tokens.json", "eve")
    with AttentionServer(classifier, port=0, access=Tokens(tmp_path / "tokens.json")) as server:
        with Client(server.endpoint, token=secret) as client:
            client.model(), client.model()
            with pytest.raises(errors.RateLimitError, match="bob may make 2 calls a second"):
                client.model()
        with Client(server.endpoint, token=other) as client:
            client.model()


def test_the_file_holds_hashes_and_names_only(folder, token):
    content = (folder / "tokens.json").read_text()
    assert token not in content
    (kept,) = json.loads(content)["tokens"]
    assert (kept["name"], len(kept["sha256"]), kept["calls_per_second"]) == ("alice", 64, 100)
    assert (folder / "tokens.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"tokens": []}', "holds no token"),
        ('{"tokens": [{"name": "a", "sha256": "abc", "calls_per_second": 1}]}', "'a' needs a sha256 of 64 digits"),
    ],
)
def test_a_token_file_that_is_broken_is_named(tmp_path, content, message):
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(errors.SourceError, match=f"token file {tmp_path}/tokens.json.*{message}"):
        Tokens(tmp_path / "tokens.json")


def write_certificates(folder, authority):
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")


def of(authority, **own):
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes(), **own)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_lets_in_who_trusts_and_is_trusted(classifier, authority, tmp_path, mutual):
    write_certificates(tmp_path, authority)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings = Settings(
        tls_cert=tmp_path / "cert.pem",
        tls_key=tmp_path / "key.pem",
        tls_client_ca=tmp_path / "ca.pem" if mutual else None,
    )
    mine = authority.issue_cert("client@example.org")
    shown = {
        "private_key": mine.private_key_pem.bytes(),
        "certificate_chain": mine.cert_chain_pems[0].bytes(),
    }
    stranger = trustme.CA().issue_cert("client@example.org")
    foreign = {
        "private_key": stranger.private_key_pem.bytes(),
        "certificate_chain": stranger.cert_chain_pems[0].bytes(),
    }
    with AttentionServer(classifier, port=0, credentials=credentials_of(settings)) as server:
        with Client(server.endpoint, credentials=of(authority, **(shown if mutual else {}))) as client:
            assert client.classify(random_maps(9, 9)).length == 9
        for refused in (None, of(trustme.CA()), *([of(authority), of(authority, **foreign)] if mutual else [])):
            with Client(server.endpoint, credentials=refused, timeout=3) as client, pytest.raises(errors.ServerError):
                client.model()


def test_a_renewed_certificate_is_taken_up(classifier, authority, tmp_path):
    write_certificates(tmp_path, authority)
    settings = Settings(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    successor = trustme.CA()
    with AttentionServer(classifier, port=0, credentials=credentials_of(settings)) as server:
        write_certificates(tmp_path, successor)
        with Client(server.endpoint, credentials=of(successor)) as client:
            client.model()
        (tmp_path / "key.pem").unlink()  # while it is renewed again: what there is stays
        with Client(server.endpoint, credentials=of(successor)) as client:
            client.model()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tls_cert": "a"}, "--tls-cert and --tls-key belong together"),
        ({"tls_client_ca": "a"}, "expected --tls-cert with it"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(errors.InvalidSettingsError, match=message):
        Settings(**options)


def test_a_missing_certificate_is_named(tmp_path):
    with pytest.raises(errors.SourceError, match=f"certificate file {tmp_path}/none cannot be read: No such file"):
        credentials_of(Settings(tls_cert=tmp_path / "none", tls_key=tmp_path / "none"))


def test_a_port_open_to_others_is_warned_of():
    assert Settings().warnings == []
    everyone, read = Settings(host="0.0.0.0").warnings
    assert "open to everyone who reaches it" in everyone
    assert "can read what travels" in read
    assert Settings(host="0.0.0.0", tls_cert="c", tls_key="k", tokens="t").warnings == []
