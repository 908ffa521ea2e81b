"""The Open Inference Protocol: a real server, asked by Triton's client and, in this process, by plain messages."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from attention_patterns import PatternClassifier
from attention_patterns.bundle import BUNDLED
from attention_patterns.errors import AuthenticationError
from attention_patterns.patterns import PATTERNS
from attention_patterns.rendering import render
from attention_patterns.sample import load_sample
from attention_patterns_service import AttentionServer, Limits
from attention_patterns_service.command.cli import app
from attention_patterns_service.command.triton import export
from attention_patterns_service.pb.inference import open_inference_pb2 as pb
from attention_patterns_service.pb.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.open_inference.methods import NAME, SERVICE
from tests.helpers.drawn_maps import bfloat16_bits, random_maps

SCRIPT = Path(__file__).parents[1] / "helpers" / "triton_client.py"
SAMPLE = load_sample()
LENGTH = len(SAMPLE.tokens)
TYPES = {"f8": "FP64", "f4": "FP32", "f2": "FP16", "u2": "BF16", "u1": "UINT8", "i8": "INT64", "i4": "INT32"}
RATIOS = ("share", "max_token_share", "baseline", "share_from_outside", "share_from_inside")
NET = "attention-patterns-cnn"
DECLARED = {"tokens": np.array(SAMPLE.tokens), "segments": SAMPLE.segments}
KEPT = np.arange(LENGTH) % 5 != 3
PADDED = np.where(KEPT[:, None] & KEPT, random_maps(2, 3, LENGTH, LENGTH), 0)
PADDED[..., KEPT, :] /= PADDED[..., KEPT, :].sum(-1, keepdims=True)
ATTENTION = {
    "float32": SAMPLE.attention.astype(np.float32),
    "float16": SAMPLE.attention,
    "float64": SAMPLE.attention.astype(np.float64),
    "bfloat16": bfloat16_bits(SAMPLE.attention),
}
IMAGES = render(ATTENTION["float32"], image_size=48)


def case(name, inputs, *, model=NAME, outputs=(), version=""):
    return {"name": name, "inputs": inputs, "outputs": outputs, "model": model, "version": version}


SOME = ("margin", "attention_to.[SEP].share", "segment_mass", "pattern")
CASES = [
    *(case(name, {"attention": values} | DECLARED) for name, values in ATTENTION.items()),
    case("heads", {"attention": ATTENTION["float32"][3]}),
    case("one", {"attention": ATTENTION["float32"][3, 5], "segments": np.zeros(LENGTH, np.int32)}, version="0.2.0"),
    case("last", DECLARED | {"attention": ATTENTION["float16"]}),
    case("some", {"attention": ATTENTION["float32"]} | DECLARED, outputs=SOME),
    case("mask", {"attention": PADDED, "mask": KEPT, "segments": SAMPLE.segments[KEPT]}),
    case("images", {"images": IMAGES}, model=NET),
    case("named", {"images": IMAGES[:1]}, model=NET, outputs=("probabilities",), version="0.2.0"),
]
FLAT = {"attention": ATTENTION["float32"][0, 0]}
TOO_SHORT = f"attention has {LENGTH} query rows and {LENGTH - 1} key columns, shape"
BAD = {
    "an unknown model": (case("", FLAT, model="bert"), "model 'bert' is not served, expected"),
    "an unknown version": (case("", FLAT, version="7"), f"model {NAME} is not served in version '7', expected 0.2.0"),
    "an unknown input": (case("", FLAT | {"mass": KEPT}), "inputs[1] is 'mass', expected attention, tokens"),
    "no input": (case("", {"mask": KEPT}), "the request has no input attention"),
    "an unknown output": (case("", FLAT, outputs=("share",)), "outputs[0] is 'share', expected pattern, probabilities"),
    "an output of no declaration": (case("", FLAT, outputs=("margin", "segment_mass")), "outputs[1] is 'segment_mass'"),
    "an output twice": (case("", FLAT, outputs=("margin", "margin")), "outputs[1] is 'margin', expected"),
    "whole numbers": (
        case("", {"attention": np.eye(9, dtype=np.int64)}),
        "attention has datatype 'INT64', expected FP32 or FP64 or FP16 or BF16",
    ),
    "another rank": (case("", {"attention": ATTENTION["float32"][None]}), "attention has 5 axes, shape [1, 6,"),
    "no square": (case("", {"attention": ATTENTION["float32"][..., :-1]}), TOO_SHORT),
    "no attention": (case("", {"attention": PADDED}), "attention[layer 0, head 0]: row 3 sums to 0, expected 1"),
    "too many tokens": (case("", FLAT | {"tokens": np.array(["a"] * 99)}), "tokens has shape [99], expected at most"),
    "lengths": (case("", FLAT | {"segments": np.array([20, LENGTH - 20])}), "segments has 2 values, expected one for"),
    "half a mask": (case("", FLAT | {"mask": KEPT[:9]}), "mask has shape [9], expected"),
    "another size": (
        case("", {"images": IMAGES[..., :47]}, model=NET),
        "images has shape [72, 3, 48, 47], expected [-1, 3, 48, 48]",
    ),
    "floats": (case("", {"images": IMAGES.astype("f4")}, model=NET), "images has datatype 'FP32', expected UINT8"),
    "a long id": (case("", FLAT) | {"name": "x" * 257}, "request_id has 257 characters"),
}
READY = [(NAME, ""), (NET, "0.2.0"), (NAME, "7"), ("bert", "")]


def datatype(values):
    return {"U": "BYTES", "b": "BOOL"}.get(values.dtype.kind) or TYPES[values.dtype.str[1:]]


def told_by(*arguments):
    """What Triton's client says in a process of its own."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(server, tmp_path_factory):
    """What Triton's client was told, and under "arrays" the outputs."""
    folder = tmp_path_factory.mktemp("triton")
    cases = [*CASES, *(bad | {"name": bad["name"] or name} for name, (bad, _) in BAD.items())]
    arrays = {f"{one['name']}/{key}": values for one in cases for key, values in one["inputs"].items()}
    typed = [
        one | {"inputs": {key: datatype(values) for key, values in one["inputs"].items()}, "outputs": one["outputs"]}
        for one in cases
    ]
    (folder / "asked.json").write_text(json.dumps({"cases": typed, "ready": READY, "metadata": [NAME, NET]}))
    np.savez(folder / "asked.npz", **arrays)
    return told_by("ask", server.endpoint, folder) | {"arrays": np.load(folder / "answers.npz")}


