"""Bad input in bulk: what the server's methods and the classifier make of it, and whether that is right.

    python -m tests.attacks.fuzz --inputs 1000000 --seed 1

A fuzzer that follows coverage (atheris; the compiled kernel and the net are not instrumented) feeds each target in a
process of its own. Every input must be answered, or refused with an error of ours, in ``LONGEST`` seconds; what is no
attention map must be refused and all else answered, as plain numpy in float64 decides. What is wrong goes to a folder.
"""

import hashlib
import json
import logging
import math
import os
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated

import atheris
import numpy as np
import typer
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Column, Table

from attention_patterns import PatternClassifier
from attention_patterns.attention_map import ROW_SUM_TOLERANCE, DataType, decode, read_attention, read_declaration
from attention_patterns.patterns import PATTERNS
from attention_patterns.rendering import RENDERING_VERSION
from attention_patterns.special_tokens import is_special
from attention_patterns_service.contract.converters import HEADS, IMAGES, STREAMED_HEADS, classification_of
from attention_patterns_service.contract.errors import INTERNAL_REASON, MEANINGS, Failure, attempt, status_of
from attention_patterns_service.limits import Limits
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.inference import open_inference_pb2 as infer_pb
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.methods import AttentionPatternService
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.open_inference.methods import NAME, OpenInference
from attention_patterns_service.server.pipeline import Pipeline
from tests.attacks import fuzz_seeds as seeds
from tests.attacks.fuzz_seeds import Draw, Messages

LONGEST = 5.0  # seconds an input may take
STUCK = 120.0  # seconds without progress after which a process is ended
MEMORY = 12 << 30  # bytes of address space, so that no input can ask for all there is
SEEDS = 100  # whole messages that a target begins with
MOST_DEATHS = 20  # processes of a target that may die before it is given up
BAD = ("crashes", "hangs", "wrong")
RUNS = Path("run/fuzz")
REASONS = sorted({meaning.reason for meaning in MEANINGS.values()})
OF_KERNEL = {"NOT_FINITE", "NEGATIVE_ATTENTION", "LOGITS", "TRANSPOSED", "ROW_SUM", "NOT_CAUSAL"}
_HAIR = {"float64": 1e-9, "float32": 2e-5, "float16": 2e-5, "bfloat16": 2e-5}  # undecided: what sums may round to
DATA_TYPES = {1: "float32", 2: "float16", 3: "bfloat16", 4: "float64"}
KINDS = {"FP32": "float32", "FP16": "float16", "BF16": "bfloat16", "FP64": "float64"}


# What is right ------------------------------------------------------------------------------------------------------


class Refused(Exception):  # noqa: N818 # it is what is right
    """A request is to be refused."""


def must(condition):
    """What a request has to be like."""
    if not condition:
        raise Refused


@dataclass(frozen=True)
class Asked:
    """A request that is well formed: its maps in float64, [*leading, L, L], and what is declared of them."""

    maps: np.ndarray
    data_type: str
    kept: np.ndarray
    segments: list | None
    groups: tuple
    causal: bool | None

    @property
    def part(self):
        """What is classified."""
        return self.maps[..., self.kept, :][..., self.kept]

    def is_attention(self):
        """Whether every map is; None within a hair of the tolerance."""
        part, hair = self.part, _HAIR[self.data_type]
        if not np.isfinite(part).all() or (part < 0).any() or (self.causal and np.triu(part, 1).any()):
            return False
        with np.errstate(over="ignore"):
            far = (np.abs(part.sum(-1) - 1) - ROW_SUM_TOLERANCE[DataType(self.data_type)]).max()
        return None if abs(far) <= hair else bool(far < 0)

    def is_causal(self):
        """Each map, as declared or layer by layer."""
        if self.causal is not None:
            return np.full(self.maps.shape[:-2], self.causal)
        empty = ~np.triu(self.part, 1).any((-2, -1))
        return np.broadcast_to(empty.all(-1, keepdims=True) if empty.ndim else empty, empty.shape)


