"""Tensors of the Open Inference Protocol to the library's types, and back."""

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
from attention_patterns.patterns import PATTERNS
from attention_patterns_service.contract.wire import DECLARATIONS, Parcel, Route
from attention_patterns_service.pb.inference import open_inference_pb2 as pb

INFER = Route(  # payload: the first of the raw contents; flat: the others, and typed contents of floating point
    pb.ModelInferRequest, (7,), rest=DECLARATIONS, flat=((7,), (5, 5, 6), (5, 5, 7))
)
ATTENTION_TYPES = {
    "FP32": DataType.FLOAT32,
    "FP64": DataType.FLOAT64,
    "FP16": DataType.FLOAT16,
    "BF16": DataType.BFLOAT16,
}
_STORED: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("u1"),  # the byte: a value that is neither 0 nor 1 is an error, not true
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
_FRAME_BYTES, _OUTPUT_BYTES = 4096, 64  # most bytes of an answer besides its outputs, of one beside name and values
_LONGEST_PATTERN = 4 + max(map(len, PATTERNS))  # bytes, with its size before it


@dataclass(frozen=True)
class TensorKind:
    """A tensor that a model takes or gives, as the protocol describes it.

    Attributes:
        name: Name of the tensor.
        datatypes: Names, in the protocol, of the types that it may have.
        shape: Its axes; -1 is any size from 1 up.
        required: Whether every request has it.
        any_axes: Whether other axes than those of ``shape`` are left for the library to check.
        type_error: Error class where the tensor is of another type.
        shape_error: Error class where it is of another shape, or the shape does not fit the values.
    """

    name: str
    datatypes: tuple[str, ...]
    shape: tuple[int, ...]
    required: bool = True
    any_axes: bool = False
    type_error: type[AttentionPatternsError] = DataTypeError
    shape_error: type[AttentionPatternsError] = ShapeError


@dataclass(frozen=True)
class InputTensor:
    """A tensor of a request, of which the values are not read yet.

    Attributes:
        kind: Description that it must fit.
        message: Its description, which may hold its values.
        raw: Its values; None where ``message`` holds them.
    """

    kind: TensorKind
    message: pb.ModelInferRequest.InferInputTensor
    raw: memoryview | bytes | None

    @property
    def shape(self) -> list[int]:
        """Size of each axis."""
        return list(self.message.shape)

    def values(self) -> NDArray[Any]:
        """Returns the values, on the memory of ``raw`` unless that is None; BYTES as objects.

        Raises:
            AttentionPatternsError: The values do not fit type or shape; ``kind`` names the class.
            MessageError: The values are of a type that travels only in raw contents.
        """
        name, shape, datatype, count = self.kind.name, self.shape, self.message.datatype, math.prod(self.shape)
        if self.raw is None:
            where, flat = f"contents.{_CONTENTS.get(datatype)}", self._read_contents()
        else:
            where = "raw_input_contents"
            flat = self._split_texts(count) if datatype == "BYTES" else self._view_raw()
        if len(flat) != count:
            raise self.kind.shape_error(
                f"{name} has shape {shape!r:.80} of {datatype} and {len(flat)} values in {where}, expected {count}"
            )
        return flat.reshape(shape)

    def _read_contents(self) -> NDArray[Any]:
        """Returns the typed contents as one axis."""
        kind, datatype = self.kind, self.message.datatype
        if datatype not in _CONTENTS:
            raise MessageError(
                f"{kind.name} has datatype {datatype} and no raw contents, expected it in raw_input_contents, the only "
                "place for that type"
            )
        contents = getattr(self.message.contents, _CONTENTS[datatype])
        if datatype == "BYTES":
            return np.fromiter(contents, np.object_, len(contents))
        stored = _STORED[datatype]
        wide = stored if datatype != "UINT8" else np.dtype(np.uint32)  # the type that contents have for UINT8
        values = np.fromiter(contents, wide, len(contents))
        if wide is not stored and values.max(initial=0) > 255:
            raise kind.type_error(f"{kind.name} holds {values.max()}, expected 0 to 255")
        return values.astype(stored, copy=False)

    def _view_raw(self) -> NDArray[Any]:
        """Returns the raw contents as one axis, in place."""
        stored, raw = _STORED[self.message.datatype], self.raw or b""
        if len(raw) % stored.itemsize:
            raise self.kind.shape_error(
                f"{self.kind.name} has {len(raw)} bytes, expected {stored.itemsize} for each {self.message.datatype}"
            )
        return np.frombuffer(raw, stored)

    def _split_texts(self, most: int) -> NDArray[np.object_]:
        """Returns the texts of the raw contents, each of which follows its size in 4 bytes."""
        raw, begin = self.raw or b"", 0
        texts: list[bytes] = []
        while begin < len(raw) and len(texts) < most:
            first = begin + 4
            begin = first + int.from_bytes(raw[begin:first], "little")
            texts.append(bytes(raw[first:begin]))
        if begin != len(raw):
            raise self.kind.shape_error(
                f"{self.kind.name} has {len(raw)} bytes, expected {most} texts, each after its size in 4 bytes"
            )
        return np.fromiter(texts, np.object_, len(texts))


