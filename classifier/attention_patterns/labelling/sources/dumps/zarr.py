"""Zarr stores of dumped attention, formats 2 and 3: an array, or a group of arrays."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.layout import Axes, Layout, find_layout
from attention_patterns.labelling.sources.dumps.stored import (
    DECLARED,
    DumpHeader,
    OpenDump,
    SlabBuffer,
    StoredInput,
    StoredMaps,
    check_size,
    read_declared,
    require_attention,
)
from attention_patterns.labelling.sources.files import StoredFile, file_system
from attention_patterns.programs.extras import name_missing_extra

_AXES = 4  # of an input with all of them


@contextmanager
def open_zarr(file: StoredFile, *, most_bytes: int | None, axes: Axes | None) -> Iterator["ZarrDump"]:  # noqa: ARG001
    """Opens a .zarr store; see ``formats.open_dump``."""
    with name_missing_extra("zarr", needed_by=file.shown):
        import zarr  # noqa: PLC0415 - an extra
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper  # noqa: PLC0415 - newer than the rest
        from zarr.storage import FsspecStore  # noqa: PLC0415 - an extra
    if file.special:
        raise SourceError(f"{file.special} in it is neither file nor folder; what has no end is never read")
    store: Any = file.url
    if file.remote:  # wrapped, as the connections of a file system made by zarr are never closed
        system, path = file_system(file.url)
        store = FsspecStore(AsyncFileSystemWrapper(system, asynchronous=True), read_only=True, path=path)
    root: Any = zarr.open(store, mode="r")
    if isinstance(root, zarr.Array):
        arrays: dict[str, Any] = {"attention": root}
    else:
        arrays = {name: root[name] for name in ("attention", *DECLARED) if name in root}
        if "attention" not in arrays:
            require_attention(root.keys())
    for name, array in arrays.items():
        _check_no_pickles(name, array)
    attention = arrays.pop("attention")
    shapes = {name: array.shape for name, array in arrays.items()}
    yield ZarrDump(attention, arrays, find_layout(file.shown, attention.shape, shapes, axes))


class ZarrDump(OpenDump):
    """An opened store."""

    def __init__(self, attention: Any, declared: Mapping[str, Any], layout: Layout) -> None:
        self._attention, self._declared, self._layout = attention, declared, layout

    def header(self) -> DumpHeader:
        """Returns the number of inputs and their sizes, from the array's metadata."""
        return self._layout.header(self._attention.dtype.itemsize)

    def input(self, n: int | None) -> StoredInput:
        """Reads the declarations of an input; its attention is left where it is."""
        self._layout.check_place(n)
        declared = {name: self._read(name, array, n) for name, array in self._declared.items()}
        return StoredInput(ZarrMaps(self._attention, self._layout, n), read_declared(declared), self._layout.warnings)

    def _read(self, name: str, array: Any, n: int | None) -> NDArray[Any]:
        entry = self._layout.entry(name, array.shape, n)
        inner = array.shape if entry is None else array.shape[1:]
        check_size(f"{name} of one input", prod(inner) * array.dtype.itemsize)
        check_size(f"a chunk of {name}", prod(array.chunks) * array.dtype.itemsize)
        return np.asarray(array[() if entry is None else entry])


class ZarrMaps(StoredMaps):
    """The attention of one input in a store; Zarr's chunks are decoded as they are needed."""

    def __init__(self, array: Any, layout: Layout, n: int | None) -> None:
        shape, chunk = layout.of_input, layout.without_inputs(array.chunks)
        super().__init__(
            shape,
            array.dtype,
            least_layers=chunk[0] if len(shape) == _AXES else 1,
            least_bytes=prod(array.chunks) * array.dtype.itemsize,
        )
        self._array, self._layout, self._n = array, layout, n

    def slab(self, layers: Sequence[int], heads: Sequence[int], buffer: SlabBuffer) -> NDArray[Any]:  # noqa: ARG002
        """Decodes the Zarr chunks that hold these layers and heads."""
        chosen = [_as_slice(indices) for indices in (layers, heads)[_AXES - len(self.shape) :]]
        place = self._layout.place(chosen, self._n)
        values = self._array.oindex[(*place, slice(None), slice(None))]
        length = self.shape[-1]
        return np.asarray(values).reshape(len(layers), len(heads), length, length)


def _as_slice(indices: Sequence[int]) -> slice | list[int]:
    """Returns rising indices as a slice where they have no gaps."""
    if indices[-1] - indices[0] + 1 == len(indices):
        return slice(indices[0], indices[-1] + 1)
    return list(indices)


def _check_no_pickles(name: str, array: Any) -> None:
    """Checks that reading an array unpickles nothing.

    Format 2 has a codec that unpickles, which not every version of zarr refuses by itself.

    Raises:
        SourceError: The array is a group, or holds pickled objects.
    """
    if not hasattr(array, "dtype"):
        raise SourceError(f"{name} is a group, expected an array")
    metadata = array.metadata.to_dict()
    if "pickle" in repr([metadata.get(key) for key in ("filters", "compressor", "codecs")]).lower():
        raise SourceError(f"{name} holds pickled objects, which are never unpickled, expected numbers or strings")
