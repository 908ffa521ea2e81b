"""The tensors of the Open Inference Protocol, to the library's types and back."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import (
    MOST_AXES,
    AttentionMaps,
    DataType,
    Declaration,
    read_attention,
    read_declaration,
)
from attention_patterns.bundle import ModelBundle
from attention_patterns.classification import Classification
from attention_patterns.errors import (
    AttentionPatternsError,
    DataTypeError,
    MessageError,
    SegmentsError,
    ShapeError,
    TokensError,
)
from attention_patterns.measures import EVIDENCE, GROUP_MEASURES
from attention_patterns_service.contract.wire import DECLARATIONS, Parcel, Route
from attention_patterns_service.pb.inference import open_inference_pb2 as pb

INFER = Route(  # its payload: the first of its raw contents; flat: the others, and typed contents of floating point
    pb.ModelInferRequest, (7,), rest=DECLARATIONS, flat=((7,), (5, 5, 6), (5, 5, 7))
)
ATTENTION_TYPES = {
    "FP32": DataType.FLOAT32,
    "FP64": DataType.FLOAT64,
    "FP16": DataType.FLOAT16,
    "BF16": DataType.BFLOAT16,
}
_STORED: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("u1"),  # its byte: one that is neither 0 nor 1 is an error, not true
    "UINT8": np.dtype("u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
DATATYPES = {"f": "FP32", "b": "BOOL", "i": "INT32", "U": "BYTES"}  # of outputs, by the kind of their dtype
_GROUP = "attention_to."


@dataclass(frozen=True)
class TensorKind:
    """A tensor that a model takes or gives.

    Attributes:
        name: its name.
        datatypes: the protocol's names of the types that it may have.
        shape: its axes; -1: any size from 1 up.
        required: whether every request has it.
        any_axes: whether it may have other axes, of which the library knows more than ``shape`` does.
        mistyped: raised where it is of another type.
        misfit: raised where it is of another shape, or the shape does not fit the values.
    """

    name: str
    datatypes: tuple[str, ...]
    shape: tuple[int, ...]
    required: bool = True
    any_axes: bool = False
    mistyped: type[AttentionPatternsError] = DataTypeError
    misfit: type[AttentionPatternsError] = ShapeError


@dataclass(frozen=True)
class Input:
    """An input of a request, its shape checked and its values not read yet.

    Attributes:
        kind: what it should be.
        tensor: what is said of it.
        raw: its values; None where ``tensor`` holds them.
    """

    kind: TensorKind
    tensor: pb.ModelInferRequest.InferInputTensor
    raw: memoryview | bytes | None

    @property
    def shape(self) -> list[int]:
        """The size of each axis."""
        return list(self.tensor.shape)

    def values(self) -> NDArray[Any]:
        """The values, on the memory of ``raw`` where there is one; BYTES as objects.

        Raises:
            AttentionPatternsError: ``kind`` says which.
            MessageError: they are of a type that travels only in raw contents.
        """
        name, shape, datatype, count = self.kind.name, self.shape, self.tensor.datatype, math.prod(self.shape)
        if self.raw is None:
            where, flat = f"contents.{_CONTENTS.get(datatype)}", self._typed()
        else:
            where, flat = "raw_input_contents", self._split(count) if datatype == "BYTES" else self._in_place()
        if len(flat) != count:
            raise self.kind.misfit(
                f"{name} has shape {shape!r:.80} of {datatype} and {len(flat)} values in {where}, expected {count}"
            )
        return flat.reshape(shape)

    def _typed(self) -> NDArray[Any]:
        kind, datatype = self.kind, self.tensor.datatype
        if datatype not in _CONTENTS:
            raise MessageError(f"{kind.name} is {datatype}, expected in raw_input_contents, where alone it can be")
        found = getattr(self.tensor.contents, _CONTENTS[datatype])
        if datatype == "BYTES":
            return np.fromiter(found, np.object_, len(found))
        stored = _STORED[datatype]
        wide = stored if datatype != "UINT8" else np.dtype(np.uint32)  # which its contents are of
        values = np.fromiter(found, wide, len(found))
        if wide is not stored and values.max(initial=0) > 255:
            raise kind.mistyped(f"{kind.name} holds {values.max()}, expected 0 to 255")
        return values.astype(stored, copy=False)

    def _in_place(self) -> NDArray[Any]:
        stored, raw = _STORED[self.tensor.datatype], self.raw or b""
        if len(raw) % stored.itemsize:
            raise self.kind.misfit(
                f"{self.kind.name} has {len(raw)} bytes, expected {stored.itemsize} for each {self.tensor.datatype}"
            )
        return np.frombuffer(raw, stored)

    def _split(self, most: int) -> NDArray[np.object_]:
        """Texts that stand each behind its size in 4 bytes."""
        raw, begin = self.raw or b"", 0
        texts: list[bytes] = []
        while begin < len(raw) and len(texts) < most:
            first = begin + 4
            begin = first + int.from_bytes(raw[begin:first], "little")
            texts.append(bytes(raw[first:begin]))
        if begin != len(raw):
            raise self.kind.misfit(
                f"{self.kind.name} has {len(raw)} bytes, expected {most} texts, each behind its size in 4 bytes"
            )
        return np.fromiter(texts, np.object_, len(texts))


def inputs_of(parcel: Parcel[pb.ModelInferRequest], kinds: Iterable[TensorKind]) -> dict[str, Input]:
    """The inputs of a request, by name.

    Raises:
        MessageError: one is missing, twice there or unknown, or values are in two places.
        AttentionPatternsError: one is of another type or shape; its kind says which.
    """
    request, known = parcel.message, {kind.name: kind for kind in kinds}
    raw = [*([] if parcel.payload is None else [parcel.payload]), *request.raw_input_contents]
    if raw and len(raw) != len(request.inputs):
        raise MessageError(f"raw_input_contents has {len(raw)} entries, expected one for each of {len(request.inputs)}")
    found: dict[str, Input] = {}
    for number, tensor in enumerate(request.inputs):
        if tensor.name not in known or tensor.name in found:
            raise MessageError(f"inputs[{number}] is {tensor.name!r:.80}, expected {', '.join(known)}, each once")
        if raw and tensor.contents.ByteSize():
            raise MessageError(f"{tensor.name} has contents beside raw_input_contents, expected one of them")
        found[tensor.name] = _checked(Input(known[tensor.name], tensor, raw[number] if raw else None))
    for kind in known.values():
        if kind.required and kind.name not in found:
            raise MessageError(f"the request has no input {kind.name}, expected it")
    return found


def _checked(one: Input) -> Input:
    kind, shape = one.kind, one.shape
    if one.tensor.datatype not in kind.datatypes:
        raise kind.mistyped(
            f"{kind.name} has datatype {one.tensor.datatype!r:.40}, expected {' or '.join(kind.datatypes)}"
        )
    if len(shape) > MOST_AXES:
        raise kind.misfit(f"{kind.name} has {len(shape)} axes, expected {list(kind.shape)}, -1 being any from 1 up")
    fits = len(shape) == len(kind.shape) and all(map(_fits, kind.shape, shape))
    if min(shape, default=1) < 1 or not (fits or kind.any_axes):
        raise kind.misfit(f"{kind.name} has shape {shape!r:.80}, expected {list(kind.shape)}, -1 being any from 1 up")
    return one


def _fits(expected: int, size: int) -> bool:
    return expected in (-1, size)


def maps_of(attention: Input) -> AttentionMaps:
    """The maps to classify.

    Raises:
        ShapeError, DataTypeError: the tensor is damaged or not self-attention.
    """
    return read_attention(attention.values(), ATTENTION_TYPES[attention.tensor.datatype])


def declaration_of(inputs: Mapping[str, Input], length: int) -> Declaration:
    """What a request declares of its maps of ``length`` tokens.

    Raises:
        InvalidDeclarationError: a declaration does not fit the maps or another declaration.
    """

    def declared(name: str) -> NDArray[Any] | None:
        one = inputs.get(name)
        if one and one.shape[0] > length:
            raise one.kind.misfit(f"{name} has shape {one.shape}, expected at most {length}, the tokens of the maps")
        return one.values() if one else None

    tokens, segments, mask = map(declared, ("tokens", "segments", "mask"))
    kept = length if mask is None else int(mask.sum())
    if segments is not None and len(segments) not in (length, kept):  # the library would take them for lengths
        raise SegmentsError(f"segments has {len(segments)} values, expected one for each of {kept} tokens")
    return read_declaration(length, tokens=_texts(tokens), segments=segments, mask=mask)


def _texts(tokens: NDArray[np.object_] | None) -> list[str] | None:
    try:
        return None if tokens is None else [token.decode() for token in tokens.tolist()]
    except UnicodeDecodeError as error:
        raise TokensError(f"tokens holds {error.object!r:.40}, expected UTF-8: {error.reason}") from error


def names_of(declaration: Declaration) -> list[str]:
    """The outputs that a request has for what it declares."""
    ratios = [f"{_GROUP}{group.name}.{ratio}" for group in declaration.groups for ratio in GROUP_MEASURES]
    segmented = [] if declaration.segments is None else [n for n, measure in EVIDENCE.items() if measure.needs]
    return [*segmented, *ratios]


def output_of(result: Classification, name: str) -> NDArray[Any]:
    """The output of that name."""
    if name == "pattern":
        return result.patterns
    if name.startswith(_GROUP):
        group, _, ratio = name.removeprefix(_GROUP).rpartition(".")
        values: NDArray[Any] = getattr(result.attention_to[group], ratio)
    else:
        values = getattr(result if hasattr(result, name) else result.evidence, name)
    return values


def wanted_of(request: pb.ModelInferRequest, names: Iterable[str]) -> list[str]:
    """The outputs that a request wants, of those that there are: all where it names none.

    Raises:
        MessageError: one is not there, or wanted twice.
    """
    there, wanted = dict.fromkeys(names), [output.name for output in request.outputs]
    left = dict(there)
    for number, name in enumerate(wanted):
        if name not in left:
            raise MessageError(f"outputs[{number}] is {name!r:.80}, expected {', '.join(there)}, each once")
        del left[name]
    return wanted or list(there)


def response_of(
    request: pb.ModelInferRequest,
    outputs: Mapping[str, NDArray[Any]],
    *,
    bundle: ModelBundle,
    warnings: Iterable[str] = (),
) -> pb.ModelInferResponse:
    """The answer that holds ``outputs``, in their order."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=bundle.version, id=request.id)
    told = {"model_sha256": bundle.sha256, "warnings": "\n".join(warnings)}
    for name, text in told.items():
        if text:
            response.parameters[name].string_param = text
    for name, values in outputs.items():
        response.outputs.add(name=name, datatype=DATATYPES[values.dtype.kind], shape=values.shape)
        response.raw_output_contents.append(_raw(values))
    return response


def _raw(values: NDArray[Any]) -> bytes:
    if values.dtype.kind == "U":
        texts = [text.encode() for text in values.ravel().tolist()]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
