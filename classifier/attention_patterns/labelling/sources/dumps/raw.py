"""Formats that hold arrays as plain bytes: .npy, .npz and .safetensors, read where they are asked for.

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

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.byte_sources import ByteSource, FileBytes, MemberBytes, read_bytes
from attention_patterns.labelling.sources.dumps.safetensors_header import read_tensors
from attention_patterns.labelling.sources.dumps.stored import (
    DECLARED,
    MANY,
    ArrayMaps,
    DumpHeader,
    OpenDump,
    SlabBuffer,
    StoredInput,
    StoredMaps,
    check_declared,
    check_fits,
    check_place,
    check_size,
    declarations,
    header_of,
    misnamed,
    require_attention,
)
from attention_patterns.labelling.sources.files import StoredFile, opened

_LONGEST_NPY_HEADER = 2**16  # bytes


@dataclass(frozen=True)
class RawArray:
    """An array in a source of bytes: where it begins, its shape, type and order."""

    source: ByteSource
    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool = False

    @property
    def size(self) -> int:
        """In bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def item(self, n: int) -> "RawArray":
        """The part of index ``n`` of the first axis, of an array in C order."""
        inner = RawArray(self.source, self.begin, self.shape[1:], self.dtype)
        return RawArray(self.source, self.begin + n * inner.size, inner.shape, self.dtype)

    def fill(self, values: NDArray[Any], *, start: int = 0) -> None:
        """Reads into ``values``, C order, from element ``start``."""
        self.source.fill(self.begin + start * self.dtype.itemsize, values.reshape(-1).view(np.uint8).data)

    def read(self) -> NDArray[Any]:
        """The whole, in memory."""
        values = np.empty(prod(self.shape), self.dtype)
        self.fill(values)
        return values.reshape(self.shape, order="F" if self.fortran else "C")


class RawMaps(StoredMaps):
    """The attention of one input in a source of bytes."""

    def __init__(self, array: RawArray, *, data_type: str | None, complete: bool) -> None:
        super().__init__(array.shape, array.dtype, data_type=data_type)
        self._array, self._complete = array, complete

    def slab(self, layers: Sequence[int], heads: Sequence[int], buffer: SlabBuffer) -> NDArray[Any]:
        """Reads each run of neighbouring maps at once."""
        length, all_heads = self.shape[-1], self.layered[1]
        values = buffer.array((len(layers) * len(heads), length, length), self.dtype)
        wanted = np.add.outer(np.multiply(layers, all_heads), heads).ravel()
        begin = 0
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1):
            self._array.fill(values[begin : begin + len(run)], start=int(run[0]) * length * length)
            begin += len(run)
        return values.reshape(len(layers), len(heads), length, length)

    def finish(self) -> None:
        """Has a sum over this input checked, where there is one."""
        if self._complete:
            self._array.source.finish()


@dataclass(frozen=True)
class RawDump(OpenDump):
    """A file of plain arrays.

    Attributes:
        attention: the array, with five axes for many inputs.
        declared: arrays by name.
        data_type: "bfloat16", or None.
        streamed: whether it can be read from front to back only.
        listed: declarations that are in memory, each with an entry an input where there are many.
        whole: the values in memory, where their order asks for it.
        warnings: sentences on what the file holds.
    """

    attention: RawArray
    declared: Mapping[str, RawArray]
    data_type: str | None = None
    streamed: bool = False
    listed: Mapping[str, Any] | None = None
    whole: NDArray[Any] | None = None
    warnings: tuple[str, ...] = ()

    def header(self) -> DumpHeader:
        """What the shape says."""
        shape = self.attention.shape
        one_by_one = len(shape) == MANY and (self.streamed or self.attention.fortran)
        return header_of(shape, self.attention.dtype.itemsize, groups=shape[:1] if one_by_one else ())

    def input(self, n: int | None) -> StoredInput:
        """Reads what is declared of an input; its attention is left where it is."""
        shape = self.attention.shape
        check_place(n, shape)
        declared = {name: _declared(name, array, n, shape) for name, array in self.declared.items()}
        for name, values in (self.listed or {}).items():
            check_declared(name, np.shape(values)[:1], None if n is None else shape[0])
            declared[name] = values if n is None else values[n]
        return StoredInput(self._maps(n), declarations(declared), self.warnings)

    def _maps(self, n: int | None) -> StoredMaps:
        if self.whole is not None:
            return ArrayMaps(self.whole if n is None else self.whole[n])
        array = self.attention if n is None else self.attention.item(n)
        return RawMaps(array, data_type=self.data_type, complete=n is None)


