"""Error classes on the wire: each has a code and a reason, comes back as itself, and names who could not answer."""

import re
import socket

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client
from attention_patterns_service.contract.errors import (
    DOMAIN,
    LONGEST_MESSAGE,
    MEANINGS,
    Failure,
    attempt,
    error_of,
    status_of,
)
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from tests.helpers.drawn_maps import random_maps


def subclasses(kind):
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


def failing(error):
    def call():
        raise error

    return call


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.endpoint) as channel:
        yield AttentionPatternServiceStub(channel)


def test_every_error_has_a_code_and_a_reason_of_its_own():
    own = {kind for kind in subclasses(errors.AttentionPatternsError) if kind.__module__ == errors.__name__}
    assert own == set(MEANINGS)
    reasons = [meaning.reason for meaning in MEANINGS.values()]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", reason) for reason in reasons)


@pytest.mark.parametrize("kind", MEANINGS, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_its_class(kind):
    failure = attempt(failing(kind("row 3 sums to 2, expected 1")))
    returned = error_of(failure, "host:1")
    assert type(returned) is kind
    assert str(returned) == "row 3 sums to 2, expected 1"


def test_a_failed_call_carries_status_and_error_info(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ClassifyHeads(pb.ClassifyHeadsRequest())
    status = rpc_status.from_call(caught.value)
    info = ErrorInfo()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(status.details) == 1
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == (DOMAIN, "DATA_TYPE")
    assert status.message.startswith("attention.data_type is 0, expected one of DATA_TYPE_FLOAT64, DATA_TYPE_FLOAT32")


def test_unforeseen_errors_are_logged_and_not_sent(caplog):
    failure = attempt(failing(ZeroDivisionError("a secret")))
    assert failure == Failure(grpc.StatusCode.INTERNAL, "INTERNAL", "internal error")
    assert "a secret" in caplog.text
    assert status_of(failure).details == "internal error"
    assert str(error_of(failure, "host:1")) == "server host:1 failed: internal error"


def test_a_long_message_is_cut_to_what_the_transport_takes(stub):
    group = pb.TokenGroup(name="ü" * 100_000, positions=[9])
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[1, 1], data=np.ones(1, "<f4").tobytes())
    with pytest.raises(grpc.RpcError) as caught:
        stub.ClassifyHeads(pb.ClassifyHeadsRequest(attention=tensor, token_groups=[group]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(caught.value.details().encode()) <= LONGEST_MESSAGE


def test_a_server_that_is_missing_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and never listening
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            Client(endpoint, retry_seconds=0.3) as client,
            pytest.raises(errors.UnreachableError, match=f"{endpoint} cannot be reached: .*Connection refused"),
        ):
            client.model()


def test_a_server_that_does_not_answer_in_time_is_named():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with (
            Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.5) as client,
            pytest.raises(errors.ServerError, match="did not answer in time"),
        ):
            client.classify(np.ones((1, 1), np.float32))


def test_something_else_at_the_endpoint_is_named():
    server = grpc.server(None)
    port = server.add_insecure_port("127.0.0.1:0")
    with Client(f"127.0.0.1:{port}") as client:
        server.start()
        with pytest.raises(errors.ServerError, match=f"127.0.0.1:{port} does not know the method"):
            client.model()
        server.stop(None).wait()


def test_a_taken_port_is_an_error(server, classifier):
    with pytest.raises(errors.ServerError, match=f"{server.endpoint} cannot be bound"):
        AttentionServer(classifier, port=int(server.endpoint.split(":")[1]))


def test_declarations_that_no_message_holds_are_named(server):
    with (
        Client(server.endpoint, reduce="never") as client,
        pytest.raises(errors.InvalidDeclarationError, match="not Unicode"),
    ):
        client.classify(random_maps(9, 9), token_groups={"\udc80": [1]})