def expected_of(result):
    """The outputs that the library's result makes."""
    evidence = {name: values for name, values in vars(result.evidence).items() if values is not None}
    ratios = {
        f"attention_to.{group}.{ratio}": getattr(measures, ratio)
        for group, measures in result.attention_to.items()
        for ratio in RATIOS
    }
    names = ("probabilities", "margin", "uncertain", "overruled", "causal")
    return {"pattern": result.patterns} | {name: getattr(result, name) for name in names} | evidence | ratios


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, values in expected.items():
        if values.dtype.kind != "U":
            assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def classified(classifier, asked):
    inputs = asked["inputs"]
    tokens = inputs.get("tokens")
    bfloat16 = inputs["attention"].dtype == np.uint16
    return classifier.classify(
        inputs["attention"],
        tokens=None if tokens is None else tokens.tolist(),
        segments=inputs.get("segments"),
        mask=inputs.get("mask"),
        data_type="bfloat16" if bfloat16 else None,
    )


def test_server_and_models_are_described(told, classifier):
    assert told["live"] is told["ready"] is True
    assert told["models"] == {f"{NAME} ": True, f"{NET} 0.2.0": True, f"{NAME} 7": False, "bert ": False}
    assert told["server"] == {"name": NAME, "version": version("attention-patterns")}
    assert told["metadata"][NET] == {
        "name": NET,
        "versions": [classifier.bundle.version],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": ["-1", "3", "48", "48"]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": ["-1", "5"]}],
    }