def asked_of(maps, data_type, *, tokens=None, groups=(), ids=None, lengths=None, valid_length=None, mask=None, causal):
    """What is asked of maps. Segments are ids, or lengths, or, where both are the same, either."""
    length, kept = maps.shape[-1], np.arange(maps.shape[-1])
    must(valid_length is None or (mask is None and 1 <= valid_length <= length))
    must(mask is None or (len(mask) == length and any(mask)))
    if mask is not None or valid_length is not None:
        kept = np.flatnonzero(mask) if valid_length is None else kept[:valid_length]
    sizes = (length, len(kept))
    must(tokens is None or len(tokens) in sizes)
    special = [token for token in dict.fromkeys(_cropped(tokens or (), kept, length)) if is_special(token)]
    names = [*special, *(name for name, _ in groups)]
    must(len({*names}) == len(names))
    must(all(p and min(p) >= 0 and max(p) < length and {*p} & {*kept.tolist()} for _, p in groups))
    must(ids is None or lengths is None or ids is lengths)
    are_ids = ids is not None and len(ids) in sizes and min(ids) >= 0
    if lengths is not None and not are_ids:
        must(min(lengths, default=0) > 0 and sum(lengths) in sizes)
        ids, are_ids = np.repeat(np.arange(len(lengths)), lengths).tolist(), True
    must(ids is None or are_ids)
    segments = None if ids is None else _cropped(ids, kept, length)
    return Asked(maps, data_type, kept, segments, tuple(names), causal)


def _cropped(values, kept, length):
    """The values of the kept tokens, of all tokens or of these alone."""
    return [values[k] for k in kept] if len(values) == length else values


def asked_of_heads(request):
    """What a ``ClassifyHeadsRequest`` asks, and the layers and heads that are selected."""
    tensor, shape = request.attention, list(request.attention.shape)
    must(tensor.data_type in DATA_TYPES and len(shape) in (2, 3, 4))
    data_type, lone = DATA_TYPES[tensor.data_type], 4 - len(shape)
    stored = np.dtype(seeds.FLOATS[data_type])
    must(shape[-1] == shape[-2] and len(tensor.data) == math.prod(shape) * stored.itemsize > 0)
    must(request.causality in (0, 1, 2) and len(request.request_id) <= 256)
    wanted, firsts = [list(request.layers), list(request.heads)], [request.first_layer, request.first_head]
    must(not any(wanted[:lone]))
    axes = [range(first, first + size) for first, size in zip(firsts[lone:], shape[:-2], strict=True)]
    picks = [pick or list(axis) for pick, axis in zip(wanted[lone:], axes, strict=True)]
    maps = _as_float(np.frombuffer(tensor.data, stored).reshape(shape), data_type)
    for number, (pick, axis) in enumerate(zip(picks, axes, strict=True)):
        must(len({*pick}) == len(pick) and {*pick} <= {*axis} and axis[-1] < 2**32)
        maps = maps.take([index - axis[0] for index in pick], axis=number)
    asked = asked_of(
        maps,
        data_type,
        tokens=list(request.tokens) or None,
        groups=[(group.name, list(group.positions)) for group in request.token_groups],
        ids=list(request.segment_ids) or None,
        lengths=list(request.segment_lengths) or None,
        valid_length=request.valid_length or None,
        mask=list(request.mask) or None,
        causal={1: True, 2: False}.get(request.causality),
    )
    return asked, picks


def _as_float(values, data_type):
    with np.errstate(invalid="ignore"):  # numpy tells of NaN that signal
        return decode(values, DataType(data_type))


def asked_of_infer(request):
    """What a ``ModelInferRequest`` asks of the model of maps; None where it asks the net."""
    inputs, raw = {one.name: one for one in request.inputs}, request.raw_input_contents
    must(request.model_name in _INPUTS and request.model_version in ("", seeds.VERSION) and len(request.id) <= 256)
    types = _INPUTS[request.model_name]
    must(len(inputs) == len(request.inputs) and {*types} >= {*inputs} >= {next(iter(types))})
    must(all(one.datatype in types[name] for name, one in inputs.items()))
    must(not raw or (len(raw) == len(inputs) and not any(one.contents.ByteSize() for one in request.inputs)))
    values = {name: _values(one, raw[k] if raw else None) for k, (name, one) in enumerate(inputs.items())}
    wanted = [one.name for one in request.outputs]
    must(len({*wanted}) == len(wanted))
    if "images" in values:
        must(values["images"].shape[1:] == (3, seeds.SIZE, seeds.SIZE) and {*wanted} <= {"probabilities"})
        return None
    stored, data_type = values["attention"], KINDS[inputs["attention"].datatype]
    must(stored.ndim in (2, 3, 4) and stored.shape[-1] == stored.shape[-2])
    declared = {name: array.tolist() for name, array in values.items() if name != "attention"}
    must(all(values[name].ndim == 1 for name in declared) and {*declared.get("mask", ())} <= {0, 1})
    asked = asked_of(
        _as_float(stored, data_type),
        data_type,
        tokens=[_text(token) for token in declared["tokens"]] if "tokens" in declared else None,
        ids=declared.get("segments"),
        mask=declared.get("mask"),
        causal=None,
    )
    must({*wanted} <= {*outputs_there(asked)})
    return asked


