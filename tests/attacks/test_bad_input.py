"""Bad input, one by one: what must be refused, with which reason, by the library and both services."""

import subprocess
import sys

import numpy as np
import pytest

from attention_patterns_service.limits import Limits
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.inference import open_inference_pb2 as infer_pb
from attention_patterns_service.server.open_inference.methods import NAME
from tests.attacks.fuzz_expected import DATA_TYPES, KINDS
from tests.attacks.fuzz_seeds import FLOATS, RAGGED, SMALLEST, store
from tests.attacks.fuzz_targets import TARGETS, Outcome
from tests.helpers.drawn_maps import random_maps

NUMBER_OF = {name: number for number, name in DATA_TYPES.items()}
KIND_OF = {name: kind for kind, name in KINDS.items()}
EVEN = np.full((9, 9), 1 / 9)
LINE = np.eye(9)


def heads_message(values, data_type, **fields):
    tensor = pb.Tensor(data_type=NUMBER_OF[data_type], shape=values.shape, data=values.tobytes())
    return pb.ClassifyHeadsRequest(attention=tensor, **fields).SerializeToString()


def infer_message(values, data_type, *others, shape=None, **fields):
    """Returns a message to the model of maps; ``others``: name, datatype, shape and raw values."""
    tensors = [("attention", KIND_OF[data_type], shape or values.shape, values.tobytes()), *others]
    kind = infer_pb.ModelInferRequest.InferInputTensor
    return infer_pb.ModelInferRequest(
        **{"model_name": NAME} | fields,
        inputs=[kind(name=name, datatype=datatype, shape=axes) for name, datatype, axes, _ in tensors],
        raw_input_contents=[raw for *_, raw in tensors],
    ).SerializeToString()


def reason_of(bench, name, data):
    """Returns the reason of a method's refusal, "" where it answers; either is right."""
    outcome = TARGETS[name].judge(bench, data)
    assert outcome.wrong == outcome.crash == ""
    return outcome.reason


def reason_of_library(bench, attention, **arguments):
    answer = bench.attempt(lambda: bench.classifier.classify(attention, **arguments))
    if not isinstance(answer, Outcome):
        return ""
    assert answer.crash == ""
    return answer.reason


def assert_refused(bench, values, data_type, expected):
    """Asks the library and both services; ``expected``: the reason, "" where all answer."""
    given = {"data_type": data_type} if data_type == "bfloat16" else {}
    assert reason_of_library(bench, values, **given) == expected
    assert reason_of(bench, "ClassifyHeads", heads_message(values, data_type)) == expected
    assert reason_of(bench, "ModelInfer", infer_message(values, data_type)) == expected


def with_weight(maps, value, row=5, column=2):
    maps = maps.copy()
    maps[row, column] = value
    return maps


def with_row(maps, values):
    maps = maps.copy()
    maps[5] = values
    return maps


