import json
from functools import partial

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client
from attention_patterns_service.command.cli import app
from attention_patterns_service.command.process import credentials_of
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.server.access import Tokens
from tests.helpers.drawn_maps import random_maps


def new_token(path, name, *options):
    """Makes a token as people do, and returns its characters."""
    done = CliRunner().invoke(app, ["token", "add", name, f"--tokens={path}", *options])
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


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


def test_health_answers_without_a_token_and_reflection_is_not(guarded):
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
        with Client(server.endpoint, token=secret, retry_seconds=0) as client:
            client.model(), client.model()
            with pytest.raises(errors.RateLimitError, match="bob may make 2 calls per second"):
                client.model()
        with Client(server.endpoint, token=other) as client:
            client.model()


def test_the_file_holds_hashes_and_names_only(folder, token):
    content = (folder / "tokens.json").read_text()
    assert token not in content
    (kept,) = json.loads(content)["tokens"]
    assert (kept["name"], len(kept["sha256"]), kept["calls_per_second"]) == ("alice", 64, 100)
    assert (folder / "tokens.json").stat().st_mode & 0o077 == 0


def test_a_token_of_the_same_name_is_replaced_and_a_file_that_cannot_be_read_stays(tmp_path):
    path = tmp_path / "tokens.json"
    first, other, second = new_token(path, "bob"), new_token(path, "eve"), new_token(path, "bob")
    access = Tokens(path)
    names = [access.admit([("authorization", f"Bearer {shown}")]) for shown in (other, second)]
    assert names == ["eve", "bob"]
    with pytest.raises(errors.AuthenticationError):
        access.admit([("authorization", f"Bearer {first}")])
    path.write_text("{")
    done = CliRunner().invoke(app, ["token", "add", "bob"], env={"ATTENTION_SERVE_TOKENS": str(path)})
    assert (done.exit_code, path.read_text()) == (1, "{")
    assert done.stderr.startswith(f"attention-serve token add: token file {path} cannot be read")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"tokens": []}', "holds no token"),
        (
            '{"tokens": [{"name": "a", "sha256": "abc", "calls_per_second": 1}]}',
            "'a' has a sha256 of 3 digits and 1 calls_per_second",
        ),
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


def asked_once(server, credentials=None):
    """The code of a call that is not repeated; ``Client`` would call again for ten seconds."""
    connect = partial(grpc.secure_channel, credentials=credentials) if credentials else grpc.insecure_channel
    with connect(server.endpoint) as channel:
        call = channel.unary_unary("/attention_patterns.v1.AttentionPatternService/GetModel")
        try:
            call(b"", timeout=60)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


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
    trusted = of(authority, **(shown if mutual else {}))
    with AttentionServer(classifier, port=0, credentials=credentials_of(settings)) as server:
        with Client(server.endpoint, credentials=trusted) as client:
            assert client.classify(random_maps(9, 9)).length == 9
        assert asked_once(server, trusted) is grpc.StatusCode.OK
        for refused in (None, of(trustme.CA()), *([of(authority), of(authority, **foreign)] if mutual else [])):
            assert asked_once(server, refused) is grpc.StatusCode.UNAVAILABLE


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
        ({"tls_cert": "a"}, "--tls-cert is given without --tls-key"),
        ({"tls_key": "a"}, "--tls-key is given without --tls-cert"),
        ({"tls_client_ca": "a"}, "--tls-client-ca is given without --tls-cert and --tls-key"),
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
    everyone, readable = Settings(host="0.0.0.0").warnings
    assert everyone.startswith("everyone who reaches the port on 0.0.0.0 may call: --tokens or --tls-client-ca")
    assert readable.startswith("everyone on the way to the port on 0.0.0.0 can read the calls: --tls-cert")
    assert Settings(host="0.0.0.0", tls_cert="c", tls_key="k", tokens="t").warnings == []