_INPUTS = {
    NAME: {
        **{"attention": tuple(KINDS), "tokens": ("BYTES",), "segments": ("INT32", "INT64"), "mask": ("BOOL",)},
    },
    seeds.NET: {"images": ("UINT8",)},
}
_STORED = {
    **{"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "BF16": "<u2", "UINT8": "u1", "BOOL": "u1"},
    **{"INT32": "<i4", "INT64": "<i8", "BYTES": "O"},
}
_RATIOS = ("share", "max_token_share", "baseline", "share_from_outside", "share_from_inside")
_MASSES = ("visible_mass", "stripe_mass", "line_mass", "stripe_or_line_mass", "segment_mass")


def outputs_there(asked):
    """The names of the outputs that the model of maps has."""
    always = ("pattern", "probabilities", "margin", "uncertain", "overruled", "causal", "row_entropy", *_MASSES[:-1])
    ratios = [f"attention_to.{group}.{ratio}" for group in asked.groups for ratio in _RATIOS]
    return [*always, "stripes", "line_offset", *ratios, *_MASSES[-1:] * (asked.segments is not None)]


def _values(one, raw):
    """The values of an input of the protocol."""
    shape, datatype = list(one.shape), one.datatype
    must(min(shape, default=1) > 0 and len(shape) <= 64 and (raw is not None or datatype in seeds.CONTENTS))
    if raw is None:
        flat = list(getattr(one.contents, seeds.CONTENTS[datatype]))
        must(datatype != "UINT8" or max(flat, default=0) < 256)
    elif datatype == "BYTES":
        flat = _texts(raw)
    else:
        must(len(raw) % np.dtype(_STORED[datatype]).itemsize == 0)
        flat = np.frombuffer(raw, _STORED[datatype])
    must(len(flat) == math.prod(shape))
    return np.array(flat, _STORED[datatype]).reshape(shape)


def _texts(raw):
    texts = []
    while raw:
        size = 4 + int.from_bytes(raw[:4], "little")
        must(len(raw) >= size)
        texts.append(raw[4:size])
        raw = raw[size:]
    return texts


def _text(token):
    try:
        return token.decode()
    except UnicodeDecodeError:
        raise Refused from None


def asked_of_arguments(attention, data_type, declared):
    """What arguments of ``classify`` ask."""
    tokens, segments, mask, valid_length = (declared.get(n) for n in ("tokens", "segments", "mask", "valid_length"))
    groups = list(declared.get("token_groups", {}).items())
    must(isinstance(attention, (np.ndarray, list)) and attention is not seeds.RAGGED)
    array = np.asarray(attention)
    own = "bfloat16" if array.dtype == np.uint16 and data_type == "bfloat16" else array.dtype.name
    must(own in seeds.FLOATS and array.dtype.isnative and data_type in (None, own))
    must(array.ndim in (2, 3, 4) and array.shape[-1] == array.shape[-2] and array.size > 0)
    must(tokens is None or (isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)))
    must(all(_are_whole(positions) for _, positions in groups) and not isinstance(valid_length, bool))
    must(segments is None or (segments and _are_whole(segments) and max(segments) < 2**63))
    must(mask is None or all(type(flag) in (int, np.int64) and flag in (0, 1) for flag in mask))
    return asked_of(
        _as_float(array, own),
        own,
        tokens=tokens,
        groups=groups,
        ids=segments,
        lengths=segments,
        valid_length=valid_length,
        mask=mask,
        causal=declared.get("causal"),
    )


def _are_whole(values):
    return all(type(value) is int for value in values)


def expected_of(read, *asked):
    """What ``read`` finds to be asked, None where it refuses; and whether it is to be answered, None: undecided."""
    try:
        found = read(*asked)
    except Refused:
        return None, False
    first = found[0] if isinstance(found, tuple) else found
    return found, first.is_attention() if first else True