def test_metadata_names_what_every_answer_holds(told):
    """Of a request without tokens and segments; with their types and axes."""
    metadata = told["metadata"][NAME]
    assert {one["name"]: one["datatype"] for one in metadata["inputs"]} == {
        "attention": "FP32",
        "tokens": "BYTES",
        "segments": "INT64",
        "mask": "BOOL",
    }
    whole = {key: told["arrays"][f"float32/{key}"] for key in (one["name"] for one in metadata["outputs"])}
    heads = {key.partition("/")[2] for key in told["arrays"].files if key.startswith("heads/")}
    assert heads == set(whole)
    for one in metadata["outputs"]:
        assert one["datatype"] == datatype(whole[one["name"]]), one
        assert len(one["shape"]) == whole[one["name"]].ndim, one
        assert all(axis in ("-1", str(size)) for axis, size in zip(one["shape"], whole[one["name"]].shape, strict=True))


@pytest.mark.parametrize("asked", [one for one in CASES if one["model"] == NAME], ids=lambda one: one["name"])
def test_triton_s_client_gets_the_library_s_answer(told, classifier, asked):
    name, bundle = asked["name"], classifier.bundle
    expected = expected_of(classified(classifier, asked))
    wanted = asked["outputs"] or list(expected)
    found = {key.partition("/")[2]: told["arrays"][key] for key in told["arrays"].files if key.startswith(f"{name}/")}
    assert_same(found, {key: expected[key] for key in wanted})
    assert told["answers"][name] == {
        "id": name,
        "model": NAME,
        "version": bundle.version,
        "parameters": {"model_sha256": bundle.sha256},
    }
    if asked["outputs"]:
        assert tuple(found) == asked["outputs"]


@pytest.mark.parametrize("name", ["images", "named"])
def test_triton_s_client_gets_the_net_s_answer(told, classifier, name):
    (asked,) = (one for one in CASES if one["name"] == name)
    expected = classifier.classify_images(asked["inputs"]["images"]).probabilities
    assert_same({"probabilities": told["arrays"][f"{name}/probabilities"]}, {"probabilities": expected})
    assert told["answers"][name]["model"] == NET


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told(told, name):
    asked, message = BAD[name]
    error = told["answers"][asked["name"] or name]
    code = "NOT_FOUND" if name in ("an unknown model", "an unknown version") else "INVALID_ARGUMENT"
    assert error["status"] == f"StatusCode.{code}"
    assert error["message"].startswith(message)


def test_numbers_are_the_standard_s(told):
    messages = list(pb.DESCRIPTOR.message_types_by_name.values())
    nested = [inner for message in messages for inner in message.nested_types]
    assert len(messages) == 14
    for message in messages + nested:
        fields = {field.name: [field.number, field.type, field.is_repeated] for field in message.fields}
        assert fields == told["numbers"][message.full_name], message.full_name


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
    expected = expected_of(classifier.classify(maps, tokens=tokens, segments=ids, mask=mask))
    del expected["pattern"]
    assert_same(arrays_of(answer), expected)


@pytest.mark.parametrize("typed", [True, False])
def test_large_attention_may_stand_anywhere(stub, classifier, typed):
    """Also where it is not the payload that is read in place."""
    maps = random_maps(100, 128, 128)
    tokens = tensor("tokens", "BYTES", [128], **({"bytes_contents": [b"a"] * 128} if typed else {}))
    attention = tensor("attention", "FP32", maps.shape, **({"fp32_contents": maps.ravel().tolist()} if typed else {}))
    raw = [] if typed else [b"\1\0\0\0a" * 128, maps.tobytes()]
    answer = stub.ModelInfer(request(tokens, attention, raw_input_contents=raw))
    expected = expected_of(classifier.classify(maps, tokens=["a"] * 128))
    np.testing.assert_array_equal(arrays_of(answer)["probabilities"], expected["probabilities"])