@pytest.mark.parametrize("data_type", FLOATS)
@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        pytest.param(EVEN, "", id="even"),
        pytest.param(with_weight(LINE, np.nan), "NOT_FINITE", id="NaN"),
        pytest.param(with_weight(LINE, np.inf), "NOT_FINITE", id="infinity"),
        pytest.param(with_weight(LINE, -np.inf), "NOT_FINITE", id="minus infinity"),
        pytest.param(with_row(LINE, np.nan), "NOT_FINITE", id="a row of NaN"),
        pytest.param(with_weight(LINE, -0.25), "NEGATIVE_ATTENTION", id="negative"),
        pytest.param(with_weight(LINE, 60000.0), "ROW_SUM", id="huge"),
        pytest.param(with_weight(LINE, -60000.0), "NEGATIVE_ATTENTION", id="huge and negative"),
        pytest.param(with_weight(LINE, -0.0), "", id="-0.0"),
        pytest.param(with_weight(LINE, -0.0, 2, 5), "", id="-0.0 above the diagonal"),
        pytest.param(LINE * 1e-7, "LOGITS", id="tiny rows"),
        pytest.param(with_row(LINE, 1e-7), "ROW_SUM", id="a tiny row"),
        pytest.param(with_row(LINE, 0.0), "ROW_SUM", id="an empty row"),
        pytest.param(np.zeros((9, 9)), "ROW_SUM", id="empty rows"),
        pytest.param(EVEN * 1.05, "ROW_SUM", id="rows that sum to more"),
        pytest.param(
            with_weight(with_weight(LINE, 1.5, 5, 5), -0.5), "NEGATIVE_ATTENTION", id="sums to 1, and is negative"
        ),
        pytest.param(
            with_weight(with_weight(LINE, 1.5, 5, 5), -0.5, 5, 8), "NEGATIVE_ATTENTION", id="the other way round"
        ),
        pytest.param(1.5 * LINE - 0.5 * np.roll(LINE, 1, 1), "NEGATIVE_ATTENTION", id="all sum to 1, and are negative"),
        pytest.param(np.random.default_rng(0).normal(0, 5, (9, 9)), "LOGITS", id="logits"),
        pytest.param(random_maps(9, 9).T.astype(float), "TRANSPOSED", id="transposed"),
        pytest.param(EVEN[:, :8], "SHAPE", id="not square"),
        pytest.param(EVEN[:0, :0], "SHAPE", id="0 x 0"),
        pytest.param(EVEN[None, :0], "SHAPE", id="1 x 0 x 9"),
        pytest.param(EVEN[0], "SHAPE", id="a row"),
        pytest.param(EVEN[None, None, None].repeat(2, 1), "SHAPE", id="five axes"),
    ],
)
def test_what_is_no_attention(bench, maps, expected, data_type):
    if expected == "LOGITS" and (np.asarray(maps) >= 0).all():
        expected = "ROW_SUM"  # nothing stands outside of 0 to 1
    assert_refused(bench, store(maps, data_type), data_type, expected)


@pytest.mark.parametrize(("data_type", "smallest"), list(SMALLEST.items()))
def test_the_smallest_negative_number_is_negative(bench, data_type, smallest):
    for sign, expected in ((1, ""), (-1, "NEGATIVE_ATTENTION")):
        values = store(with_weight(LINE, sign * smallest), data_type)
        assert values[5, 2] != 0
        assert_refused(bench, values, data_type, expected)


@pytest.mark.parametrize("data_type", FLOATS)
def test_what_is_above_the_diagonal(bench, data_type):
    """-0.0 is nothing, the smallest number is something."""
    for value, expected in ((-0.0, ""), (SMALLEST[data_type], "NOT_CAUSAL"), (np.nan, "NOT_CAUSAL")):
        values = store(with_weight(LINE, value, 2, 5), data_type)
        assert reason_of_library(bench, values, causal=True, data_type=data_type) == expected
        assert reason_of(bench, "ClassifyHeads", heads_message(values, data_type, causality=1)) == expected
    assert bench.classifier.classify(store(with_weight(LINE, -0.0, 2, 5), data_type), data_type=data_type).causal


@pytest.mark.parametrize("data_type", FLOATS)
def test_signalling_nan(bench, data_type):
    values = store(LINE, data_type)
    bits = {2: 0x7F81 if data_type == "bfloat16" else 0x7D01, 4: 0x7F800001, 8: 0x7FF0000000000001}[values.itemsize]
    values.view(f"u{values.itemsize}")[5, 2] = bits
    assert_refused(bench, values, data_type, "NOT_FINITE")


def test_numbers_that_overflow_are_refused_without_a_warning(bench):
    assert_refused(bench, with_row(LINE, 1e308), "float64", "ROW_SUM")
    assert_refused(bench, with_weight(with_row(LINE, 1e308), -1.0, 0, 1), "float64", "NEGATIVE_ATTENTION")
    assert_refused(
        bench,
        with_weight(with_weight(with_row(LINE, -1.0), np.inf, 7, 7), -np.inf, 7, 8),
        "float64",
        "NEGATIVE_ATTENTION",
    )


@pytest.mark.parametrize("data_type", FLOATS)
def test_every_length_is_answered(bench, data_type):
    for length in range(1, 71):
        values = store(random_maps(2, length, length), data_type)
        assert reason_of_library(bench, values, data_type=data_type) == ""