def complaints(outputs, asked):
    """What is wrong with an answer, by the names of the protocol's outputs; nothing where it is right."""
    leading, length, kept = asked.maps.shape[:-2], asked.maps.shape[-1], len(asked.kept)
    most = 1 + ROW_SUM_TOLERANCE[DataType(asked.data_type)] + 1e-4
    ranges = dict.fromkeys(_MASSES, (0, most)) | {"margin": (0, 1), "row_entropy": (-0.1, most * math.log(kept) + 0.1)}
    for name, values in outputs.items():
        if values.shape[: len(leading)] != leading:
            yield f"{name} is of another shape"
        low, high = ranges.get(name, (0, most) if name.startswith("attention_to.") else (-np.inf, np.inf))
        free = name.endswith(".share_from_outside")  # NaN where no row is outside
        if values.dtype.kind == "f" and not ((values >= low - 1e-6) & (values <= high) | free & np.isnan(values)).all():
            yield f"{name.rpartition('.')[2]} is out of range"
    patterns, chances, causal = (outputs.get(name) for name in ("pattern", "probabilities", "causal"))
    if patterns is not None and not {*patterns.ravel().tolist()} <= {*PATTERNS}:
        yield "an unknown pattern"
    if patterns is not None and asked.segments is not None and len({*asked.segments}) == 1 and "Block" in patterns:
        yield "Block in one segment"
    if chances is not None:
        yield from _unlikely(chances)
        if patterns is not None and "overruled" in outputs:
            first = np.array(PATTERNS)[chances.argmax(-1)]
            if ((patterns != first) != outputs["overruled"]).any():
                yield "the pattern is not the likeliest"
    if causal is not None and kept > 1 and (causal != asked.is_causal()).any():
        yield "causal is not as declared or found"
    if "stripes" in outputs and outputs["stripes"][..., np.setdiff1d(np.arange(length), asked.kept)].any():
        yield "a stripe in the padding"


def _unlikely(chances):
    sums = chances.astype(float).sum(-1)
    if chances.shape[-1] != len(PATTERNS) or not (chances >= 0).all() or not (np.abs(sums - 1) < 1e-4).all():
        yield "probabilities are none"


def outputs_of(result):
    """A ``Classification`` by the names of the protocol's outputs."""
    names = ("probabilities", "margin", "uncertain", "overruled", "causal")
    ratios = {
        f"attention_to.{group}.{ratio}": getattr(measures, ratio)
        for group, measures in result.attention_to.items()
        for ratio in _RATIOS
    }
    evidence = {name: values for name, values in vars(result.evidence).items() if values is not None}
    return {"pattern": result.patterns, **{name: getattr(result, name) for name in names}, **evidence, **ratios}


# What is fed ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of an input: the reason of its refusal, "" where it was answered; what is wrong with that."""

    reason: str
    wrong: str = ""
    crash: str = ""


class Caller:
    """Stands for a connection that stays."""

    def time_remaining(self):
        return None

    def is_active(self):
        return True

    def peer(self):
        return "fuzz"


class _Unforeseen(logging.Handler):
    """Keeps what ``attempt`` logs of an exception that is not ours."""

    def __init__(self):
        super().__init__()
        self.last = ""

    def emit(self, record):
        _, error, trace = record.exc_info
        while trace.tb_next:
            trace = trace.tb_next
        code = trace.tb_frame.f_code
        self.last = f"{type(error).__name__} in {Path(code.co_filename).name}:{code.co_name}: {error!s:.200}"