def inputs_of(parcel: Parcel[pb.ModelInferRequest], kinds: Iterable[TensorKind]) -> dict[str, InputTensor]:
    """Returns the input tensors of a request, by name.

    Raises:
        MessageError: A tensor is missing, unknown or named twice, or its values are in two places.
        AttentionPatternsError: A tensor is of another type or shape; its kind names the class.
    """
    request, known = parcel.message, {kind.name: kind for kind in kinds}
    raw = [*([] if parcel.payload is None else [parcel.payload]), *request.raw_input_contents]
    if raw and len(raw) != len(request.inputs):
        raise MessageError(
            f"raw_input_contents has {len(raw)} entries, expected one for each of {len(request.inputs)} inputs"
        )
    inputs: dict[str, InputTensor] = {}
    for number, message in enumerate(request.inputs):
        name = message.name
        if name not in known or name in inputs:
            raise MessageError(f"inputs[{number}] is {name!r:.80}, expected {', '.join(known)}, each once")
        if raw and message.contents.ByteSize():
            raise MessageError(f"{name} has contents beside raw_input_contents, expected one of them")
        inputs[name] = InputTensor(known[name], message, raw[number] if raw else None)
        _check_kind(inputs[name])
    for kind in known.values():
        if kind.required and kind.name not in inputs:
            raise MessageError(f"the request has no input {kind.name}, expected it")
    return inputs


def _check_kind(tensor: InputTensor) -> None:
    kind, datatype, shape = tensor.kind, tensor.message.datatype, tensor.shape
    if datatype not in kind.datatypes:
        raise kind.type_error(f"{kind.name} has datatype {datatype!r:.40}, expected {' or '.join(kind.datatypes)}")
    if len(shape) > MOST_AXES:
        raise kind.shape_error(
            f"{kind.name} has {len(shape)} axes, expected {list(kind.shape)}, -1 being any from 1 up"
        )
    fits = len(shape) == len(kind.shape) and all(map(_fits, kind.shape, shape))
    if min(shape, default=1) < 1 or not (fits or kind.any_axes):
        raise kind.shape_error(
            f"{kind.name} has shape {shape!r:.80}, expected {list(kind.shape)}, -1 being any from 1 up"
        )


def _fits(expected: int, size: int) -> bool:
    return expected in (-1, size)


def maps_of(attention: InputTensor) -> AttentionMaps:
    """Returns the maps to classify.

    Raises:
        ShapeError, DataTypeError: The tensor is damaged or not self-attention.
    """
    return read_attention(attention.values(), ATTENTION_TYPES[attention.message.datatype])


