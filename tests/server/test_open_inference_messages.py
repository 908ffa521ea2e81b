"""The Open Inference Protocol, asked by plain messages: typed contents, damage, limits, and whatever may come."""

import json
import shutil

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from attention_patterns import PatternClassifier
from attention_patterns.bundle import BUNDLED
from attention_patterns.errors import AuthenticationError
from attention_patterns.rendering import render
from attention_patterns_service import AttentionServer, Limits
from attention_patterns_service.pb.inference import open_inference_pb2 as pb
from attention_patterns_service.pb.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.open_inference.methods import NAME, SERVICE
from tests.helpers.drawn_maps import random_maps
from tests.helpers.open_inference import NET, SAMPLE, assert_same_outputs, outputs_of

DATATYPES = ("FP64", "FP32", "FP16", "BF16", "UINT8", "INT64", "INT32", "BYTES", "BOOL")
IMAGES = render(SAMPLE[0, :2], image_size=48)


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.endpoint) as channel:
        yield GRPCInferenceServiceStub(channel)


def tensor(name, datatype, shape, **contents):
    return pb.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents) if contents else None
    )


def request(*inputs, model=NAME, **fields):
    return pb.ModelInferRequest(model_name=model, inputs=inputs, **fields)


def raw_request(*shape, seed=0):
    return request(tensor("attention", "FP32", shape), raw_input_contents=[random_maps(*shape, seed=seed).tobytes()])


def arrays_of(answer):
    types = {"FP32": "<f4", "BOOL": "?", "INT32": "<i4"}
    return {
        output.name: np.frombuffer(raw, types[output.datatype]).reshape(output.shape)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        if output.datatype != "BYTES"
    }


@pytest.mark.parametrize(("datatype", "dtype", "segments"), [("FP32", "f4", "INT64"), ("FP64", "f8", "INT32")])
def test_typed_contents_are_read(stub, classifier, datatype, dtype, segments):
    maps = random_maps(2, 3, 9, 9).astype(dtype)
    tokens, ids, mask = ["[CLS]", *"abcdef", "[SEP]", "[PAD]"], [0] * 4 + [1] * 5, [True] * 8 + [False]
    maps[..., 8] = 0
    maps /= maps.sum(-1, keepdims=True)
    answer = stub.ModelInfer(
        request(
            tensor("tokens", "BYTES", [9], bytes_contents=[token.encode() for token in tokens]),
            tensor("mask", "BOOL", [9], bool_contents=mask),
            tensor("attention", datatype, maps.shape, **{f"{datatype.lower()}_contents": maps.ravel().tolist()}),
            tensor("segments", segments, [9], **{"int64_contents" if "64" in segments else "int_contents": ids}),
        )
    )
    expected = outputs_of(classifier.classify(maps, tokens=tokens, segments=ids, mask=mask))
    del expected["pattern"]
    assert_same_outputs(arrays_of(answer), expected)


@pytest.mark.parametrize("typed", [True, False])
def test_large_attention_may_stand_anywhere(stub, classifier, typed):
    """Also where it is not the payload that is read in place."""
    maps = random_maps(100, 128, 128)
    tokens = tensor("tokens", "BYTES", [128], **({"bytes_contents": [b"a"] * 128} if typed else {}))
    attention = tensor("attention", "FP32", maps.shape, **({"fp32_contents": maps.ravel().tolist()} if typed else {}))
    raw = [] if typed else [b"\1\0\0\0a" * 128, maps.tobytes()]
    answer = stub.ModelInfer(request(tokens, attention, raw_input_contents=raw))
    expected = outputs_of(classifier.classify(maps, tokens=["a"] * 128))
    np.testing.assert_array_equal(arrays_of(answer)["probabilities"], expected["probabilities"])


@pytest.mark.parametrize("field", [b"\x2a\0", b"\x32\0", b"\x3a\0", b"\x22\0", b"\x2a\2\x2a\0"])
def test_millions_of_fields_are_refused(server, field):
    with grpc.insecure_channel(server.endpoint) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        error = error_of(lambda: infer(field * (10 << 20), timeout=30), "besides its payload, expected at most 1048576")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_typed_images_are_read(stub, classifier):
    asked = tensor("images", "UINT8", [2, 3, 48, 48], uint_contents=IMAGES.ravel().tolist())
    answer = stub.ModelInfer(request(asked, model=NET))
    assert_same_outputs(arrays_of(answer), {"probabilities": classifier.classify_images(IMAGES).probabilities})