class Bench:
    """The server's methods without a server, and the classifier behind them."""

    def __init__(self, classifier=None):
        self.classifier = classifier or PatternClassifier.load()
        self.classifier.warm_up()
        metrics = Metrics(CollectorRegistry())
        metrics.set_model(self.classifier.bundle)
        self.load = Load(Limits(), metrics.set_load)
        self.turns = self.load._turns.qsize()
        pipeline = Pipeline(self.classifier, self.load, metrics)
        methods = AttentionPatternService(pipeline).methods() | OpenInference(pipeline).methods()
        self.methods = {name.rpartition("/")[2]: method.answer for name, method in methods.items()}
        self._unforeseen = _Unforeseen()
        logger = logging.getLogger("attention_patterns_service.contract.errors")
        logger.handlers, logger.propagate = [self._unforeseen], False

    def attempted(self, call):
        """The answer, or the outcome where there is none."""
        answer = attempt(call)
        if not isinstance(answer, Failure):
            return answer
        status_of(answer)
        return self.refused(answer.reason)

    def refused(self, reason):
        """The outcome of a refusal."""
        if reason == INTERNAL_REASON:
            return Outcome(reason, crash=self._unforeseen.last)
        return Outcome(reason, crash="" if reason in REASONS else f"an unknown reason: {reason}")

    def asked(self, name, data):
        """The answer of a method, or the outcome where there is none."""
        call = Call(Caller(), method=name, caller="", seconds=60.0)
        answer = self.attempted(lambda: self.methods[name](data, call))
        if self.load.bytes or self.load._turns.qsize() != self.turns:
            return Outcome("", crash="the load is not given back")
        return answer


def _judged(outcome, expected, complaint=""):
    """The outcome, found wrong where another was ``expected``: an answer, True, or a refusal; None: either will do."""
    if outcome.crash:
        return outcome
    if expected is not None and expected is bool(outcome.reason):
        complaint = "refused, expected an answer" if expected else "answered, expected a refusal"
    return Outcome(outcome.reason, wrong=complaint)


def _read(kind, data):
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def _payload(route, data):
    """The payload as the server sees it: an empty field after it, which no generated code writes, does not count."""
    return bytes(route.read(data).payload or b"")


def _heads(bench, data):
    request = _read(pb.ClassifyHeadsRequest, data)
    if request and not request.attention.data:
        request.attention.data = _payload(HEADS, data)
    return _judge_heads(request, bench.asked("ClassifyHeads", data))


def _judge_heads(request, answer):
    found, expected = expected_of(asked_of_heads, request) if request else (None, False)
    if isinstance(answer, Outcome):
        return _judged(answer, expected)
    response = pb.ClassifyHeadsResponse.FromString(answer)
    return _judged(Outcome(""), expected, _wrong_heads(response, request, *found) if found else "")


def _wrong_heads(response, request, asked, picks):
    length = asked.maps.shape[-1]
    result = classification_of([response], leading=asked.maps.shape[:-2], length=length)
    wrong = "; ".join(complaints(outputs_of(result), asked))
    places = [(0,) * (2 - len(picks)) + place for place in product(*picks)]
    if [(head.layer, head.head) for head in response.heads] != places or response.request_id != request.request_id:
        wrong += " other heads than were asked for"
    if [group.name for group in response.groups] != list(asked.groups) or response.length != len(asked.kept):
        wrong += " other groups or length than were declared"
    return wrong


def _stream(bench, data):
    request, answer = _read(pb.StreamClassifyHeadsRequest, data), bench.asked("StreamClassifyHeads", data)
    if request and not request.request.attention.data:
        request.request.attention.data = _payload(STREAMED_HEADS, data)
    if isinstance(answer, Outcome):
        return _judged(answer, request is not None)
    told, inner = pb.StreamClassifyHeadsResponse.FromString(answer), request.request if request else None
    if told.HasField("error"):
        return _judge_heads(inner, bench.refused(told.error.reason))
    return _judge_heads(inner, told.response.SerializeToString())


def _images(bench, data):
    request, answer = _read(pb.ClassifyImagesRequest, data), bench.asked("ClassifyImages", data)
    size, expected = len(request.images or _payload(IMAGES, data)) if request else 0, False
    if request and (request.rendering_version, request.image_size) == (RENDERING_VERSION, seeds.SIZE):
        expected = len(request.request_id) <= 256 and size > 0 and size % seeds.IMAGE == 0
    if isinstance(answer, Outcome):
        return _judged(answer, expected)
    said = pb.ClassifyImagesResponse.FromString(answer)
    wrong = "; ".join(_unlikely(np.array(said.probabilities, np.float32).reshape(-1, 5)))
    if len(said.probabilities) != size // seeds.IMAGE * 5:
        wrong += " other images than were asked for"
    return _judged(Outcome(""), expected, wrong)