def declaration_of(inputs: Mapping[str, InputTensor], length: int) -> Declaration:
    """Returns the declaration that a request makes of its maps of ``length`` tokens.

    Raises:
        InvalidDeclarationError: A declaration does not fit the maps or another declaration.
    """
    tokens, segments, mask = (_read_declared(inputs.get(name), length) for name in ("tokens", "segments", "mask"))
    kept = length if mask is None else int(mask.sum())
    if segments is not None and len(segments) not in (length, kept):  # the library would take them for lengths
        raise SegmentsError(f"segments has {len(segments)} values, expected one for each of {kept} tokens")
    return read_declaration(length, tokens=_decode_texts(tokens), segments=segments, mask=mask)


def _read_declared(tensor: InputTensor | None, length: int) -> NDArray[Any] | None:
    if tensor is None:
        return None
    if tensor.shape[0] > length:
        raise tensor.kind.shape_error(
            f"{tensor.kind.name} has shape {tensor.shape}, expected at most {length}, the tokens of the maps"
        )
    return tensor.values()


def _decode_texts(tokens: NDArray[np.object_] | None) -> list[str] | None:
    try:
        return None if tokens is None else [token.decode() for token in tokens.tolist()]
    except UnicodeDecodeError as error:
        raise TokensError(f"tokens holds {error.object!r:.40}, expected UTF-8: {error.reason}") from error


def names_of(declaration: Declaration) -> list[str]:
    """Returns the names of the outputs that a request has for what it declares."""
    ratios = [f"{_GROUP}{group.name}.{ratio}" for group in declaration.groups for ratio in GROUP_MEASURES]
    segmented = [] if declaration.segments is None else [n for n, measure in EVIDENCE.items() if measure.needs]
    return [*segmented, *ratios]


def output_of(result: Classification, name: str) -> NDArray[Any]:
    """Returns the output of that name."""
    if name == "pattern":
        return result.patterns
    if name.startswith(_GROUP):
        group, _, ratio = name.removeprefix(_GROUP).rpartition(".")
        values: NDArray[Any] = getattr(result.attention_to[group], ratio)
    else:
        values = getattr(result if hasattr(result, name) else result.evidence, name)
    return values


def size_of_response(names: Iterable[str], *, count: int, length: int) -> int:
    """Returns the most bytes of an answer that holds the outputs of these names for maps of ``length`` tokens."""
    return _FRAME_BYTES + sum(_OUTPUT_BYTES + len(name.encode()) + count * _bytes_of(name, length) for name in names)


def _bytes_of(name: str, length: int) -> int:
    """Returns the most bytes of an output for one map."""
    if name in ("pattern", "probabilities"):
        return _LONGEST_PATTERN if name == "pattern" else 4 * len(PATTERNS)
    measure = EVIDENCE.get(name)
    return length if measure and measure.per_token else 4


def wanted_of(request: pb.ModelInferRequest, names: Iterable[str]) -> list[str]:
    """Returns the names of the outputs that a request wants, out of ``names``: all where it names none.

    Raises:
        MessageError: The request names an unknown output, or one twice.
    """
    known, wanted = dict.fromkeys(names), [output.name for output in request.outputs]
    left = dict(known)
    for number, name in enumerate(wanted):
        if name not in left:
            raise MessageError(f"outputs[{number}] is {name!r:.80}, expected {', '.join(known)}, each once")
        del left[name]
    return wanted or list(known)


def response_of(
    request: pb.ModelInferRequest,
    outputs: Mapping[str, NDArray[Any]],
    *,
    bundle: ModelBundle,
    warnings: Iterable[str] = (),
) -> pb.ModelInferResponse:
    """Returns the answer that holds ``outputs``, in their order."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=bundle.version, id=request.id)
    parameters = {"model_sha256": bundle.sha256, "warnings": "\n".join(warnings)}
    for name, text in parameters.items():
        if text:
            response.parameters[name].string_param = text
    for name, values in outputs.items():
        response.outputs.add(name=name, datatype=DATATYPES[values.dtype.kind], shape=values.shape)
        response.raw_output_contents.append(_write_raw(values))
    return response


def _write_raw(values: NDArray[Any]) -> bytes:
    if values.dtype.kind == "U":
        texts = [text.encode() for text in values.ravel().tolist()]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