@pytest.mark.parametrize("axes", range(71))
def test_any_number_of_axes(bench, axes):
    value, expected = np.ones(1, "<f4"), "" if axes in (2, 3, 4) else "SHAPE"
    tensor = pb.Tensor(data_type=1, shape=[1] * axes, data=value.tobytes())
    request = pb.ClassifyHeadsRequest(attention=tensor).SerializeToString()
    assert reason_of(bench, "ClassifyHeads", request) == expected
    assert reason_of(bench, "ModelInfer", infer_message(value, "float32", shape=[1] * axes)) == expected
    if axes <= 64:  # of which numpy knows
        assert reason_of_library(bench, value.reshape([1] * axes)) == ("" if axes == 5 else expected)  # a batch of one


@pytest.mark.parametrize(
    "shape",
    [
        *([2**63, 2], [2**32, 2**32], [2**31], [2**31, 1, 1], [2**16] * 4, [2**63 - 1] * 64, [2**63 - 1] * 300),
        *([2**63 - 1] * 20_000, [0, 2**63 - 1, 9, 9], [0, 0], [0], []),
    ],
    ids=lambda shape: f"{len(shape)} axes",
)
def test_shapes_of_more_than_was_sent(bench, shape):
    """2**31 values are declared and 10 bytes sent; so many that their number has 378,000 digits."""
    for data_type, size in ((1, 10), (2, 10), (4, 8)):
        tensor = pb.Tensor(data_type=data_type, shape=shape, data=bytes(size))
        request = pb.ClassifyHeadsRequest(attention=tensor).SerializeToString()
        assert reason_of(bench, "ClassifyHeads", request) == "SHAPE"
    clipped = [min(size, 2**63 - 1) for size in shape]
    assert reason_of(bench, "ModelInfer", infer_message(np.zeros(2, "<f4"), "float32", shape=clipped)) == "SHAPE"


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"mask": [1] * 8}, "PADDING"),
        ({"mask": [0] * 9}, "PADDING"),
        ({"mask": [2] * 9}, "PADDING"),
        ({"mask": [[1] * 9]}, "PADDING"),
        ({"mask": RAGGED}, "PADDING"),
        ({"mask": [1] * 9, "valid_length": 9}, "PADDING"),
        ({"mask": [0, 1] * 4 + [0]}, "ROW_SUM"),
        ({"valid_length": 0}, "PADDING"),
        ({"valid_length": 10}, "PADDING"),
        ({"valid_length": 2**64}, "PADDING"),
        ({"valid_length": True}, "PADDING"),
        ({"tokens": ["a"] * 8}, "TOKENS"),
        ({"tokens": []}, "TOKENS"),
        ({"tokens": "a" * 9}, "TOKENS"),
        ({"tokens": [b"a"] * 9}, "TOKENS"),
        ({"tokens": ["\ud800"] * 9}, ""),
        ({"segments": [4, 4]}, "SEGMENTS"),
        ({"segments": [9, 0]}, "SEGMENTS"),
        ({"segments": []}, "SEGMENTS"),
        ({"segments": [-1] * 9}, "SEGMENTS"),
        ({"segments": [0.5] * 9}, "SEGMENTS"),
        ({"segments": [[0] * 9]}, "SEGMENTS"),
        ({"segments": RAGGED}, "SEGMENTS"),
        ({"segments": [2**64] * 9}, "SEGMENTS"),
        ({"segments": [2**63 - 1] * 9}, ""),
        ({"token_groups": {"": [0]}}, "TOKEN_GROUPS"),
        ({"token_groups": {"a": []}}, "TOKEN_GROUPS"),
        ({"token_groups": {"a": [9]}}, "TOKEN_GROUPS"),
        ({"token_groups": {"a": [-1]}}, "TOKEN_GROUPS"),
        ({"token_groups": {"a": [2**70]}}, "TOKEN_GROUPS"),
        ({"token_groups": {"a": ["0"]}}, "TOKEN_GROUPS"),
        ({"token_groups": {"a": RAGGED}}, "TOKEN_GROUPS"),
        ({"token_groups": {"[CLS]": [0]}, "tokens": ["[CLS]"] * 9}, "TOKEN_GROUPS"),
        ({"data_type": "int8"}, "DATA_TYPE"),
        ({"data_type": "bfloat16"}, "DATA_TYPE"),
    ],
)
def test_arguments_of_the_library_that_do_not_fit(bench, declared, expected):
    assert reason_of_library(bench, EVEN, **declared) == expected


