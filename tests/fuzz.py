"""Bad input in bulk: what the server's methods and the classifier make of it, and whether that is right.

    python -m tests.fuzz --inputs 1000000 --seed 1

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

from classifier import PatternClassifier
from classifier.attention_map import ROW_SUM_TOLERANCE, DataType, decode, read_attention, read_declaration
from classifier.patterns import PATTERNS
from classifier.rendering import RENDERING_VERSION
from classifier.special_tokens import is_special
from service.call import Call
from service.converters import HEADS, IMAGES, STREAMED_HEADS, classification_of
from service.errors import INTERNAL_REASON, MEANINGS, Failure, attempt, status_of
from service.limits import Limits, Load
from service.methods import Methods
from service.metrics import Metrics
from service.open_inference import NAME, SERVICE, OpenInference
from service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from service.pb.inference import open_inference_pb2 as infer_pb
from tests import fuzz_seeds as seeds
from tests.fuzz_seeds import Draw, Messages

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
_DATA_TYPES = {1: "float32", 2: "float16", 3: "bfloat16", 4: "float64"}
_KINDS = {"FP32": "float32", "FP16": "float16", "BF16": "bfloat16", "FP64": "float64"}
_CONTENTS = {"FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents", "UINT8": "uint_contents"}


# What is right ------------------------------------------------------------------------------------------------------


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
        return self.maps[..., self.kept, :][..., self.kept]

    def is_attention(self):
        """Whether every map is; None within a hair of the tolerance."""
        part = self.part
        if not np.isfinite(part).all() or (part < 0).any() or (self.causal and np.triu(part, 1).any()):
            return False
        with np.errstate(over="ignore"):
            far = np.abs(part.sum(-1) - 1) - ROW_SUM_TOLERANCE[DataType(self.data_type)]
        if (far > _HAIR[self.data_type]).any():
            return False
        return None if (far > -_HAIR[self.data_type]).any() else True

    def is_causal(self):
        """Each map, as declared or layer by layer."""
        if self.causal is not None:
            return np.full(self.maps.shape[:-2], self.causal)
        empty = ~np.triu(self.part, 1).any((-2, -1))
        return np.broadcast_to(empty.all(-1, keepdims=True) if empty.ndim else empty, empty.shape)


def asked_of(maps, data_type, *, tokens=None, groups=(), ids=None, lengths=None, valid_length=None, mask=None, causal):
    """What is asked; None where a declaration does not fit. Segments are ids, lengths, or either."""
    length, kept = maps.shape[-1], np.arange(maps.shape[-1])
    if mask is not None:
        if valid_length is not None or len(mask) != length or not any(mask):
            return None
        kept = np.flatnonzero(mask)
    elif valid_length is not None:
        if not 1 <= valid_length <= length:
            return None
        kept = np.arange(valid_length)
    sizes, names = (length, len(kept)), [name for name, _ in groups]
    if tokens is not None and len(tokens) not in sizes:
        return None
    tokens = () if tokens is None else [tokens[k] for k in kept] if len(tokens) == length else tokens
    special = [token for token in dict.fromkeys(tokens) if is_special(token)]
    if len({*names, *special}) < len(names) + len(special):
        return None
    if any(not p or min(p) < 0 or max(p) >= length or not {*p} & {*kept.tolist()} for _, p in groups):
        return None
    if ids is not None and lengths is not None and ids is not lengths:
        return None
    fits = ids is not None and len(ids) in sizes and min(ids) >= 0
    if not fits and lengths is not None and min(lengths, default=0) > 0 and sum(lengths) in sizes:
        fits, ids = True, np.repeat(np.arange(len(lengths)), lengths).tolist()
    if not fits and (ids is not None or lengths is not None):
        return None
    segments = None if ids is None else [ids[k] for k in kept] if len(ids) == length else ids
    return Asked(maps, data_type, kept, segments, (*special, *names), causal)


def asked_of_heads(request):
    """What a ``ClassifyHeadsRequest`` asks, and the layers and heads selected; None where it is to be refused."""
    tensor, shape = request.attention, list(request.attention.shape)
    maps = _tensor(shape, _DATA_TYPES.get(tensor.data_type), tensor.data)
    if maps is None or request.causality not in (0, 1, 2) or len(request.request_id) > 256:
        return None
    firsts = [request.first_layer, request.first_head][4 - len(shape) :]
    wanted = [list(request.layers), list(request.heads)]
    if any(wanted[: 4 - len(shape)]):
        return None
    axes = [range(first, first + size) for first, size in zip(firsts, shape[:-2], strict=True)]
    picks = [pick or list(axis) for pick, axis in zip(wanted[4 - len(shape) :], axes, strict=True)]
    for pick, axis in zip(picks, axes, strict=True):
        if len({*pick}) < len(pick) or not {*pick} <= {*axis} or axis[-1] >= 2**32:
            return None
    for number, (pick, axis) in enumerate(zip(picks, axes, strict=True)):
        maps = maps.take([index - axis[0] for index in pick], axis=number)
    asked = asked_of(
        maps,
        _DATA_TYPES[tensor.data_type],
        tokens=list(request.tokens) or None,
        groups=[(group.name, list(group.positions)) for group in request.token_groups],
        ids=list(request.segment_ids) or None,
        lengths=list(request.segment_lengths) or None,
        valid_length=request.valid_length or None,
        mask=list(request.mask) or None,
        causal={1: True, 2: False}.get(request.causality),
    )
    return asked and (asked, picks)


def asked_of_infer(request):
    """What a ``ModelInferRequest`` asks of the maps' model, or how many images; None where it is to be refused."""
    inputs, raw = {one.name: one for one in request.inputs}, request.raw_input_contents
    names = ["images"] if request.model_name == seeds.NET else ["attention", "tokens", "segments", "mask"]
    if request.model_name not in (NAME, seeds.NET) or request.model_version not in ("", seeds.VERSION):
        return None
    if len(request.id) > 256 or len(inputs) < len(request.inputs) or not {names[0]} <= {*inputs} <= {*names}:
        return None
    if raw and (len(raw) != len(inputs) or any(one.contents.ByteSize() for one in request.inputs)):
        return None
    values = {name: _values(one, raw[k] if raw else None) for k, (name, one) in enumerate(inputs.items())}
    if any(one is None for one in values.values()) or any(inputs[n].datatype not in _TYPES[n] for n in inputs):
        return None
    if "images" in values:
        fits = values["images"].shape[1:] == (3, seeds.SIZE, seeds.SIZE)
        return len(values["images"]) if fits and _wanted(request, ["probabilities"]) else None
    stored, data_type = values["attention"], _KINDS[inputs["attention"].datatype]
    if stored.ndim not in (2, 3, 4) or stored.shape[-1] != stored.shape[-2]:
        return None
    if any(values[name].ndim != 1 for name in names[1:] if name in values):
        return None
    try:
        tokens = [token.decode() for token in values["tokens"].tolist()] if "tokens" in values else None
    except UnicodeDecodeError:
        return None
    mask, segments = (values[name].tolist() if name in values else None for name in ("mask", "segments"))
    if mask is not None and not {*mask} <= {0, 1}:
        return None
    asked = asked_of(_as_float(stored, data_type), data_type, tokens=tokens, ids=segments, mask=mask, causal=None)
    if asked is None or not _wanted(request, _outputs_of(asked)):
        return None
    return asked


