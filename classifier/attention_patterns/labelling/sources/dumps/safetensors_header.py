"""The header of a .safetensors file, checked against the size of the file before any of it is used."""

import json
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import numpy as np

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.byte_sources import ByteSource, read_bytes

_LONGEST_HEADER = 100_000_000  # bytes of JSON, as in the safetensors library
_TENSOR_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "|b1", "U8": "|u1", "I8": "|i1",
    "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """The entry of a tensor in the header; ``begin`` and ``size`` are in bytes, from the start of the file."""

    name: str
    kind: str
    shape: tuple[int, ...]
    begin: int
    size: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy's type of the values; uint16 for bfloat16.

        Raises:
            SourceError: The type is unknown, or the tensor's size is not that of its shape.
        """
        if self.kind not in _TENSOR_TYPES:
            raise SourceError(f"{self.name} has dtype {self.kind!r:.40}, expected one of {', '.join(_TENSOR_TYPES)}")
        dtype = np.dtype(_TENSOR_TYPES[self.kind])
        expected = prod(self.shape) * dtype.itemsize
        if expected != self.size:
            raise SourceError(
                f"{self.name} has {self.size} bytes, expected {expected} of {self.kind} {list(self.shape)!r:.80}"
            )
        return dtype


def read_tensors(source: ByteSource) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors by name and the metadata of a .safetensors file, of which only the header is read.

    Raises:
        SourceError: The header is damaged, or describes other bytes than those behind it.
    """
    length = int.from_bytes(read_bytes(source, 0, 8), "little")
    if not 2 <= length <= min(_LONGEST_HEADER, source.size - 8):
        raise SourceError(f"the header's length is {length} bytes, expected at most the {source.size} of the file")
    header = json.loads(read_bytes(source, 8, length).decode())
    if not isinstance(header, dict):
        raise SourceError(f"the header is a {type(header).__name__}, expected a JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise SourceError("__metadata__ is not an object of strings")
    tensors = {name: _read_tensor(name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.size)):
        if tensor.begin != end:
            raise SourceError(f"{tensor.name!r:.80} begins at byte {tensor.begin} of the file, expected {end}")
        end += tensor.size
    if end != source.size:
        raise SourceError(f"the header describes {end} bytes, but the file has {source.size}")
    return tensors, metadata


def _read_tensor(name: str, entry: Any, data: int) -> Tensor:
    """Returns the tensor of an entry of the header; ``data`` is the number of bytes before the first tensor."""
    if isinstance(entry, dict):
        kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if isinstance(kind, str) and _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2:
            begin, end = offsets
            if begin <= end:
                return Tensor(name, kind, tuple(shape), data + begin, end - begin)
    raise SourceError(f"the header's entry of {name!r:.80} is {entry!r:.80}, expected dtype, shape and data_offsets")


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