def test_lengths_whose_sum_overflows_end_in_no_segmentation_fault():
    """In a process of its own: numpy takes the sum of these for 9, and has room for as many."""
    code = (
        "import numpy; from attention_patterns import PatternClassifier; "
        "PatternClassifier.load().classify(numpy.eye(9), segments=[2**63 - 1, 2**63 - 1, 11])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, "SegmentsError: segments is [9223372036854775807, " in done.stderr) == (1, True)


def assert_heads_refused(bench, expected, *, shape=(2, 3, 9, 9), **fields):
    values = random_maps(*shape)
    assert reason_of(bench, "ClassifyHeads", heads_message(values, "float32", **fields)) == expected
    inner = pb.ClassifyHeadsRequest.FromString(heads_message(values, "float32", **fields))
    outer = pb.StreamClassifyHeadsRequest(request=inner).SerializeToString()
    assert reason_of(bench, "StreamClassifyHeads", outer) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""),
        ({"valid_length": 2**32 - 1, "segment_lengths": [2**32 - 1]}, "SEGMENTS"),
        ({"valid_length": 2**32 - 1}, "PADDING"),
        ({"valid_length": 0}, "PADDING"),
        ({"token_groups": [pb.TokenGroup(name="", positions=[0])]}, "TOKEN_GROUPS"),
        ({"segment_lengths": [2**32 - 1] * 9}, "SEGMENTS"),
        ({"segment_lengths": [9], "segment_ids": [0] * 9}, "SEGMENTS"),
        ({"segment_ids": [2**32 - 1] * 9}, ""),
        ({"mask": [True] * 8}, "PADDING"),
        ({"mask": [False] * 9}, "PADDING"),
        ({"mask": [True] * 9, "valid_length": 9}, "PADDING"),
        ({"tokens": ["[CLS]"] * 10}, "TOKENS"),
        ({"token_groups": [pb.TokenGroup(name="a", positions=[0])] * 2}, "TOKEN_GROUPS"),
        ({"token_groups": [pb.TokenGroup(name="a", positions=[2**32 - 1])]}, "TOKEN_GROUPS"),
        ({"layers": [0, 0]}, "SELECTION"),
        ({"layers": [2]}, "SELECTION"),
        ({"heads": [2**32 - 1]}, "SELECTION"),
        ({"heads": [2, 0], "layers": [1]}, ""),
        ({"heads": [0], "first_head": 1}, "SELECTION"),
        ({"shape": (3, 9, 9), "layers": [0]}, "SELECTION"),
        ({"shape": (9, 9), "heads": [0]}, "SELECTION"),
        ({"first_layer": 2**32 - 1}, "INVALID_DECLARATION"),
        ({"first_layer": 2**32 - 2}, ""),
        ({"causality": 3}, "INVALID_DECLARATION"),
        ({"causality": -1}, "INVALID_DECLARATION"),
        ({"causality": 1}, "NOT_CAUSAL"),
        ({"request_id": "é" * 257}, "REQUEST_ID"),
    ],
)
def test_declarations_of_a_request_that_do_not_fit(bench, fields, expected):
    assert_heads_refused(bench, expected, **fields)


def test_a_small_request_for_a_giant_answer(bench):
    """A thousand maps of one token, each to be measured for a thousand groups."""
    groups = [pb.TokenGroup(name=str(number), positions=[0]) for number in range(1000)]
    request = heads_message(np.ones((1000, 1, 1), "<f4"), "float32", token_groups=groups)
    answer = bench.ask("ClassifyHeads", request)
    assert isinstance(answer, Outcome)
    assert answer.reason == "REQUEST_LIMIT"


def other_tensor(name, datatype, values):
    raw = values.tobytes() if isinstance(values, np.ndarray) else b"".join(values)
    return name, datatype, [len(values)], raw