_TYPES = {
    **{"attention": tuple(_KINDS), "tokens": ("BYTES",), "segments": ("INT32", "INT64"), "mask": ("BOOL",)},
    "images": ("UINT8",),
}
_RATIOS = ("share", "max_token_share", "baseline", "share_from_outside", "share_from_inside")
_MASSES = ("visible_mass", "stripe_mass", "line_mass", "stripe_or_line_mass", "segment_mass")
_ALWAYS = ("pattern", "probabilities", "margin", "uncertain", "overruled", "causal", *_MASSES[:-1], "row_entropy")
_STORED = {
    **{"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "BF16": "<u2", "UINT8": "u1", "BOOL": "u1"},
    **{"INT32": "<i4", "INT64": "<i8"},
}


def _outputs_of(asked):
    ratios = [f"attention_to.{group}.{ratio}" for group in asked.groups for ratio in _RATIOS]
    return [*_ALWAYS, "stripes", "line_offset", *ratios, *(["segment_mass"] if asked.segments is not None else [])]


def _wanted(request, there):
    names = [one.name for one in request.outputs]
    return len({*names}) == len(names) and {*names} <= {*there}


def _values(one, raw):
    """The values of an input of the protocol; None where they do not fit their shape."""
    shape, datatype = list(one.shape), one.datatype
    if min(shape, default=1) < 1 or len(shape) > 64 or datatype not in (*_STORED, "BYTES"):
        return None
    if raw is None:
        names = {"BOOL": "bool_contents", "INT32": "int_contents", "INT64": "int64_contents"} | _CONTENTS
        flat = list(getattr(one.contents, names[datatype])) if datatype in names else None
        if flat is None or (datatype == "UINT8" and max(flat, default=0) > 255):
            return None
    elif datatype == "BYTES":
        flat = _texts(raw)
    elif len(raw) % np.dtype(_STORED[datatype]).itemsize:
        return None
    else:
        flat = np.frombuffer(raw, _STORED[datatype])
    if flat is None or len(flat) != math.prod(shape):
        return None
    return np.array(flat, object if datatype == "BYTES" else _STORED[datatype]).reshape(shape)


def _texts(raw):
    texts = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        if len(raw) < 4 + size:
            return None
        texts.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return texts


def _tensor(shape, data_type, data):
    """A tensor of square maps in float64; None where it is none."""
    if data_type is None or len(shape) not in (2, 3, 4) or shape[-1] != shape[-2] or 0 in shape:
        return None
    stored = np.dtype(seeds.FLOATS[data_type])
    if math.prod(shape) * stored.itemsize != len(data):
        return None
    return _as_float(np.frombuffer(data, stored).reshape(shape), data_type)


def _as_float(values, data_type):
    with np.errstate(invalid="ignore"):  # numpy tells of NaN that signal
        return decode(values, DataType(data_type))


def asked_of_arguments(attention, data_type, declared):
    """What the arguments of ``classify`` ask; None where they are to be refused."""
    given = dict(declared)
    if not isinstance(attention, np.ndarray):
        if not isinstance(attention, list) or attention is seeds.RAGGED:
            return None
        attention = np.asarray(attention)
    own = "bfloat16" if attention.dtype == np.uint16 and data_type == "bfloat16" else attention.dtype.name
    if own not in _DATA_TYPES.values() or not attention.dtype.isnative or data_type not in (None, own):
        return None
    if attention.ndim not in (2, 3, 4) or attention.shape[-1] != attention.shape[-2] or attention.size == 0:
        return None
    tokens, segments, mask = given.get("tokens"), given.get("segments"), given.get("mask")
    if tokens is not None and not (isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)):
        return None
    groups = list(given.get("token_groups", {}).items())
    if any(not _all_whole(positions) for _, positions in groups) or isinstance(given.get("valid_length"), bool):
        return None
    if segments is not None and not (_all_whole(segments) and segments and max(segments) < 2**63):
        return None
    if mask is not None and not all(type(flag) in (int, np.int64) and flag in (0, 1) for flag in mask):
        return None
    return asked_of(
        _as_float(attention, own),
        own,
        tokens=tokens,
        groups=groups,
        ids=segments,
        lengths=segments,
        valid_length=given.get("valid_length"),
        mask=mask,
        causal=given.get("causal"),
    )


