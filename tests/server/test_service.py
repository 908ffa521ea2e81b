"""The methods of the service over a real connection: answers, selections, streams, health, and the server's end."""

import signal
import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns.errors import (
    AttentionPatternsError,
    InvalidDeclarationError,
    SegmentsError,
    SelectionError,
    ShapeError,
)
from attention_patterns_service import AttentionServer, Limits
from attention_patterns_service.contract.converters import (
    HEADS,
    classification_of,
    declaration_of,
    declared_request,
    maps_of,
    request_of,
    response_of,
)
from attention_patterns_service.contract.wire import Parcel
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from attention_patterns_service.server.methods import SERVICE
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal
from tests.helpers.servers import process_of, run, until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.endpoint) as connected:
        yield connected


@pytest.fixture
def stub(channel):
    return AttentionPatternServiceStub(channel)


def request(*shape, seed=0, **fields):
    data = random_maps(*shape, seed=seed).tobytes()
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=shape, data=data)
    return pb.ClassifyHeadsRequest(attention=tensor, **fields)


def status_of(channel, service):
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service)).status


def test_health_is_reported_of_the_server_and_of_the_service(channel):
    assert SERVICE == "attention_patterns.v1.AttentionPatternService"
    assert status_of(channel, "") == status_of(channel, SERVICE) == SERVING


def test_reflection_lists_the_services_where_it_is_asked_for(classifier, channel):
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
        list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked])))
    described = AttentionServer(classifier, port=0, reflection=True)
    with described, grpc.insecure_channel(described.endpoint) as connected:
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(connected).ServerReflectionInfo(iter([asked]))
    listed = {service.name for service in answer.list_services_response.service}
    assert listed == {
        SERVICE,
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "grpc.reflection.v1.ServerReflection",
    }


def test_an_answer_holds_every_field(stub, classifier):
    tokens = ["[CLS]", *["word"] * 5, "[SEP]"]
    answer = stub.ClassifyHeads(request(2, 3, 7, 7, request_id="a text", tokens=tokens, segment_lengths=[3, 4]))
    assert (answer.request_id, answer.model_name) == ("a text", classifier.bundle.name)
    assert answer.model_version == classifier.bundle.version
    assert answer.rendering_version == classifier.bundle.rendering_version
    assert (answer.length, answer.too_short, len(answer.warnings)) == (7, True, 1)
    assert [(group.name, list(group.positions)) for group in answer.groups] == [("[CLS]", [0]), ("[SEP]", [6])]
    assert [(head.layer, head.head) for head in answer.heads] == [(n, m) for n in range(2) for m in range(3)]
    for head in answer.heads:
        assert len(head.probabilities) == 5
        assert pb.PATTERN_UNSPECIFIED < head.pattern <= pb.PATTERN_HETEROGENEOUS
        assert [to.group for to in head.attention_to] == ["[CLS]", "[SEP]"]
        assert head.evidence.HasField("segment_mass")
        assert head.evidence.HasField("line_offset") == (head.evidence.line_mass > 0)


def test_layers_and_heads_are_selected(stub):
    whole = stub.ClassifyHeads(request(4, 5, 9, 9, first_layer=6))
    some = stub.ClassifyHeads(request(4, 5, 9, 9, first_layer=6, layers=[9, 7], heads=[0, 3]))
    by_place = {(head.layer, head.head): head for head in whole.heads}
    assert [(head.layer, head.head) for head in some.heads] == [(9, 0), (9, 3), (7, 0), (7, 3)]
    assert all(head == by_place[head.layer, head.head] for head in some.heads)
    single = stub.ClassifyHeads(request(5, 9, 9, first_head=10, heads=[12]))
    assert [(head.layer, head.head) for head in single.heads] == [(0, 12)]


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"layers": [5]}, SelectionError, r"layers \[5\] are selected, expected 6 to 9, each once"),
        ({"heads": [1, 1]}, SelectionError, r"heads \[1, 1\] are selected, expected 0 to 4, each once"),
        ({"first_layer": 2**32 - 2}, InvalidDeclarationError, "the last layer has index 4294967297"),
        ({"segment_lengths": [4, 5], "segment_ids": [0] * 9}, SegmentsError, "both declared"),
        ({"segment_lengths": [1] * 8 + [2]}, SegmentsError, r"\(sum 10\), expected lengths from 1 up that sum to 9"),
        ({"segment_lengths": [2**32 - 1] * 9}, SegmentsError, "sum 38654705655"),
        ({"segment_ids": [4, 5]}, SegmentsError, "2 segment_ids are declared, expected one for each of 9 tokens"),
        ({"token_groups": [pb.TokenGroup(name="a", positions=[n]) for n in (1, 2)]}, AttentionPatternsError, "2 token"),
        ({"causality": 7}, InvalidDeclarationError, "causality is 7"),
        ({"valid_length": 10}, AttentionPatternsError, "valid_length is 10, expected 1 to 9"),
    ],
)
def test_what_a_request_declares_is_checked(classifier, fields, kind, message):
    asked = request(4, 5, 9, 9, **({"first_layer": 6} | fields))
    with pytest.raises(kind, match=message):
        classifier.classify_read(maps_of(Parcel(asked, None)), declaration_of(asked, 9))


