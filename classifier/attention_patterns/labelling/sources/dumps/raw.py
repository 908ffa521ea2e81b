"""Formats that hold arrays as plain bytes: .npy, .npz and .safetensors, of which only what is needed is read.

Local files and files behind URLs are read alike, into memory that is used again; nothing is ever unpickled or mapped.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from attention_patterns.attention_map import MANY
from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.byte_sources import ByteSource, FileBytes, MemberBytes, read_bytes
from attention_patterns.labelling.sources.dumps.layout import Axes, Layout, find_layout
from attention_patterns.labelling.sources.dumps.safetensors_header import read_tensors
from attention_patterns.labelling.sources.dumps.stored import (
    DECLARED,
    ArrayMaps,
    DumpHeader,
    OpenDump,
    SlabBuffer,
    StoredInput,
    StoredMaps,
    check_fits,
    check_size,
    misnamed_warnings,
    read_declared,
    require_attention,
)
from attention_patterns.labelling.sources.files import StoredFile, open_file

_LONGEST_NPY_HEADER = 2**16  # bytes


@dataclass(frozen=True)
class RawArray:
    """An array in a source of bytes.

    Attributes:
        source: Bytes that hold it.
        begin: Position of its first byte.
        shape: Shape.
        dtype: Type of its values.
        fortran: Whether it is in Fortran order.
    """

    source: ByteSource
    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool = False

    @property
    def size(self) -> int:
        """The size in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def item(self, n: int) -> "RawArray":
        """Returns the array at index ``n`` of the first axis; of an array in C order only."""
        inner = RawArray(self.source, self.begin, self.shape[1:], self.dtype)
        return RawArray(self.source, self.begin + n * inner.size, inner.shape, self.dtype)

    def fill(self, values: NDArray[Any], *, start: int = 0) -> None:
        """Reads values from element ``start`` into ``values``, in C order, until it is full."""
        self.source.fill(self.begin + start * self.dtype.itemsize, values.reshape(-1).view(np.uint8).data)

    def read(self) -> NDArray[Any]:
        """Reads the whole array."""
        values = np.empty(prod(self.shape), self.dtype)
        self.fill(values)
        return values.reshape(self.shape, order="F" if self.fortran else "C")


class RawMaps(StoredMaps):
    """The attention of one input in a source of bytes.

    With ``alone``, the source holds no other input, and its checksum is compared once this one was read.
    """

    def __init__(self, array: RawArray, layout: Layout, n: int | None, *, data_type: str | None, alone: bool) -> None:
        super().__init__(layout.of_input, array.dtype, data_type=data_type)
        self._array, self._alone = array, alone
        self._first, self._step = layout.maps(n)

    def slab(self, layers: Sequence[int], heads: Sequence[int], buffer: SlabBuffer) -> NDArray[Any]:
        """Reads each row of neighbouring maps at once."""
        length = self.shape[-1]
        values = buffer.array((len(layers) * len(heads), length, length), self.dtype)
        maps = self._first + np.add.outer(np.multiply(layers, self._step), heads).ravel()
        begin = 0
        for neighbours in np.split(maps, np.flatnonzero(np.diff(maps) != 1) + 1):
            self._array.fill(values[begin : begin + len(neighbours)], start=int(neighbours[0]) * length * length)
            begin += len(neighbours)
        return values.reshape(len(layers), len(heads), length, length)

    def finish(self) -> None:
        """Compares the checksum, where there is one over this input."""
        if self._alone:
            self._array.source.finish()


@dataclass(frozen=True)
class RawDump(OpenDump):
    """A file of plain arrays.

    Attributes:
        attention: Array of attention.
        layout: The place of each input in it.
        declared: Arrays of declarations by name.
        data_type: "bfloat16", or None.
        streamed: Whether the file can be read from front to back only.
        listed: Declarations that are in memory by name, each with one entry per input where inputs are many.
        whole: Attention in memory, where its order keeps single layers from being read.
        warnings: Sentences on what the file holds.
    """

    attention: RawArray
    layout: Layout
    declared: Mapping[str, RawArray]
    data_type: str | None = None
    streamed: bool = False
    listed: Mapping[str, Any] | None = None
    whole: NDArray[Any] | None = None
    warnings: tuple[str, ...] = ()

    def header(self) -> DumpHeader:
        """Returns the number of inputs and their sizes, from the shape."""
        one_by_one = self.streamed or self.attention.fortran
        return self.layout.header(self.attention.dtype.itemsize, one_by_one=one_by_one)

    def input(self, n: int | None) -> StoredInput:
        """Reads the declarations of an input; its attention is left where it is."""
        self.layout.check_place(n)
        declared = {name: _read_declaration(name, array, n, self.layout) for name, array in self.declared.items()}
        for name, values in (self.listed or {}).items():
            entry = self.layout.entry(name, _shape_of(values), n)
            declared[name] = values if entry is None else values[entry]
        return StoredInput(self._maps(n), read_declared(declared), (*self.layout.warnings, *self.warnings))

    def _maps(self, n: int | None) -> StoredMaps:
        if self.whole is not None:
            return ArrayMaps(self.whole[self.layout.place([slice(None)], n)])
        return RawMaps(self.attention, self.layout, n, data_type=self.data_type, alone=n is None)


def _read_declaration(name: str, array: RawArray, n: int | None, layout: Layout) -> NDArray[Any]:
    entry = layout.entry(name, array.shape, n)
    item = array if entry is None or array.fortran else array.item(entry)
    check_size(f"{name} of one input", item.size)
    values = item.read()
    return values if entry is None or item is not array else values[entry]


