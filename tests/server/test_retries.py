"""Calls that may succeed later are repeated, by our client and by gRPC's own retry policy; the others are not."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client, Limits
from attention_patterns_service.contract.errors import DOMAIN, MEANINGS
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from attention_patterns_service.server.access import Tokens
from attention_patterns_service.server.methods import SERVICE
from attention_patterns_service.server.token_file import add_token
from tests.helpers.calls import HeldStreams, message_of, method_of
from tests.helpers.drawn_maps import random_maps
from tests.helpers.servers import until

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
# As any language spells it. The pauses are so long that only the server's word can make them short.
POLICY = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "300s",
                "maxBackoff": "300s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


@pytest.fixture
def busy(classifier):
    """A server that takes one call at a time and maps of nine tokens, and a channel to it."""
    with (
        AttentionServer(classifier, port=0, limits=Limits(calls=1, length=9)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        yield server, channel


def refusals(server):
    return server.metrics.registry.get_sample_value("attention_refused_total", {"reason": "OVERLOADED"}) or 0


def test_only_what_may_succeed_later_says_so():
    later = {meaning.reason for meaning in MEANINGS.values() if meaning.retry_after is not None}
    assert later == {"UNREACHABLE", "OVERLOADED", "RATE_LIMIT"}


def test_a_busy_server_is_asked_again(busy):
    server, channel = busy
    with ThreadPoolExecutor(1) as pool, Client(server.endpoint, retry_seconds=0.001) as client:
        with HeldStreams(channel, 1):
            asked = pool.submit(client.model)
            until(lambda: refusals(server) > 1)
        assert asked.result().max_calls == 1


def test_a_server_that_stays_busy_is_named_within_the_deadline(busy):
    server, channel = busy
    with HeldStreams(channel, 1), Client(server.endpoint, timeout=1) as client:
        with pytest.raises(errors.OverloadedError, match="1 calls are in flight, the server takes 1") as refused:
            client.model()
        assert (refused.value.name, refused.value.limit, refused.value.retry_after) == ("calls", 1, 0.2)
        assert refusals(server) > 1


def test_no_call_is_repeated_where_none_is_asked_for(busy):
    server, channel = busy
    with HeldStreams(channel, 1), Client(server.endpoint, retry_seconds=0) as client:
        with pytest.raises(errors.OverloadedError):
            client.model()
        assert refusals(server) == 1


def test_a_token_s_share_is_waited_for_and_described(classifier, tmp_path):
    token = add_token(tmp_path / "tokens.json", "bob", calls_per_second=2)
    access = Tokens(tmp_path / "tokens.json")
    with AttentionServer(classifier, port=0, access=access) as server, Client(server.endpoint, token=token) as client:
        assert [client.model().max_calls_per_second for _ in range(4)] == [2] * 4
        impatient = Client(server.endpoint, token=token, retry_seconds=0)
        with impatient, pytest.raises(errors.RateLimitError) as refused:
            impatient.model(), impatient.model(), impatient.model()
        assert (refused.value.name, refused.value.limit) == ("calls_per_second", 2)


def test_what_never_succeeds_is_asked_once(busy):
    server, _ = busy
    with Client(server.endpoint, reduce="never") as client:
        with pytest.raises(errors.RequestLimitError, match="10 tokens, expected at most 9") as refused:
            client.classify(random_maps(10, 10))
        assert (refused.value.name, refused.value.limit, refused.value.retry_after) == ("length", 9, None)
    labels = {"method": "ClassifyHeads", "code": FULL.name}
    assert server.metrics.registry.get_sample_value("attention_requests_total", labels) == 1


def details_of(refused):
    """Returns ErrorInfo and RetryInfo of a failed call, and the trailer for gRPC's own retries."""
    info, retry = ErrorInfo(), RetryInfo()
    packed = rpc_status.from_call(refused).details
    assert packed[0].Unpack(info)
    assert info.domain == DOMAIN
    assert all(detail.Unpack(retry) for detail in packed[1:])
    later = retry.retry_delay.ToMilliseconds() if retry.HasField("retry_delay") else None
    return dict(info.metadata), later, dict(refused.trailing_metadata()).get("grpc-retry-pushback-ms")


def test_a_refusal_says_when_to_come_back_or_never(busy):
    server, channel = busy
    with HeldStreams(channel, 1), pytest.raises(grpc.RpcError) as refused:
        method_of(channel, "GetModel")(b"")
    assert details_of(refused.value) == ({"name": "calls", "limit": "1"}, 200, "200")
    until(lambda: server.load.calls == 0)
    with pytest.raises(grpc.RpcError) as refused:
        method_of(channel)(message_of(random_maps(10, 10)))
    assert details_of(refused.value) == ({"name": "length", "limit": "9"}, None, "-1")


def test_an_error_in_a_stream_says_it_too(classifier):
    limits = Limits(bytes=1200, message_bytes=600, length=9)
    with (
        AttentionServer(classifier, port=0, limits=limits) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        server.load.add_bytes(messages=400)
        heads = [pb.ClassifyHeadsRequest.FromString(message_of(random_maps(n, n))) for n in (10, 5)]
        messages = [pb.StreamClassifyHeadsRequest(request=each) for each in heads]
        answers = list(AttentionPatternServiceStub(channel).StreamClassifyHeads(iter(messages)))
    full, answered = (answer.error for answer in answers)
    assert (full.reason, dict(full.metadata), full.retry_seconds) == (
        "OVERLOADED",
        {"name": "bytes", "limit": "600"},
        0.2,
    )
    assert not answered.HasField("retry_seconds")


def test_grpc_s_own_retry_policy_heeds_it(busy):
    server, _ = busy
    options = [("grpc.service_config", json.dumps(POLICY))]
    with grpc.insecure_channel(server.endpoint) as holding, grpc.insecure_channel(server.endpoint, options) as channel:
        with HeldStreams(holding, 1):
            asked = method_of(channel, "GetModel").future(b"", timeout=100)
            until(lambda: refusals(server) > 0)
        assert pb.GetModelResponse.FromString(asked.result()).max_calls == 1
        with pytest.raises(grpc.RpcError, match="expected at most 9") as refused:
            method_of(channel)(message_of(random_maps(10, 10)), timeout=100)
        assert refused.value.code() is FULL