def _all_whole(values):
    return all(type(value) is int for value in values)


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
        self.last = f"{type(error).__name__} in {Path(code.co_filename).name}:{code.co_name}: {str(error):.200}"


class Bench:
    """The server's methods without a server, and the classifier behind them."""

    def __init__(self, classifier=None):
        self.classifier = classifier or PatternClassifier.load()
        self.classifier.warm_up()
        metrics = Metrics(CollectorRegistry())
        metrics.loaded(self.classifier.bundle)
        self.load = Load(Limits(), metrics.under_way)
        methods = Methods(self.classifier, self.load, metrics)
        inference = OpenInference(lambda: self.classifier, self.load, metrics)
        doors = {name.rpartition("/")[2]: door.answer for name, door in inference.doors().items()}
        self.doors = doors | {
            "ClassifyHeads": methods.classify_heads,
            "StreamClassifyHeads": methods.classify_streamed,
            "ClassifyImages": methods.classify_images,
            "GetModel": methods.get_model,
        }
        self._unforeseen = _Unforeseen()
        logger = logging.getLogger("service.errors")
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
        answer = self.attempted(lambda: self.doors[name](data, call))
        if self.load.bytes or self.load._slots._value != self.load._slots._initial_value:
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
    found = asked_of_heads(request) if request is not None else None
    expected = found[0].is_attention() if found else False
    if isinstance(answer, Outcome):
        return _judged(answer, expected)
    wrong = ""
    if expected is not False:
        wrong = _wrong_heads(pb.ClassifyHeadsResponse.FromString(answer), request, *found)
    return _judged(Outcome(""), expected, wrong)


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
    found = asked_of_infer(request) if request is not None else None
    expected = found.is_attention() if isinstance(found, Asked) else found is not None
    if isinstance(answer, Outcome):
        return _judged(answer, expected)
    said = infer_pb.ModelInferResponse.FromString(answer)
    outputs = {one.name: _output(one, raw) for one, raw in zip(said.outputs, said.raw_output_contents, strict=True)}
    wrong = ""
    if isinstance(found, Asked):
        wrong = "; ".join(complaints(outputs, found))
        wanted = [one.name for one in request.outputs] or outputs
        if list(outputs) != list(wanted) or not {*wanted} <= {*_outputs_of(found)}:
            wrong += " other outputs than were asked for"
    elif found is not None:
        wrong = "; ".join(_unlikely(outputs["probabilities"]))
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
    asked = asked_of_arguments(attention, given.get("data_type"), one.declared)
    answer = bench.attempted(lambda: bench.classifier.classify(attention, **given, **one.declared))
    return _judge_library(asked, answer)