@contextmanager
def open_npy(file: StoredFile, *, most_bytes: int | None, axes: Axes | None) -> Iterator[RawDump]:
    """Opens a .npy file; see ``formats.open_dump``."""
    with open_file(file.url) as stream:
        attention = _read_npy_header("attention", FileBytes(stream))
        layout = find_layout(file.shown, attention.shape, {}, axes)
        yield RawDump(attention, layout, {}, whole=_read_fortran(attention, most_bytes))


@contextmanager
def open_npz(file: StoredFile, *, most_bytes: int | None, axes: Axes | None) -> Iterator[RawDump]:
    """Opens a .npz file; see ``formats.open_dump``. Checksums over many inputs are compared before any is read."""
    with ExitStack() as stack:
        stream = stack.enter_context(open_file(file.url))
        archive, source = stack.enter_context(zipfile.ZipFile(stream)), FileBytes(stream)
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if not info.is_dir()}
        require_attention(members)
        attention = _read_npy_header("attention", MemberBytes(archive, members["attention"], source))
        wanted = DECLARED if most_bytes is not None or len(attention.shape) == MANY else ()
        arrays = {
            name: _read_npy_header(name, MemberBytes(archive, members[name], source))
            for name in wanted
            if name in members
        }
        layout = find_layout(file.shown, attention.shape, {name: array.shape for name, array in arrays.items()}, axes)
        if most_bytes is not None and layout.inputs is not None:
            for array in (attention, *arrays.values()):
                array.source.finish()
        yield RawDump(
            attention,
            layout,
            arrays,
            streamed=True,
            whole=_read_fortran(attention, most_bytes),
            warnings=misnamed_warnings(members) if most_bytes is not None else (),
        )


@contextmanager
def open_safetensors(file: StoredFile, *, most_bytes: int | None, axes: Axes | None) -> Iterator[RawDump]:  # noqa: ARG001
    """Opens a .safetensors file; see ``formats.open_dump``."""
    with open_file(file.url) as stream:
        source = FileBytes(stream)
        tensors, metadata = read_tensors(source)
        require_attention(tensors)
        arrays = {
            name: RawArray(source, tensors[name].begin, tensors[name].shape, tensors[name].dtype)
            for name in ("attention", *DECLARED)
            if name in tensors
        }
        attention = arrays.pop("attention")
        listed: dict[str, Any] = {
            name: _parse_tokens(name, metadata[name]) for name in ("tokens", "special_tokens") if name in metadata
        }
        arrays = {name: array for name, array in arrays.items() if name not in listed}
        shapes = {name: array.shape for name, array in arrays.items()}
        layout = find_layout(file.shown, attention.shape, shapes | {n: _shape_of(v) for n, v in listed.items()}, axes)
        yield RawDump(
            attention,
            layout,
            arrays,
            data_type="bfloat16" if tensors["attention"].kind == "BF16" else None,
            listed=listed,
            warnings=misnamed_warnings(tensors),
        )


def _shape_of(tokens: list[Any]) -> tuple[int, ...]:
    """Returns the size of a list of tokens or, of a list of lists, which may be of several sizes, the first two."""
    return (len(tokens), len(tokens[0])) if tokens and isinstance(tokens[0], list) else (len(tokens),)


def _parse_tokens(name: str, text: str) -> list[Any]:
    tokens = json.loads(text)
    if not isinstance(tokens, list):
        raise SourceError(f"{name} in the metadata is {text!r:.80}, expected a JSON list of strings")
    return tokens


_AS_PLAIN = {
    "attention": "the layers as one array, numpy.stack(layers)",
    **dict.fromkeys(DECLARED, "numbers, such as numpy.array(values, dtype=int)"),
    **dict.fromkeys(("tokens", "special_tokens"), "them as numpy.array(tokens, dtype=str)"),
}


def _read_npy_header(name: str, source: ByteSource) -> RawArray:
    """Returns the array of this name that the header of a .npy file describes.

    Raises:
        SourceError: The header does not agree with the number of bytes behind it, or describes what is not read.
    """
    start = _Start(source)
    version = npy_format.read_magic(start)
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    if version not in readers:
        raise SourceError(f"it is of version {version} of the format, expected one of {', '.join(map(str, readers))}")
    shape, fortran, dtype = readers[version](start)
    if dtype.hasobject:
        raise SourceError(f"{name} is an array of objects ({dtype}), which are never unpickled; save {_AS_PLAIN[name]}")
    array = RawArray(source, start.place, tuple(int(size) for size in shape), dtype, fortran)
    if min(array.shape, default=0) < 0 or array.size != source.size - array.begin:
        raise SourceError(
            f"the header describes {dtype} {list(array.shape)!r:.80}, {array.size} bytes, "
            f"but {source.size - array.begin} follow it"
        )
    return array


class _Start:
    """The first bytes of a source, read in order like those of a file."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.place = 0

    def read(self, count: int = 0, /) -> bytes:
        if count > _LONGEST_NPY_HEADER:
            raise SourceError(f"the header's length is {count} bytes, expected at most {_LONGEST_NPY_HEADER}")
        content = read_bytes(self._source, self.place, min(count, self._source.size - self.place))
        self.place += len(content)
        return content


def _read_fortran(array: RawArray, most_bytes: int | None) -> NDArray[Any] | None:
    """Returns the values of an array in Fortran order, of which single layers cannot be read.

    None stands for an array in C order, and for a file of which only the header is read.
    """
    if most_bytes is None or not array.fortran:
        return None
    check_fits("attention in Fortran order, read as a whole,", array.size, most_bytes)
    return array.read()