def _declared(name: str, array: RawArray, n: int | None, shape: tuple[int, ...]) -> NDArray[Any]:
    check_declared(name, array.shape, None if n is None else shape[0])
    one = array if n is None or not array.shape or array.fortran else array.item(n)
    check_size(name, one.size)
    values = one.read()
    return values[n] if one is array and n is not None and array.shape else values


@contextmanager
def npy_dump(file: StoredFile, *, most_bytes: int | None) -> Iterator[RawDump]:
    """Opens a .npy file; see ``formats.opened_dump``."""
    with opened(file) as stream:
        attention = _npy_array(FileBytes(stream))
        yield RawDump(attention, {}, whole=_whole(attention, most_bytes))


@contextmanager
def npz_dump(file: StoredFile, *, most_bytes: int | None) -> Iterator[RawDump]:
    """Opens a .npz file; see ``formats.opened_dump``. The sums over many inputs are checked before any is read."""
    with ExitStack() as stack:
        stream = stack.enter_context(opened(file))
        archive, source = stack.enter_context(zipfile.ZipFile(stream)), FileBytes(stream)
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if not info.is_dir()}
        require_attention(members)
        wanted = ("attention", *DECLARED) if most_bytes is not None else ("attention",)
        arrays = {name: _npy_array(MemberBytes(archive, members[name], source)) for name in wanted if name in members}
        if most_bytes is not None and len(arrays["attention"].shape) == MANY:
            for array in arrays.values():
                array.source.finish()
        attention = arrays.pop("attention")
        yield RawDump(
            attention,
            arrays,
            streamed=True,
            whole=_whole(attention, most_bytes),
            warnings=misnamed(members) if most_bytes is not None else (),
        )


@contextmanager
def safetensors_dump(file: StoredFile, *, most_bytes: int | None) -> Iterator[RawDump]:  # noqa: ARG001
    """Opens a .safetensors file; see ``formats.opened_dump``."""
    with opened(file) as stream:
        source = FileBytes(stream)
        tensors, metadata = read_tensors(source)
        require_attention(tensors)
        kind = tensors["attention"].kind
        arrays = {
            name: RawArray(source, tensors[name].begin, tensors[name].shape, tensors[name].dtype)
            for name in ("attention", *DECLARED)
            if name in tensors
        }
        listed = {"tokens": _listed(metadata["tokens"])} if "tokens" in metadata else {}
        yield RawDump(
            arrays.pop("attention"),
            {name: array for name, array in arrays.items() if name not in listed},
            data_type="bfloat16" if kind == "BF16" else None,
            listed=listed,
            warnings=misnamed(tensors),
        )


def _listed(text: str) -> list[Any]:
    tokens = json.loads(text)
    if not isinstance(tokens, list):
        raise SourceError(f"tokens in the metadata is {text!r:.80}, expected a JSON list of strings")
    return tokens


def _npy_array(source: ByteSource) -> RawArray:
    """What the header of a .npy file says, once it agrees with the number of bytes behind it."""
    start = _Start(source)
    version = npy_format.read_magic(start)
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    if version not in readers:
        raise SourceError(f"it is of version {version} of the format, expected one of {', '.join(map(str, readers))}")
    shape, fortran, dtype = readers[version](start)
    if dtype.hasobject:
        raise SourceError(f"Object arrays ({dtype}) are never unpickled, expected numbers")
    array = RawArray(source, start.place, tuple(int(size) for size in shape), dtype, fortran)
    if min(array.shape, default=0) < 0 or array.size != source.size - array.begin:
        raise SourceError(
            f"the header tells of {dtype} {list(shape)!r:.80}, {array.size} bytes, "
            f"but {source.size - array.begin} are behind it"
        )
    return array


class _Start:
    """The first bytes of a source, read in order as of a file."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.place = 0

    def read(self, count: int = 0, /) -> bytes:
        if count > _LONGEST_NPY_HEADER:
            raise SourceError(f"the header is told to be {count} bytes long")
        found = read_bytes(self._source, self.place, min(count, self._source.size - self.place))
        self.place += len(found)
        return found


def _whole(array: RawArray, most_bytes: int | None) -> NDArray[Any] | None:
    """The values where Fortran order keeps single layers from being read; None otherwise, and for the header alone."""
    if most_bytes is None or not array.fortran:
        return None
    check_fits("attention in Fortran order, read as a whole,", array.size, most_bytes)
    return array.read()