def _infer(bench, data):
    request, answer = _read(infer_pb.ModelInferRequest, data), bench.asked("ModelInfer", data)
    asked, expected = expected_of(asked_of_infer, request) if request else (None, False)
    if isinstance(answer, Outcome):
        return _judged(answer, expected)
    said = infer_pb.ModelInferResponse.FromString(answer)
    pairs = zip(said.outputs, said.raw_output_contents, strict=True)
    outputs = {one.name: _output(one, raw) for one, raw in pairs}
    wrong = "; ".join(complaints(outputs, asked) if asked else _unlikely(outputs["probabilities"]))
    there = outputs_there(asked) if asked else ["probabilities"]
    if request and {*outputs} != {*([one.name for one in request.outputs] or there)}:
        wrong += " other outputs than were asked for"
    return _judged(Outcome(""), expected, wrong)


def _output(one, raw):
    if one.datatype == "BYTES":
        return np.array([text.decode() for text in _texts(raw)]).reshape(one.shape)
    return np.frombuffer(raw, np.bool_ if one.datatype == "BOOL" else _STORED[one.datatype]).reshape(one.shape)


def _told(name, kind, expected):
    """Feeds a method that describes; it answers whatever is a message, and one that is ``expected``."""

    def judge(bench, data):
        request, answer = _read(kind, data), bench.asked(name, data)
        outcome = answer if isinstance(answer, Outcome) else Outcome("")
        return _judged(outcome, request is not None and expected(request))

    return judge


def _any(request):
    return True


def _is_served(request):
    return request.name in (NAME, seeds.NET) and request.version in ("", seeds.VERSION)


def _library(bench, data):
    return judge_library(bench, Draw(atheris.FuzzedDataProvider(data).ConsumeIntInRange))


def judge_library(bench, draw):
    """Draws arguments of ``PatternClassifier.classify`` and judges what came of them."""
    one = seeds.drawn(draw)
    attention, given = seeds.library_arguments(draw, one)
    asked = expected_of(asked_of_arguments, attention, given.get("data_type"), one.declared)
    answer = bench.attempted(lambda: bench.classifier.classify(attention, **given, **one.declared))
    return _judge_library(*asked, answer)


def _judge_library(asked, expected, answer):
    if isinstance(answer, Outcome):
        return _judged(answer, expected)
    return _judged(Outcome(""), expected, "; ".join(complaints(outputs_of(answer), asked)) if asked else "")


def _read_in_place(bench, data):
    return judge_read(bench, Draw(atheris.FuzzedDataProvider(data).ConsumeIntInRange))


def judge_read(bench, draw):
    """The same for ``classify_read``, of values at any address, as they come in the middle of a message."""
    one, offset = seeds.drawn(draw), draw.pick(0, 15)
    buffer = bytes(offset) + one.values.tobytes()
    values = np.frombuffer(buffer, one.values.dtype, offset=offset).reshape(one.values.shape)
    asked = expected_of(asked_of_arguments, one.values, one.data_type, one.declared)
    firsts = {"first_layer": draw.pick(0, 3), "first_head": draw.pick(0, 3)}

    def classify():
        maps = read_attention(values, one.data_type, **firsts)
        return bench.classifier.classify_read(maps, read_declaration(maps.length, **one.declared))

    return _judge_library(*asked, bench.attempted(classify))


@dataclass(frozen=True)
class Target:
    """Something to be fed, with its part of all inputs; ``messages`` are None where bytes are choices, see ``Draw``."""

    judge: Callable
    part: float
    messages: Messages | None = None

    @property
    def longest(self):
        """Bytes of an input."""
        return seeds.MOST if self.messages else 400

    @property
    def classifies(self):
        """Whether its answers are of the kernel or the net."""
        return self.part > 0.01

    def seed(self, number):
        """An input that is likely to be answered."""
        return self.messages.seed(number) if self.messages else Random(number).randbytes(self.longest)


def _describing(name, expected=_any):
    kind = getattr(pb if name == "GetModel" else infer_pb, f"{name}Request")
    return Target(_told(name, kind, expected), 0.01, Messages(kind, seeds.describing_request(kind)))


