"""Right answers, as plain numpy in float64 decides: whether a request is to be answered, and whether an answer fits."""

import math
from dataclasses import dataclass, replace

import numpy as np

from attention_patterns.attention_map import ROW_SUM_TOLERANCE, DataType, decode
from attention_patterns.measures import EVIDENCE, GROUP_MEASURES
from attention_patterns.patterns import PATTERNS
from attention_patterns.special_tokens import is_special
from attention_patterns_service.server.open_inference.methods import NAME
from tests.attacks.fuzz_messages import CONTENTS, NET, SIZE, VERSION
from tests.attacks.fuzz_seeds import FLOATS, RAGGED

DATA_TYPES = {1: "float32", 2: "float16", 3: "bfloat16", 4: "float64"}  # by their number in the contract
KINDS = {"FP32": "float32", "FP16": "float16", "BF16": "bfloat16", "FP64": "float64"}
STORED = {
    **{"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "BF16": "<u2", "UINT8": "u1", "BOOL": "u1"},
    **{"INT32": "<i4", "INT64": "<i8", "BYTES": "O"},
}
_INPUTS = {
    NAME: {"attention": tuple(KINDS), "tokens": ("BYTES",), "segments": ("INT32", "INT64"), "mask": ("BOOL",)},
    NET: {"images": ("UINT8",)},
}
_PER_MAP = ("pattern", "probabilities", "margin", "uncertain", "overruled", "causal")
_GROUP = "attention_to."
_HAIR = {"float64": 1e-9, "float32": 2e-5, "float16": 2e-5, "bfloat16": 2e-5}  # undecided: what sums may round to


class Refused(Exception):  # noqa: N818 # it is no error: the request has to be refused
    """A request has to be refused."""


def must(condition):
    """Refuses a request that does not meet a condition."""
    if not condition:
        raise Refused


@dataclass(frozen=True)
class Request:
    """A well-formed request to classify maps.

    Attributes:
        maps: Maps in float64, [*leading, L, L].
        data_type: Type that they are stored in.
        kept: Positions that are not padding.
        segments: Segment of each kept token; None where they are not declared.
        groups: Names of the token groups to measure.
        causal: Declared causality; None where it is to be found.
    """

    maps: np.ndarray
    data_type: str
    kept: np.ndarray
    segments: list | None
    groups: tuple
    causal: bool | None

    @property
    def cropped(self):
        """Maps without the padding."""
        return self.maps[..., self.kept, :][..., self.kept]

    def is_attention(self):
        """Returns whether every map is attention; None within a hair of the tolerance, or where it may be rounded."""
        cropped, hair = self.cropped, _HAIR[self.data_type]
        if not np.isfinite(cropped).all() or (cropped < 0).any() or (self.causal and np.triu(cropped, 1).any()):
            return False
        with np.errstate(over="ignore"):
            excess = (np.abs(cropped.sum(-1) - 1) - ROW_SUM_TOLERANCE[DataType(self.data_type)]).max(-1)
        if (np.abs(excess) <= hair).any():
            return None
        wrong = cropped[excess > 0].reshape(-1, *cropped.shape[-2:])
        return None if len(wrong) and all(map(_may_be_rounded, wrong)) else not len(wrong)

    def is_causal(self):
        """Returns the causality of each map, as declared or layer by layer."""
        if self.causal is not None:
            return np.full(self.maps.shape[:-2], self.causal)
        empty = ~np.triu(self.cropped, 1).any((-2, -1))
        return np.broadcast_to(empty.all(-1, keepdims=True) if empty.ndim else empty, empty.shape)


@np.errstate(all="ignore")
def _may_be_rounded(maps):
    """Returns whether half a step in each cell may explain the sums of the rows [L, L], as it may be found out."""
    off = np.abs(maps.sum(-1) - 1).max()
    return any(
        off <= len(maps) * step / 2 + 0.05 and (np.abs(maps - np.rint(maps / step) * step) <= maps / 100 + 1e-12).all()
        for step in (1e-2, 1 / 255, 1e-3, 1e-4, 1e-5)
    )


def parse_maps(
    maps, data_type, *, tokens=None, groups=(), ids=None, lengths=None, valid_length=None, mask=None, causal
):
    """Returns the request that maps and a declaration make; segments are ids, or lengths, or, if the same, either."""
    length, kept = maps.shape[-1], np.arange(maps.shape[-1])
    must(valid_length is None or (mask is None and 1 <= valid_length <= length))
    must(mask is None or (len(mask) == length and any(mask)))
    if mask is not None or valid_length is not None:
        kept = np.flatnonzero(mask) if valid_length is None else kept[:valid_length]
    sizes = (length, len(kept))
    must(tokens is None or len(tokens) in sizes)
    special = [token for token in dict.fromkeys(_crop(tokens or (), kept, length)) if is_special(token)]
    names = [*special, *(name for name, _ in groups)]
    must(len({*names}) == len(names) and "" not in names)
    must(all(p and min(p) >= 0 and max(p) < length and {*p} & {*kept.tolist()} for _, p in groups))
    must(ids is None or lengths is None or ids is lengths)
    are_ids = ids is not None and len(ids) in sizes and min(ids) >= 0
    if lengths is not None and not are_ids:
        must(min(lengths, default=0) > 0 and sum(lengths) in sizes)
        ids, are_ids = np.repeat(np.arange(len(lengths)), lengths).tolist(), True
    must(ids is None or are_ids)
    segments = None if ids is None else _crop(ids, kept, length)
    return Request(maps, data_type, kept, segments, tuple(names), causal)


def _crop(values, kept, length):
    """Returns the values of the kept tokens, out of those of all tokens or of these alone."""
    return [values[k] for k in kept] if len(values) == length else values


def parse_heads_request(message):
    """Returns the request that a ``ClassifyHeadsRequest`` makes, and its layers and heads."""
    tensor, shape = message.attention, list(message.attention.shape)
    must(tensor.data_type in DATA_TYPES and len(shape) in (2, 3, 4))
    data_type, missing_axes = DATA_TYPES[tensor.data_type], 4 - len(shape)
    stored = np.dtype(FLOATS[data_type])
    must(shape[-1] == shape[-2] and len(tensor.data) == math.prod(shape) * stored.itemsize > 0)
    must(message.causality in (0, 1, 2) and len(message.request_id) <= 256)
    wanted, firsts = [list(message.layers), list(message.heads)], [message.first_layer, message.first_head]
    must(not any(wanted[:missing_axes]))
    axes = [range(first, first + size) for first, size in zip(firsts[missing_axes:], shape[:-2], strict=True)]
    picks = [pick or list(axis) for pick, axis in zip(wanted[missing_axes:], axes, strict=True)]
    maps = _as_float(np.frombuffer(tensor.data, stored).reshape(shape), data_type)
    for number, (pick, axis) in enumerate(zip(picks, axes, strict=True)):
        must(len({*pick}) == len(pick) and {*pick} <= {*axis} and axis[-1] < 2**32)
        maps = maps.take([index - axis[0] for index in pick], axis=number)
    request = parse_maps(
        maps,
        data_type,
        tokens=list(message.tokens) or None,
        groups=[(group.name, list(group.positions)) for group in message.token_groups],
        ids=list(message.segment_ids) or None,
        lengths=list(message.segment_lengths) or None,
        valid_length=message.valid_length if message.HasField("valid_length") else None,
        mask=list(message.mask) or None,
        causal={1: True, 2: False}.get(message.causality),
    )
    return request, picks


def _as_float(values, data_type):
    with np.errstate(invalid="ignore"):  # numpy warns of NaN that signal
        return decode(values, DataType(data_type))


def parse_infer_request(message):
    """Returns the request that a ``ModelInferRequest`` makes of the model of maps; None where it asks the net."""
    inputs, raw = {tensor.name: tensor for tensor in message.inputs}, message.raw_input_contents
    must(message.model_name in _INPUTS and message.model_version in ("", VERSION) and len(message.id) <= 256)
    types = _INPUTS[message.model_name]
    must(len(inputs) == len(message.inputs) and {*types} >= {*inputs} >= {next(iter(types))})
    must(all(tensor.datatype in types[name] for name, tensor in inputs.items()))
    must(not raw or (len(raw) == len(inputs) and not any(tensor.contents.ByteSize() for tensor in message.inputs)))
    values = {name: _read_tensor(tensor, raw[k] if raw else None) for k, (name, tensor) in enumerate(inputs.items())}
    wanted = [output.name for output in message.outputs]
    must(len({*wanted}) == len(wanted))
    if "images" in values:
        must(values["images"].shape[1:] == (3, SIZE, SIZE) and {*wanted} <= {"probabilities"})
        return None
    stored, data_type = values["attention"], KINDS[inputs["attention"].datatype]
    must(stored.ndim in (2, 3, 4) and stored.shape[-1] == stored.shape[-2])
    declared = {name: array.tolist() for name, array in values.items() if name != "attention"}
    must(all(values[name].ndim == 1 for name in declared) and {*declared.get("mask", ())} <= {0, 1})
    request = parse_maps(
        _as_float(stored, data_type),
        data_type,
        tokens=[_decode_text(token) for token in declared["tokens"]] if "tokens" in declared else None,
        ids=declared.get("segments"),
        mask=declared.get("mask"),
        causal=None,
    )
    must({*wanted} <= {*outputs_of_request(request)})
    return request


def outputs_of_request(request):
    """Returns the names of the outputs that the model of maps has for a request."""
    evidence = [name for name, measure in EVIDENCE.items() if not measure.needs or request.segments is not None]
    return [*_PER_MAP, *evidence, *(f"{_GROUP}{group}.{name}" for group in request.groups for name in GROUP_MEASURES)]


def _read_tensor(tensor, raw):
    """Returns the values of an input of the protocol."""
    shape, datatype = list(tensor.shape), tensor.datatype
    must(min(shape, default=1) > 0 and len(shape) <= 64 and (raw is not None or datatype in CONTENTS))
    if raw is None:
        flat = list(getattr(tensor.contents, CONTENTS[datatype]))
        must(datatype != "UINT8" or max(flat, default=0) < 256)
    elif datatype == "BYTES":
        flat = split_texts(raw)
    else:
        must(len(raw) % np.dtype(STORED[datatype]).itemsize == 0)
        flat = np.frombuffer(raw, STORED[datatype])
    must(len(flat) == math.prod(shape))
    return np.array(flat, STORED[datatype]).reshape(shape)


def split_texts(raw):
    """Returns texts, each of which follows its size in 4 bytes."""
    texts = []
    while raw:
        size = 4 + int.from_bytes(raw[:4], "little")
        must(len(raw) >= size)
        texts.append(raw[4:size])
        raw = raw[size:]
    return texts


def _decode_text(token):
    try:
        return token.decode()
    except UnicodeDecodeError:
        raise Refused from None


def parse_arguments(attention, declared, *, data_type=None, renormalise=False):
    """Returns the request that arguments of ``classify`` make."""
    tokens, segments, mask, valid_length = (declared.get(n) for n in ("tokens", "segments", "mask", "valid_length"))
    groups = list(declared.get("token_groups", {}).items())
    must(isinstance(attention, (np.ndarray, list)) and attention is not RAGGED)
    array = np.asarray(attention)
    own = "bfloat16" if array.dtype == np.uint16 and data_type == "bfloat16" else array.dtype.name
    must(own in FLOATS and array.dtype.isnative and data_type in (None, own))
    if array.ndim == 5 and array.shape[1] == 1:  # a batch of one
        array = array[:, 0]
    must(array.ndim in (2, 3, 4) and array.shape[-1] == array.shape[-2] and array.size > 0)
    must(tokens is None or (isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)))
    must(all(_are_whole(positions) for _, positions in groups) and not isinstance(valid_length, bool))
    must(segments is None or (segments and _are_whole(segments) and max(segments) < 2**63))
    must(mask is None or all(type(flag) in (int, np.int64) and flag in (0, 1) for flag in mask))
    request = parse_maps(
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
    return _divide_rows(request) if renormalise else request


def _divide_rows(request):
    """Returns the request with each row of its maps divided by its sum over the tokens that are kept."""
    maps = request.maps.copy()
    with np.errstate(all="ignore"):
        sums = request.cropped.sum(-1)
        good = np.isfinite(sums) & (sums > 0) & (request.cropped >= 0).all(-1)
        maps[..., request.kept, :] /= np.where(good, sums, 1)[..., None]
    return replace(request, maps=maps)


def _are_whole(values):
    return all(type(value) is int for value in values)


def expect(parse, *arguments, **options):
    """Returns what ``parse`` makes of a request, None where it refuses, and whether an answer is expected.

    The second value is None where that is undecided.
    """
    try:
        parsed = parse(*arguments, **options)
    except Refused:
        return None, False
    request = parsed[0] if isinstance(parsed, tuple) else parsed
    return parsed, request.is_attention() if request else True


def complaints_about(outputs, request):
    """Yields what is wrong with an answer, which has the names of the protocol's outputs."""
    leading, length, kept = request.maps.shape[:-2], request.maps.shape[-1], len(request.kept)
    for name, values in outputs.items():
        if values.shape[: len(leading)] != leading:
            yield f"{name} is of another shape"
        low, high = _range_of(name, request)
        free = name.endswith(".share_from_outside")  # NaN where no row is outside
        if values.dtype.kind == "f" and not ((values >= low - 1e-6) & (values <= high) | free & np.isnan(values)).all():
            yield f"{name.rpartition('.')[2]} is out of range"
    patterns, chances, causal = (outputs.get(name) for name in ("pattern", "probabilities", "causal"))
    if patterns is not None and not {*patterns.ravel().tolist()} <= {*PATTERNS}:
        yield "an unknown pattern"
    if patterns is not None and request.segments is not None and len({*request.segments}) == 1 and "Block" in patterns:
        yield "Block in one segment"
    if chances is not None:
        yield from complaints_about_chances(chances)
        if patterns is not None and "overruled" in outputs:
            first = np.array(PATTERNS)[chances.argmax(-1)]
            if ((patterns != first) != outputs["overruled"]).any():
                yield "the pattern is not the likeliest"
    if causal is not None and kept > 1 and (causal != request.is_causal()).any():
        yield "causal is not as declared or found"
    if "stripes" in outputs and outputs["stripes"][..., np.setdiff1d(np.arange(length), request.kept)].any():
        yield "a stripe in the padding"


def _range_of(name, request):
    most = 1 + ROW_SUM_TOLERANCE[DataType(request.data_type)] + 1e-4
    if name == "margin":
        return 0, 1
    if name == "row_entropy":
        return -0.1, most * math.log(len(request.kept)) + 0.1
    is_share = name.startswith(_GROUP) or (name in EVIDENCE and EVIDENCE[name].unit == "share")
    return (0, most) if is_share else (-np.inf, np.inf)


def complaints_about_chances(chances):
    """Yields a complaint where probabilities are not such."""
    sums = chances.astype(float).sum(-1)
    if chances.shape[-1] != len(PATTERNS) or not (chances >= 0).all() or not (np.abs(sums - 1) < 1e-4).all():
        yield "probabilities are none"


def outputs_of_result(result):
    """Returns a ``Classification`` by the names of the protocol's outputs."""
    ratios = {
        f"{_GROUP}{group}.{name}": getattr(measures, name)
        for group, measures in result.attention_to.items()
        for name in GROUP_MEASURES
    }
    evidence = {name: getattr(result.evidence, name) for name in EVIDENCE}
    evidence = {name: values for name, values in evidence.items() if values is not None}
    return {"pattern": result.patterns, **{name: getattr(result, name) for name in _PER_MAP[1:]}, **evidence, **ratios}
