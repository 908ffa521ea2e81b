"""The Open Inference Protocol, asked by Triton's own client: descriptions, answers, errors and field numbers."""

import json
from importlib.metadata import version

import numpy as np
import pytest

from attention_patterns.rendering import render
from attention_patterns.sample import load_sample
from attention_patterns_service.pb.inference import open_inference_pb2 as pb
from attention_patterns_service.server.open_inference.methods import NAME
from tests.helpers.drawn_maps import bfloat16_bits, random_maps
from tests.helpers.open_inference import NET, assert_same_outputs, datatype_of, outputs_of, run_triton_client

SAMPLE = load_sample()
LENGTH = len(SAMPLE.tokens)
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


@pytest.fixture(scope="module")
def replies(server, tmp_path_factory):
    """Everything that the server replied to Triton's client, and under "arrays" the outputs."""
    folder = tmp_path_factory.mktemp("triton")
    cases = [*CASES, *(bad | {"name": bad["name"] or name} for name, (bad, _) in BAD.items())]
    arrays = {f"{each['name']}/{key}": values for each in cases for key, values in each["inputs"].items()}
    typed = [each | {"inputs": {key: datatype_of(values) for key, values in each["inputs"].items()}} for each in cases]
    (folder / "asked.json").write_text(json.dumps({"cases": typed, "ready": READY, "metadata": [NAME, NET]}))
    np.savez(folder / "asked.npz", **arrays)
    return run_triton_client("ask", server.endpoint, folder) | {"arrays": np.load(folder / "answers.npz")}


def classify(classifier, asked):
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


def test_server_and_models_are_described(replies, classifier):
    assert replies["live"] is replies["ready"] is True
    assert replies["models"] == {f"{NAME} ": True, f"{NET} 0.2.0": True, f"{NAME} 7": False, "bert ": False}
    assert replies["server"] == {"name": NAME, "version": version("attention-patterns")}
    assert replies["metadata"][NET] == {
        "name": NET,
        "versions": [classifier.bundle.version],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": ["-1", "3", "48", "48"]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": ["-1", "5"]}],
    }


def test_metadata_names_what_every_answer_holds(replies):
    """A request without tokens and segments; the outputs have these types and axes."""
    metadata = replies["metadata"][NAME]
    assert {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]} == {
        "attention": "FP32",
        "tokens": "BYTES",
        "segments": "INT64",
        "mask": "BOOL",
    }
    whole = {key: replies["arrays"][f"float32/{key}"] for key in (tensor["name"] for tensor in metadata["outputs"])}
    heads = {key.partition("/")[2] for key in replies["arrays"].files if key.startswith("heads/")}
    assert heads == set(whole)
    for tensor in metadata["outputs"]:
        values = whole[tensor["name"]]
        assert tensor["datatype"] == datatype_of(values), tensor
        assert len(tensor["shape"]) == values.ndim, tensor
        assert all(axis in ("-1", str(size)) for axis, size in zip(tensor["shape"], values.shape, strict=True))


@pytest.mark.parametrize("asked", [each for each in CASES if each["model"] == NAME], ids=lambda asked: asked["name"])
def test_triton_s_client_gets_the_library_s_answer(replies, classifier, asked):
    name, bundle = asked["name"], classifier.bundle
    expected = outputs_of(classify(classifier, asked))
    wanted = asked["outputs"] or list(expected)
    outputs = {
        key.partition("/")[2]: replies["arrays"][key] for key in replies["arrays"].files if key.startswith(f"{name}/")
    }
    assert_same_outputs(outputs, {key: expected[key] for key in wanted})
    assert replies["answers"][name] == {
        "id": name,
        "model": NAME,
        "version": bundle.version,
        "parameters": {"model_sha256": bundle.sha256},
    }
    if asked["outputs"]:
        assert tuple(outputs) == asked["outputs"]


@pytest.mark.parametrize("name", ["images", "named"])
def test_triton_s_client_gets_the_net_s_answer(replies, classifier, name):
    (asked,) = (each for each in CASES if each["name"] == name)
    expected = classifier.classify_images(asked["inputs"]["images"]).probabilities
    assert_same_outputs({"probabilities": replies["arrays"][f"{name}/probabilities"]}, {"probabilities": expected})
    assert replies["answers"][name]["model"] == NET


@pytest.mark.parametrize("name", BAD)
def test_each_mistake_is_named(replies, name):
    asked, message = BAD[name]
    error = replies["answers"][asked["name"] or name]
    code = "NOT_FOUND" if name in ("an unknown model", "an unknown version") else "INVALID_ARGUMENT"
    assert error["status"] == f"StatusCode.{code}"
    assert error["message"].startswith(message)


def test_numbers_are_the_standard_s(replies):
    messages = list(pb.DESCRIPTOR.message_types_by_name.values())
    nested = [inner for message in messages for inner in message.nested_types]
    assert len(messages) == 14
    for message in messages + nested:
        fields = {field.name: [field.number, field.type, field.is_repeated] for field in message.fields}
        assert fields == replies["numbers"][message.full_name], message.full_name