@pytest.mark.parametrize("field", [b"\x2a\0", b"\x32\0", b"\x3a\0", b"\x22\0", b"\x2a\2\x2a\0"])
def test_millions_of_fields_are_refused(server, field):
    with grpc.insecure_channel(server.endpoint) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        error = failed(lambda: infer(field * (10 << 20), timeout=30), "besides its payload, expected at most 4194304")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_typed_images_are_read(stub, classifier):
    asked = tensor("images", "UINT8", [2, 3, 48, 48], uint_contents=IMAGES[:2].ravel().tolist())
    answer = stub.ModelInfer(request(asked, model=NET))
    assert_same(arrays_of(answer), {"probabilities": classifier.classify_images(IMAGES[:2]).probabilities})


def failed(call, message):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert message in caught.value.details()
    return caught.value


ONE = tensor("attention", "FP32", [1, 1])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(tensor("attention", "FP16", [1, 1])), "attention has datatype FP16 and no raw contents, expected it in raw_input_contents"),
        (request(tensor("attention", "FP32", [2, 2], fp64_contents=[1] * 4)), "0 values in contents.fp32_contents"),
        (request(tensor("attention", "FP32", [-1, -1], fp32_contents=[1])), "attention has shape [-1, -1], expected"),
        (request(tensor("attention", "FP32", [1] * 70, fp32_contents=[1])), "attention has 70 axes"),
        (
            request(tensor("attention", "FP32", [1, 1], fp32_contents=[1]), raw_input_contents=[bytes(4)]),
            "attention has contents beside raw_input_contents",
        ),
        (
            request(ONE, raw_input_contents=[bytes(4)] * 2),
            "raw_input_contents has 2 entries, expected one for each of 1 inputs",
        ),
        (request(ONE, raw_input_contents=[bytes(5)]), "attention has 5 bytes, expected 4 for each FP32"),
        (request(ONE, raw_input_contents=[bytes(8)]), "2 values in raw_input_contents, expected 1"),
        (request(*[tensor("attention", "FP32", [1, 1], fp32_contents=[1])] * 2), "inputs[1] is 'attention', expected"),
        (
            request(tensor("images", "UINT8", [1, 3, 48, 48], uint_contents=[256] * 6912), model=NET),
            "images holds 256, expected 0 to 255",
        ),
    ],
)
def test_damaged_messages_are_told(stub, asked, message):
    error = failed(lambda: stub.ModelInfer(asked), message)
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
def test_damaged_texts_are_told(stub, raw, message):
    maps = np.full((2, 2), 0.5, "<f4").tobytes()
    inputs = (tensor("attention", "FP32", [2, 2]), tensor("tokens", "BYTES", [2]))
    failed(lambda: stub.ModelInfer(request(*inputs, raw_input_contents=[maps, raw])), message)


def test_an_error_carries_its_reason(stub):
    error = failed(lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name="bert")), "model 'bert' is not served")
    info = ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    assert (info.domain, info.reason) == ("attention-patterns", "UNKNOWN_MODEL")


def test_warnings_travel(stub):
    answer = stub.ModelInfer(raw_request(7, 7))
    assert answer.parameters["warnings"].string_param.startswith("7 tokens are fewer than 8")


def test_limits_hold(classifier):
    limits = Limits(maps=6, length=9, message_bytes=10_000)
    with AttentionServer(classifier, port=0, limits=limits) as few, grpc.insecure_channel(few.endpoint) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for asked, message in (
            (raw_request(7, 9, 9), "the request holds 7 maps, expected at most 6"),
            (raw_request(10, 10), "attention is of 10 tokens, expected at most 9"),
            (raw_request(6, 50, 50), "larger than max"),
        ):
            error = failed(lambda asked=asked: stub.ModelInfer(asked), message)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.ServerLive(pb.ServerLiveRequest()).live