@pytest.mark.parametrize(
    ("others", "fields", "expected"),
    [
        ([other_tensor("tokens", "BYTES", [b"\1\0\0\0a"] * 9)], {}, ""),
        ([other_tensor("tokens", "BYTES", [b"\1\0\0\0\xff"] * 9)], {}, "TOKENS"),
        ([other_tensor("tokens", "BYTES", [b"\3\0\0\0\xed\xa0\x80"] * 9)], {}, "TOKENS"),
        ([other_tensor("tokens", "BYTES", [b"\xff\xff\xff\xffa"] * 9)], {}, "TOKENS"),
        ([other_tensor("tokens", "BYTES", [b"\0\0"] * 9)], {}, "TOKENS"),
        ([other_tensor("tokens", "BYTES", [b"\0\0\0\0"] * 10)], {}, "TOKENS"),
        ([other_tensor("segments", "INT64", np.full(9, -(2**63)))], {}, "SEGMENTS"),
        ([other_tensor("segments", "INT32", np.array([4, 5], "<i4"))], {}, "SEGMENTS"),
        ([other_tensor("mask", "BOOL", np.full(9, 2, "u1"))], {}, "PADDING"),
        ([other_tensor("mask", "BOOL", np.zeros(9, "u1"))], {}, "PADDING"),
        ([other_tensor("mask", "UINT8", np.ones(9, "u1"))], {}, "PADDING"),
        ([other_tensor("attention", "FP32", np.ones(9, "<f4"))], {}, "MESSAGE"),
        ([other_tensor("images", "UINT8", np.ones(9, "u1"))], {}, "MESSAGE"),
        ([], {"model_name": "bert"}, "UNKNOWN_MODEL"),
        ([], {"id": "x" * 257}, "REQUEST_ID"),
    ],
)
def test_inputs_of_the_other_protocol_that_do_not_fit(bench, others, fields, expected):
    assert reason_of(bench, "ModelInfer", infer_message(random_maps(9, 9), "float32", *others, **fields)) == expected


FIELD_OF_TEXT = {
    "ClassifyHeads": [b"\x0a", b"\x1a", b"\x22\x03\x0a"],  # request_id, tokens, the name of a token group
    "ClassifyImages": [b"\x0a"],
    "ModelInfer": [b"\x0a", b"\x12", b"\x1a", b"\x2a\x03\x0a", b"\x32\x03\x0a"],
    "ModelMetadata": [b"\x0a", b"\x12"],
    "ModelReady": [b"\x0a", b"\x12"],
}


@pytest.mark.parametrize(("name", "tag"), [(name, tag) for name, tags in FIELD_OF_TEXT.items() for tag in tags])
def test_text_that_is_not_unicode(bench, name, tag):
    assert reason_of(bench, name, tag + b"\x01\xff") == "MESSAGE"


@pytest.mark.parametrize("spare", range(9))
def test_tags_longer_than_they_need_be(bench, spare):
    """Generated code takes up to five bytes, and so does the reading in place."""
    data = heads_message(EVEN, "float64")
    assert data[0] == 0x12
    longer = bytes([0x92, *[0x80] * spare, 0]) + data[1:]
    assert reason_of(bench, "ClassifyHeads", longer) == ("" if spare < 4 else "MESSAGE")


@pytest.mark.parametrize("name", ["ClassifyHeads", "ClassifyImages", "ModelInfer"])
def test_answers_are_no_larger_than_was_reckoned(bench, monkeypatch, name):
    """The size is known before any work is done: the load counts it, and a limit refuses it."""
    reckoned, held = [], []
    monkeypatch.setattr(Limits, "check_answer", lambda _limits, size: reckoned.append(size))
    target = TARGETS[name]
    for number in range(200):
        answer = bench.ask(name, target.seed(number))
        if not isinstance(answer, Outcome) and reckoned:
            held.append(len(answer) / reckoned[-1])
    assert max(held) <= 1
    assert len(held) > 50


@pytest.mark.parametrize("count", [1025, 80_000])
def test_more_groups_than_a_server_measures_are_refused(bench, count):
    groups = [pb.TokenGroup(name=str(number), positions=[0]) for number in range(count)]
    assert bench.ask("ClassifyHeads", heads_message(EVEN, "float64", token_groups=groups)).reason == "REQUEST_LIMIT"