TARGETS = {
    "classify": Target(_library, 0.22),
    "classify_read": Target(_read_in_place, 0.1),
    "ClassifyHeads": Target(_heads, 0.25, Messages(pb.ClassifyHeadsRequest, seeds.heads_request)),
    "StreamClassifyHeads": Target(_stream, 0.1, Messages(pb.StreamClassifyHeadsRequest, seeds.stream_request)),
    "ClassifyImages": Target(_images, 0.07, Messages(pb.ClassifyImagesRequest, seeds.images_request)),
    "ModelInfer": Target(_infer, 0.2, Messages(infer_pb.ModelInferRequest, seeds.infer_request)),
    "GetModel": _describing("GetModel"),
    "ModelMetadata": _describing("ModelMetadata", _is_served),
    "ModelReady": _describing("ModelReady"),
    "ServerMetadata": _describing("ServerMetadata"),
    "ServerLive": _describing("ServerLive"),
    "ServerReady": _describing("ServerReady"),
}


# How it is fed -------------------------------------------------------------------------------------------------------


class Tally:
    """Counts and the input under way, in files that outlive the process which writes them."""

    COUNTS = ("inputs", "answered", "crashes", "hangs", "wrong", *REASONS)

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        path = folder / f"{name}.counts"
        self._counts = np.memmap(path, np.int64, "r+" if path.exists() else "w+", shape=(len(self.COUNTS),))
        path = folder / f"{name}.input"
        self._input = np.memmap(path, np.uint8, "r+" if path.exists() else "w+", shape=(8 + 4 * seeds.MOST,))

    def __getitem__(self, count):
        return int(self._counts[self.COUNTS.index(count)])

    def add(self, count):
        self._counts[self.COUNTS.index(count)] += 1

    @property
    def under_way(self):
        """The input that was taken last."""
        return self._input[8 : 8 + int.from_bytes(self._input[:8], "little")].tobytes()

    def take(self, target, bench, data):
        """Feeds an input and counts what comes of it."""
        self._input[:8] = np.frombuffer(len(data).to_bytes(8, "little"), np.uint8)
        self._input[8 : 8 + len(data)] = np.frombuffer(data, np.uint8)
        self.add("inputs")
        outcome, seconds = _timed(target, bench, data)
        if seconds > LONGEST:  # unless something else had the cores
            seconds = _timed(target, bench, data)[1]
        if outcome.crash:
            self.found("crashes", outcome.crash, data)
        else:
            self.add(outcome.reason or "answered")
        if outcome.wrong:
            self.found("wrong", f"{outcome.reason or 'answer'}: {outcome.wrong}", data)
        if seconds > LONGEST:
            self.found("hangs", f"over {LONGEST:g} s", data)

    def found(self, kind, what, data):
        """Counts and notes something that must not be; the smallest input that shows it is kept."""
        self.add(kind)
        path = self.folder / f"{self.name}-{hashlib.sha256(what.encode()).hexdigest()[:8]}.bin"
        if not path.exists() or len(data) < path.stat().st_size:
            path.write_bytes(data)
        with (self.folder / "findings").open("a") as lines:
            lines.write(json.dumps([kind, what, path.name]) + "\n")


def _timed(target, bench, data):
    started = time.perf_counter()
    outcome = target.judge(bench, data)
    return outcome, time.perf_counter() - started


def child(name, folder, inputs, seed):
    """Feeds a target in this process, which ends with it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("error")
    target, bench, tally = TARGETS[name], Bench(), Tally(Path(folder), name)

    def one(data):
        tally.take(target, bench, data)
        if tally["inputs"] >= int(inputs):
            os._exit(0)

    def mutator(data, most, number):
        mutated = target.messages.mutated(data, number, lambda old: atheris.Mutate(old, most))
        return mutated if len(mutated) <= most else atheris.Mutate(data, most)

    with TemporaryDirectory() as corpus:  # left behind, for ``watch`` to remove
        for number in range(SEEDS):
            (Path(corpus) / str(number)).write_bytes(target.seed(number))
        options = {"seed": seed, "max_len": target.longest, "timeout": 3600, "rss_limit_mb": 0, "verbosity": 0}
        arguments = [f"-{option}={value}" for option, value in options.items()]
        custom = {"custom_mutator": mutator} if target.messages else {}
        atheris.Setup([name, *arguments, "-exact_artifact_path=/dev/null", corpus], one, **custom)
        atheris.Fuzz()


_CHILD = """
import sys, atheris
with atheris.instrument_imports(["attention_patterns", "attention_patterns_service"], ["attention_patterns.kernel", "attention_patterns_service.pb"]):
    from tests.attacks import fuzz