def _judge_library(asked, answer):
    expected = asked.is_attention() if asked else False
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
    asked = asked_of_arguments(one.values, one.data_type, one.declared)

    def classify():
        maps = read_attention(values, one.data_type, first_layer=draw.pick(0, 3), first_head=draw.pick(0, 3))
        return bench.classifier.classify_read(maps, read_declaration(maps.length, **one.declared))

    return _judge_library(asked, bench.attempted(classify))


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
        options = {"seed": seed, "max_len": target.longest, "timeout": 0, "rss_limit_mb": 0, "verbosity": 0}
        arguments = [f"-{option}={value}" for option, value in options.items()]
        custom = {"custom_mutator": mutator} if target.messages else {}
        atheris.Setup([name, *arguments, "-exact_artifact_path=/dev/null", corpus], one, **custom)
        atheris.Fuzz()


_CHILD = """
import sys, atheris
with atheris.instrument_imports(["classifier", "service"], ["classifier.kernel", "service.pb"]):
    from tests import fuzz
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
            what = _wait(process, tally, end)
        if what == "hangs":
            tally.found("hangs", f"stuck for {STUCK:g} s", tally.under_way)
        elif what == "crashes":
            first = "" if tally["inputs"] > before else ", before its first input"
            tally.found("crashes", f"the process died, exit code {process.returncode}{first}", tally.under_way)
        deaths += what != ""
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