def error_of(call, message):
    """Returns the error of a call that fails with a message."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert message in caught.value.details()
    return caught.value


TINY = tensor("attention", "FP32", [1, 1])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            request(tensor("attention", "FP16", [1, 1])),
            "attention has datatype FP16 and no raw contents, expected it in raw_input_contents",
        ),
        (request(tensor("attention", "FP32", [2, 2], fp64_contents=[1] * 4)), "0 values in contents.fp32_contents"),
        (request(tensor("attention", "FP32", [-1, -1], fp32_contents=[1])), "attention has shape [-1, -1], expected"),
        (request(tensor("attention", "FP32", [1] * 70, fp32_contents=[1])), "attention has 70 axes"),
        (
            request(tensor("attention", "FP32", [1, 1], fp32_contents=[1]), raw_input_contents=[bytes(4)]),
            "attention has contents beside raw_input_contents",
        ),
        (
            request(TINY, raw_input_contents=[bytes(4)] * 2),
            "raw_input_contents has 2 entries, expected one for each of 1 inputs",
        ),
        (request(TINY, raw_input_contents=[bytes(5)]), "attention has 5 bytes, expected 4 for each FP32"),
        (request(TINY, raw_input_contents=[bytes(8)]), "2 values in raw_input_contents, expected 1"),
        (request(*[tensor("attention", "FP32", [1, 1], fp32_contents=[1])] * 2), "inputs[1] is 'attention', expected"),
        (
            request(tensor("images", "UINT8", [1, 3, 48, 48], uint_contents=[256] * 6912), model=NET),
            "images holds 256, expected 0 to 255",
        ),
    ],
)
def test_damaged_messages_are_named(stub, asked, message):
    error = error_of(lambda: stub.ModelInfer(asked), message)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\1\0\0\0a\2\0\0\0b", "tokens has 10 bytes, expected 2 texts, each after its size in 4 bytes"),
        (b"\1\0\0\0a\1\0", "tokens has 7 bytes, expected 2 texts"),
        (b"\1\0\0\0a\1\0\0\0b\1\0\0\0c", "tokens has 15 bytes, expected 2 texts"),
        (b"\1\0\0\0a", "tokens has shape [2] of BYTES and 1 values"),
        (b"\1\0\0\0a\1\0\0\0\xff", r"tokens holds b'\xff', expected UTF-8"),
    ],
)
def test_damaged_texts_are_named(stub, raw, message):
    maps = np.full((2, 2), 0.5, "<f4").tobytes()
    inputs = (tensor("attention", "FP32", [2, 2]), tensor("tokens", "BYTES", [2]))
    error_of(lambda: stub.ModelInfer(request(*inputs, raw_input_contents=[maps, raw])), message)


def test_an_error_carries_its_reason(stub):
    error = error_of(lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name="bert")), "model 'bert' is not served")
    info = ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    assert (info.domain, info.reason) == ("attention-patterns", "UNKNOWN_MODEL")


def test_warnings_travel(stub):
    answer = stub.ModelInfer(raw_request(7, 7))
    assert answer.parameters["warnings"].string_param.startswith("7 tokens are fewer than 8")


def test_limits_hold(classifier):
    limits = Limits(maps=6, length=9, message_bytes=10_000)
    with (
        AttentionServer(classifier, port=0, limits=limits) as limited,
        grpc.insecure_channel(limited.endpoint) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        for asked, message in (
            (raw_request(7, 9, 9), "the request holds 7 maps, expected at most 6"),
            (raw_request(10, 10), "attention is of 10 tokens, expected at most 9"),
            (raw_request(6, 50, 50), "larger than max"),
        ):
            error = error_of(lambda asked=asked: stub.ModelInfer(asked), message)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.ServerLive(pb.ServerLiveRequest()).live


class Closed:
    """Access that lets nobody in."""

    def identify(self, _metadata):
        raise AuthenticationError("the call shows no token")


def test_callers_without_a_token_are_refused(classifier):
    with AttentionServer(classifier, port=0, access=Closed()) as shut, grpc.insecure_channel(shut.endpoint) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for call in (
            lambda: stub.ServerLive(pb.ServerLiveRequest()),
            lambda: stub.ModelInfer(raw_request(9, 9)),
        ):
            assert error_of(call, "no token").code() is grpc.StatusCode.UNAUTHENTICATED


def test_calls_are_counted(classifier):
    registry = CollectorRegistry()
    with (
        AttentionServer(classifier, port=0, metrics=Metrics(registry)) as counted,
        grpc.insecure_channel(counted.endpoint) as channel,
    ):
        GRPCInferenceServiceStub(channel).ModelInfer(raw_request(3, 9, 9))
        counted.stop(grace=10)
    labels = {"method": "ModelInfer", "code": "OK"}
    assert registry.get_sample_value("attention_requests_total", labels) == 1
    assert registry.get_sample_value("attention_maps_per_request_sum") == 3


def test_a_model_may_be_replaced_while_it_is_served(classifier, tmp_path):
    folder = shutil.copytree(BUNDLED, tmp_path / "model")
    content = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(content | {"name": "other", "version": "7"}))
    with AttentionServer(classifier, port=0) as server, grpc.insecure_channel(server.endpoint) as channel:
        stub = GRPCInferenceServiceStub(channel)
        server.replace(PatternClassifier.load(folder))
        assert stub.ModelReady(pb.ModelReadyRequest(name="other", version="7")).ready
        assert not stub.ModelReady(pb.ModelReadyRequest(name=NET)).ready
        assert list(stub.ModelMetadata(pb.ModelMetadataRequest(name=NAME)).versions) == ["7"]
        assert stub.ModelInfer(raw_request(9, 9)).model_version == "7"


FORESEEN = (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
FITTING = {  # type, axes and values
    "attention": ("FP32", (3, 3), np.eye(3, dtype="<f4").tobytes()),
    "tokens": ("BYTES", (3,), b"\5\0\0\0[CLS]\1\0\0\0a\0\0\0\0"),
    "segments": ("INT32", (3,), np.arange(3, dtype="<i4").tobytes()),
    "mask": ("BOOL", (3,), b"\1\1\0"),
    "images": ("UINT8", (1, 3, 48, 48), bytes(3 * 48 * 48)),
}
SIZES = st.integers(-1, 9) | st.integers(-(2**63), 2**63 - 1)
TYPED = st.builds(
    pb.InferTensorContents,
    bool_contents=st.lists(st.booleans(), max_size=3),
    fp32_contents=st.just([1 / 3] * 9) | st.lists(st.floats(width=32), max_size=4),
    int_contents=st.lists(st.integers(-1, 3), max_size=3),
    bytes_contents=st.lists(st.binary(max_size=3), max_size=3),
)


@st.composite
def requests(draw):
    typed, inputs, raw = draw(st.booleans()), [], []
    names = ["images"] if (model := draw(st.sampled_from([NAME, NAME, NET]))) == NET else list(FITTING)[:4]
    optional = draw(st.permutations(names[1:]))[: draw(st.integers(0, 3))]
    for name in draw(st.permutations([*names[:1], *optional]) | st.lists(st.sampled_from(list(FITTING)), max_size=4)):
        kind, shape, values = FITTING[name]
        if draw(st.integers(0, 3)) == 0:
            kind = draw(st.just(kind) | st.sampled_from([*DATATYPES, ""]))
            shape = draw(st.just(shape) | st.lists(SIZES, max_size=5))
        inputs.append(tensor(name, kind, shape))
        if typed:
            inputs[-1].contents.CopyFrom(draw(TYPED))
        else:
            raw.append(draw(st.just(values) | st.just(values) | st.binary(max_size=40)))
    outputs = st.sampled_from(["margin", "probabilities", "attention_to.[CLS].share", ""])
    wanted = draw(st.just([]) | st.lists(outputs, max_size=2))
    return request(
        *inputs,
        model=model,
        id=draw(st.text(max_size=3)),
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in wanted],
        raw_input_contents=raw,
    )


def code_of(call):
    """Returns the code that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@settings(max_examples=400, deadline=None)
@given(asked=requests())
def test_whatever_comes_is_answered_or_refused_with_an_error_of_ours(stub, asked):
    assert code_of(lambda: stub.ModelInfer(asked)) in FORESEEN


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_answered_or_refused(server, data):
    with grpc.insecure_channel(server.endpoint) as channel:
        for name in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name:
            method = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
            assert code_of(lambda method=method: method(data)) in FORESEEN