fuzz.child(*sys.argv[1:])
"""


def watch(name, folder, inputs, seed, end, code=_CHILD):
    """Feeds a target in processes of their own, a new one where one died or is stuck, until ``end`` at most."""
    tally, deaths = Tally(folder, name), 0
    while (before := tally["inputs"]) < inputs and deaths < MOST_DEATHS and time.monotonic() < end:
        with TemporaryDirectory() as scratch, (folder / f"{name}.log").open("ab") as log:
            arguments = [name, str(folder), str(inputs), str(seed + deaths)]
            process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments], stdout=log, stderr=log, env=os.environ | {"TMPDIR": scratch}
            )
            bad = _wait(process, tally, end)
        if bad:
            told = f"stuck for {STUCK:g} s" if bad == "hangs" else f"the process died, exit code {process.returncode}"
            tally.found(bad, told, tally.under_way)
            deaths += 1
        if tally["inputs"] == before:  # another would not come further
            break
    return tally


def _wait(process, tally, end):
    """Waits for a process; what became of it, "" where all is well."""
    moved, seen = time.monotonic(), tally["inputs"]
    while process.poll() is None:
        time.sleep(0.1)
        now, count = time.monotonic(), tally["inputs"]
        if count != seen:
            moved, seen = now, count
        if now > moved + STUCK or now > end:
            process.kill()
            process.wait()
            return "hangs" if now > moved + STUCK else ""
    return "crashes" if process.returncode else ""


def table_of(tallies):
    """What came of it, a line a target."""
    rows = {tally.name: Counter({count: tally[count] for count in Tally.COUNTS}) for tally in tallies}
    for name, row in rows.items():
        answered = row["answered"] if TARGETS[name].classifies else 0
        row["reached"] = answered + sum(row[reason] for reason in OF_KERNEL)
    numbers = ("inputs", "to kernel or net", "answered", "refused", "by reason", *BAD)
    table = Table("target", *(Column(name, justify="left" if name == "by reason" else "right") for name in numbers))
    for name, row in (*rows.items(), ("all", sum(rows.values(), Counter()))):
        reasons = {reason: row[reason] for reason in sorted(REASONS, key=lambda one: -row[one]) if row[reason]}
        table.add_row(
            name,
            f"{row['inputs']:,}",
            f"{row['reached'] / max(row['inputs'], 1):.0%}",
            f"{row['answered']:,}",
            f"{sum(reasons.values()):,}",
            ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()),
            *(f"{row[bad]:,}" for bad in BAD),
            end_section=name == list(rows)[-1],
        )
    return table


def feed(
    inputs: Annotated[int, typer.Option(help="How many, of all targets together.", min=1)] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of the first inputs and of all changes.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="A target; all by default.")] = None,
    minutes: Annotated[float, typer.Option(help="Longest that it may take.")] = 60,
    folder: Annotated[Path, typer.Option(help="Gets a folder of this run, with what is wrong.")] = RUNS,
    replay: Annotated[Path | None, typer.Option(help="An input to feed once to the target, and nothing else.")] = None,
) -> None:
    """Feeds the targets and says what came of it; exit code 1 if anything is wrong or left undone."""
    console, names = Console(width=None if sys.stdout.isatty() else 150), only or list(TARGETS)
    if replay:
        console.print(TARGETS[names[0]].judge(Bench(), replay.read_bytes()))
        return
    here = folder / time.strftime("%Y%m%d-%H%M%S")
    here.mkdir(parents=True)
    end, parts = time.monotonic() + 60 * minutes, sum(TARGETS[name].part for name in names)
    counts = {name: math.ceil(inputs * TARGETS[name].part / parts) for name in names}
    with ThreadPoolExecutor(2) as pool:
        tallies = list(pool.map(lambda name: watch(name, here, counts[name], seed, end), names))
    console.print(table_of(tallies))
    findings = here / "findings"
    found = Counter(findings.read_text().splitlines() if findings.exists() else ())
    for line, times in found.most_common():
        kind, what, name = json.loads(line)
        console.print(f"{times:,} {kind}: {what}\n    {here / name}", markup=False, highlight=False, soft_wrap=True)
    left = {tally.name: counts[tally.name] - tally["inputs"] for tally in tallies}
    for name, count in left.items():
        if count > 0:
            console.print(f"{name}: {count:,} inputs are left")
    raise typer.Exit(int(bool(found) or any(count > 0 for count in left.values())))


if __name__ == "__main__":
    typer.run(feed)