class Closed:
    """Lets nobody in."""

    def admit(self, _metadata):
        raise AuthenticationError("the call shows no token")


def test_who_may_not_call_may_not_ask_either(classifier):
    with AttentionServer(classifier, port=0, access=Closed()) as shut, grpc.insecure_channel(shut.endpoint) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for call in (
            lambda: stub.ServerLive(pb.ServerLiveRequest()),
            lambda: stub.ModelInfer(raw_request(9, 9)),
        ):
            assert failed(call, "no token").code() is grpc.StatusCode.UNAUTHENTICATED


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
    told = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(told | {"name": "other", "version": "7"}))
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
    asked = draw(st.permutations(names[1:]))[: draw(st.integers(0, 3))]
    for name in draw(st.permutations([*names[:1], *asked]) | st.lists(st.sampled_from(list(FITTING)), max_size=4)):
        kind, shape, values = FITTING[name]
        if draw(st.integers(0, 3)) == 0:
            kind = draw(st.just(kind) | st.sampled_from([*TYPES.values(), "BYTES", "BOOL", ""]))
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


def outcome(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@settings(max_examples=400, deadline=None)
@given(asked=requests())
def test_whatever_comes_is_answered_or_refused_with_an_error_of_ours(stub, asked):
    assert outcome(lambda: stub.ModelInfer(asked)) in FORESEEN


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_answered_or_refused(server, data):
    with grpc.insecure_channel(server.endpoint) as channel:
        for name in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name:
            method = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
            assert outcome(lambda method=method: method(data)) in FORESEEN


def test_the_exported_model_is_one_that_triton_reads(classifier, tmp_path):
    folder = export(classifier.bundle, tmp_path / "repository", instances=3)
    config = told_by("config", folder / "config.pbtxt")
    parameters = {key: value["string_value"] for key, value in config.pop("parameters").items()}
    assert config == {
        "name": folder.name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": 1024,
        "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": ["3", "48", "48"]}],
        "output": [
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": ["5"], "label_filename": "labels.txt"},
        ],
        "instance_group": [{"kind": "KIND_CPU", "count": 3}],
        "dynamic_batching": {},
    }
    assert parameters["intra_op_thread_count"] == "1"
    assert parameters["bundle_sha256"] == classifier.bundle.sha256
    assert (folder / "labels.txt").read_text().splitlines() == list(PATTERNS)


def test_the_exported_net_answers_as_the_classifier_does(classifier, tmp_path):
    folder = export(classifier.bundle, tmp_path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "1/model.onnx", options, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"images": IMAGES})
    np.testing.assert_array_equal(found, classifier.classify(ATTENTION["float32"]).probabilities.reshape(-1, 5))


def exported(*arguments):
    """What ``attention-serve triton`` does with these arguments."""
    return CliRunner().invoke(app, ["triton", *map(str, arguments)])


def test_only_an_export_is_replaced(tmp_path):
    assert exported(tmp_path).stdout == f"{tmp_path / NET}\n"
    (tmp_path / NET / "labels.txt").write_text("old")
    assert exported(tmp_path, "--model-dir", BUNDLED).exit_code == 0
    assert (tmp_path / NET / "labels.txt").read_text() != "old"
    (tmp_path / NET / "2").mkdir()
    (tmp_path / NET / "2" / "model.onnx").write_text("another")
    done = exported(tmp_path)
    assert (done.exit_code, done.stderr) == (
        1,
        f"attention-serve triton: {tmp_path / NET} exists and is not an exported model; move it away or choose "
        "another FOLDER\n",
    )
    assert (tmp_path / NET / "2" / "model.onnx").read_text() == "another"
    assert [path.name for path in tmp_path.iterdir()] == [NET]


def test_a_bundle_that_is_not_there_is_named(tmp_path):
    done = exported(tmp_path, "--model-dir", tmp_path)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"attention-serve triton: model bundle {tmp_path} cannot be read")
