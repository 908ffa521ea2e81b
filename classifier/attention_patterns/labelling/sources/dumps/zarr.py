"""Zarr stores of dumped attention, formats 2 and 3: an array, or a group of arrays."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from fsspec.core import url_to_fs
from numpy.typing import NDArray

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.stored import (
    DECLARED,
    MANY,
    DumpHeader,
    OpenDump,
    SlabBuffer,
    StoredInput,
    StoredMaps,
    check_declared,
    check_place,
    check_size,
    declarations,
    header_of,
    require_attention,
)
from attention_patterns.labelling.sources.files import StoredFile


@contextmanager
def zarr_dump(file: StoredFile, *, most_bytes: int | None) -> Iterator["ZarrDump"]:  # noqa: ARG001
    """Opens a .zarr store; see ``formats.opened_dump``."""
    try:
        import zarr  # noqa: PLC0415 - an extra
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper  # noqa: PLC0415 - newer than the rest
        from zarr.storage import FsspecStore  # noqa: PLC0415 - likewise
    except ModuleNotFoundError as error:
        raise SourceError("it needs the extra 'zarr': pip install 'attention-patterns[zarr]'") from error
    store: Any = file.url
    if file.remote:  # wrapped, as the connections of a file system made by zarr are never closed
        system, place = url_to_fs(file.url)
        store = FsspecStore(AsyncFileSystemWrapper(system, asynchronous=True), read_only=True, path=place)
    found: Any = zarr.open(store, mode="r")
    if isinstance(found, zarr.Array):
        arrays: dict[str, Any] = {"attention": found}
    else:
        arrays = {name: found[name] for name in ("attention", *DECLARED) if name in found}
        if "attention" not in arrays:
            require_attention(found.keys())
    yield ZarrDump({name: _safe(name, array) for name, array in arrays.items()})


class ZarrDump(OpenDump):
    """An opened store."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._declared = dict(arrays)
        self._attention = self._declared.pop("attention")

    def header(self) -> DumpHeader:
        """What the array's metadata say."""
        return header_of(self._attention.shape, self._attention.dtype.itemsize)

    def input(self, n: int | None) -> StoredInput:
        """Reads what is declared of an input; its attention is left where it is."""
        shape = self._attention.shape
        check_place(n, shape)
        declared = {}
        for name, array in self._declared.items():
            check_declared(name, array.shape, None if n is None else shape[0])
            one = array.shape if n is None else array.shape[1:]
            check_size(name, prod(one) * array.dtype.itemsize)
            declared[name] = np.asarray(array[()] if n is None or not array.shape else array[n])
        return StoredInput(ZarrMaps(self._attention, n), declarations(declared))


class ZarrMaps(StoredMaps):
    """The attention of one input in a store; chunks are decoded as they are needed."""

    def __init__(self, array: Any, n: int | None) -> None:
        inner = int(n is not None)
        shape, chunk = array.shape[inner:], array.chunks[inner:]
        super().__init__(
            shape,
            array.dtype,
            least_layers=chunk[0] if len(shape) == MANY - 1 else 1,
            least_bytes=prod(array.chunks) * array.dtype.itemsize,
        )
        self._array, self._n = array, n

    def slab(self, layers: Sequence[int], heads: Sequence[int], buffer: SlabBuffer) -> NDArray[Any]:  # noqa: ARG002
        """Decodes the chunks that hold these layers and heads."""
        leading = (layers, heads)[4 - len(self.shape) :]
        place = () if self._n is None else (self._n,)
        taken = self._array.oindex[(*place, *map(_run, leading), slice(None), slice(None))]
        length = self.shape[-1]
        return np.asarray(taken).reshape(len(layers), len(heads), length, length)


def _run(indices: Sequence[int]) -> slice | list[int]:
    """Rising indices as a slice where they have no gaps."""
    if indices[-1] - indices[0] + 1 == len(indices):
        return slice(indices[0], indices[-1] + 1)
    return list(indices)


def _safe(name: str, array: Any) -> Any:
    """Refuses what would be unpickled: format 2 has a codec for it, that not every version of zarr refuses itself."""
    if not hasattr(array, "dtype"):
        raise SourceError(f"{name} is a group, expected an array")
    told = array.metadata.to_dict()
    if "pickle" in repr([told.get(key) for key in ("filters", "compressor", "codecs")]).lower():
        raise SourceError(f"{name} holds pickled objects, which are never unpickled, expected numbers or strings")
    return array
