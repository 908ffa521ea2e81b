import hashlib
import socket
from contextlib import suppress
from functools import partial

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
from attention_patterns_service.server.address import Address
from attention_patterns_service.server.client_names import ClientNames
from attention_patterns_service.server.methods import SERVICE
from tests.helpers.calls import method_of
from tests.helpers.drawn_maps import random_maps
from tests.helpers.servers import free_port
from tests.helpers.tokens import new_token


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


def test_names_in_certificates_are_let_in_and_logged(classifier, authority, tmp_path, caplog):
    write_certificates(tmp_path, authority)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings = Settings(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem", tls_client_ca=tmp_path / "ca.pem")
    caplog.set_level("INFO", "attention_patterns")
    access = {"credentials": credentials_of(settings), "client_names": ClientNames(frozenset({"good.example.org"}))}

    def ask(name):
        leaf = authority.issue_cert(name)
        shown = of(
            authority,
            private_key=leaf.private_key_pem.bytes(),
            certificate_chain=leaf.cert_chain_pems[0].bytes(),
        )
        with grpc.secure_channel(server.endpoint, shown) as channel:
            stream = method_of(channel, "StreamClassifyHeads", "stream_stream")(iter([b""]), timeout=60)
            with suppress(grpc.RpcError):
                list(stream)
            assert asked_once(server, shown) is stream.code()
            return stream.code()

    with AttentionServer(classifier, port=0, **access) as server:
        assert ask("good.example.org") is grpc.StatusCode.OK
        assert ask("other.example.org") is grpc.StatusCode.UNAUTHENTICATED
    logged = [record for record in caplog.records if record.message in ("call", "stream")]
    assert [record.certificate for record in logged[:2]] == [["good.example.org"]] * 2
    (refused, *_) = [record for record in caplog.records if record.message == "caller refused"]
    assert refused.error == "the certificate is for 'other.example.org', who is not let in"
    assert refused.peer.startswith("ipv4:127.0.0.1:")


def test_a_refused_token_is_logged_by_the_beginning_of_its_digest(guarded, caplog):
    with Client(guarded.endpoint, token="guessed") as client, pytest.raises(errors.AuthenticationError):
        client.model()
    (refused,) = [record for record in caplog.records if record.message == "caller refused"]
    assert hashlib.sha256(b"guessed").hexdigest()[:8] in refused.error
    assert (refused.method, refused.peer[:15]) == ("GetModel", "ipv4:127.0.0.1:")
    assert "guessed" not in refused.error


def test_health_has_a_port_of_its_own_that_answers_nothing_else(classifier, authority, tmp_path):
    """Probes that speak no TLS ask there."""
    write_certificates(tmp_path, authority)
    settings = Settings(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    port = free_port()
    with (
        AttentionServer(
            classifier, port=0, credentials=credentials_of(settings), health_address=Address("127.0.0.1", port)
        ) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="Method not found"):
            method_of(channel, "GetModel")(b"")
        assert asked_once(server, of(authority)) is grpc.StatusCode.OK
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(errors.ServerError, match=f"127.0.0.1:{port} cannot be bound"):
            AttentionServer(classifier, port=0, health_address=Address("127.0.0.1", port))


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