def test_a_selection_needs_its_axis():
    with pytest.raises(SelectionError, match="expected none: the tensor has no layer axis"):
        maps_of(Parcel(request(5, 9, 9, layers=[0]), None))


@pytest.mark.parametrize(
    "shape", [[], [9], [2**63, 2], [0, 2**63, 9, 9], [9, 8], [1] * 70 + [9, 9], [4, 4], [1, 1, 1, 9, 9]]
)
def test_a_tensor_that_does_not_fit_its_data_is_named(shape):
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=shape, data=bytes(9 * 9 * 4))
    with pytest.raises(ShapeError):
        maps_of(Parcel(pb.ClassifyHeadsRequest(attention=tensor), None))


def test_a_stream_goes_on_after_a_bad_request(stub):
    good = [request(3, 9, 9, seed=n, request_id=str(n), first_layer=n) for n in range(6)]
    bad = request(2, 3, 9, 9, request_id="bad", first_layer=4)
    bad.attention.data = bytes(100) + bad.attention.data[100:]
    asked = [*good[:2], bad, pb.ClassifyHeadsRequest(request_id="empty"), *good[2:]]
    answers = list(stub.StreamClassifyHeads(pb.StreamClassifyHeadsRequest(request=each) for each in asked))
    assert [(a.request_id, a.first_layer) for a in answers] == [(r.request_id, r.first_layer) for r in asked]
    assert [a.WhichOneof("outcome") for a in answers] == ["response"] * 2 + ["error"] * 2 + ["response"] * 4
    assert (answers[2].error.code, answers[2].error.reason) == (3, "ROW_SUM")
    assert answers[2].error.message.startswith("attention[layer 4, head 0]: row 0 sums to 0,")
    assert [a.response for a in answers if a.HasField("response")] == [stub.ClassifyHeads(each) for each in good]


def test_an_answer_waits_for_no_further_request(stub):
    """The second request is sent once the first is answered."""
    answered = threading.Event()

    def requests():
        yield pb.StreamClassifyHeadsRequest(request=request(3, 9, 9))
        answered.wait()
        yield pb.StreamClassifyHeadsRequest(request=request(3, 9, 9))

    answers = stub.StreamClassifyHeads(requests())
    assert next(answers).HasField("response")
    answered.set()
    assert len(list(answers)) == 1


def test_streams_start_no_thread_and_a_cancelled_one_leaves_its_reader_free(classifier):
    def requests():
        while True:
            yield pb.StreamClassifyHeadsRequest(request=request(3, 9, 9))

    limits = Limits(calls=2)
    with AttentionServer(classifier, port=0, limits=limits) as one, grpc.insecure_channel(one.endpoint) as connected:
        stub = AttentionPatternServiceStub(connected)
        before = {thread for thread in threading.enumerate() if thread.name.startswith(("rpc", "read"))}
        for _ in range(20):
            streams = [stub.StreamClassifyHeads(requests()) for _ in range(2)]
            assert all(next(answers).HasField("response") for answers in streams)
            for answers in streams:
                answers.cancel()
            until(lambda: one.load.calls == 0)
        assert {thread for thread in threading.enumerate() if thread.name.startswith(("rpc", "read"))} == before


def test_a_message_over_the_limit_is_refused_and_the_connection_lives(classifier):
    server = AttentionServer(classifier, port=0, limits=Limits(message_bytes=1 << 20))
    with server, grpc.insecure_channel(server.endpoint) as connected:
        stub = AttentionPatternServiceStub(connected)
        large = request(2, 400, 400)
        with pytest.raises(grpc.RpcError, match=r"larger than max \(\d+ vs\. 1048576\)") as caught:
            stub.ClassifyHeads(large)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError, match="larger than max") as caught:
            list(stub.StreamClassifyHeads(iter([pb.StreamClassifyHeadsRequest(request=large)])))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.GetModel(pb.GetModelRequest()).max_message_bytes == 1 << 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_calls_in_flight_finish(number):
    """A stream is open when the signal comes; what it asks afterwards is answered, a new call is not."""
    signalled = threading.Event()

    def requests():
        yield pb.StreamClassifyHeadsRequest(request=request(3, 9, 9))
        signalled.wait()
        yield pb.StreamClassifyHeadsRequest(request=request(3, 9, 9))

    with process_of("--max-message-mib", "1", "--log-level=warning", "--grace=300") as (process, endpoint):
        with grpc.insecure_channel(endpoint) as connected:
            stub = AttentionPatternServiceStub(connected)
            states = health_pb2_grpc.HealthStub(connected).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert next(states).status == SERVING
            answers = stub.StreamClassifyHeads(requests())
            assert next(answers).HasField("response")
            process.send_signal(number)
            assert next(states).status == NOT_SERVING
            states.cancel()
            signalled.set()
            assert [answer.WhichOneof("outcome") for answer in answers] == ["response"]
        assert process.wait() == 0
        assert process.stderr.read() == ""


def test_a_bundle_that_is_missing_is_named(tmp_path):
    done = run("--port=0", "--model-dir", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"attention-serve: model bundle {tmp_path} cannot be read")


def test_a_grace_that_is_over_ends_what_is_left(classifier):
    hold = threading.Event()

    def requests():
        yield pb.StreamClassifyHeadsRequest(request=request(3, 9, 9))
        hold.wait()

    server = AttentionServer(classifier, port=0)
    server.start()
    with grpc.insecure_channel(server.endpoint) as connected:
        answers = AttentionPatternServiceStub(connected).StreamClassifyHeads(requests())
        assert next(answers).HasField("response")
        server.stop(grace=0.01)
        with pytest.raises(grpc.RpcError):
            next(answers)
        hold.set()


@pytest.mark.parametrize("shape", [(9, 9), (5, 9, 9), (3, 5, 9, 9)])
def test_requests_and_answers_come_back_equal(classifier, shape):
    maps = read_attention(random_maps(*shape), None)
    declared = {"tokens": ["[CLS]", *["word"] * 7, "[SEP]"], "token_groups": {"a": [3, 1]}, "segments": [4, 5]}
    declaration = read_declaration(9, **declared)
    parcel = HEADS.read(HEADS.write(request_of(maps, declared_request(declaration, length=9))))
    assert_equal(maps_of(parcel), maps)
    assert_equal(declaration_of(parcel.message, 9), declaration)
    result = classifier.classify_read(maps, declaration)
    answer = response_of(result, maps=maps, bundle=classifier.bundle, request_id="")
    assert_equal(classification_of([answer], leading=shape[:-2], length=9), result)


UINT32 = st.integers(0, 12) | st.integers(0, 2**32 - 1)
NUMBERS = st.lists(UINT32, max_size=12)
SMALL = st.integers(0, 4) | st.integers(0, 2**64 - 1)


@st.composite
def requests_of_any_kind(draw):
    shape = draw(st.lists(st.integers(1, 3), max_size=2)) + [draw(st.integers(1, 9))] * 2
    wanted = int(np.prod(shape)) * draw(st.sampled_from([2, 4, 8]))
    data = draw(st.binary(max_size=64) | st.binary(min_size=wanted, max_size=wanted) | st.just(bytes(wanted)))
    return pb.ClassifyHeadsRequest(
        request_id=draw(st.text(max_size=3)),
        attention=pb.Tensor(
            data_type=draw(st.integers(0, 6)), shape=draw(st.just(shape) | st.lists(SMALL, max_size=6)), data=data
        ),
        tokens=draw(st.lists(st.sampled_from(["[CLS]", "a", "[SEP]", "[PAD]", ""]), max_size=10)),
        token_groups=[pb.TokenGroup(name=n, positions=draw(NUMBERS)) for n in draw(st.lists(st.text(), max_size=3))],
        segment_lengths=draw(NUMBERS),
        segment_ids=draw(NUMBERS),
        valid_length=draw(UINT32),
        mask=draw(st.lists(st.booleans(), max_size=10)),
        causality=draw(st.integers(0, 4)),
        layers=draw(st.just([]) | NUMBERS),
        heads=draw(st.just([]) | NUMBERS),
        first_layer=draw(UINT32),
        first_head=draw(UINT32),
    )


@settings(max_examples=400, deadline=None)
@given(asked=requests_of_any_kind())
def test_whatever_comes_is_answered_or_refused_with_an_error_of_ours(classifier, asked):
    try:
        maps = maps_of(Parcel(asked, None))
        result = classifier.classify_read(maps, declaration_of(asked, maps.length))
        answer = response_of(result, maps=maps, bundle=classifier.bundle, request_id=asked.request_id)
        assert len(answer.heads) == len(maps.values)
    except AttentionPatternsError:
        pass
