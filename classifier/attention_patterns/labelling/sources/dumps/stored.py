"""The common ground of the readers of dump formats: an opened file, an input in it, its attention in slabs."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import read_attention
from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.memory import in_words

OF_MODEL = ("layers", "special_tokens", "causal")  # declarations that may be one for all inputs
DECLARED = ("tokens", "segments", "valid_length", "mask", *OF_MODEL)
MOST_INPUTS = 2**20  # of a file: all of them are planned before the first is read
_MOST_MAPS = 2**16  # of an input: an image of each is in memory at once
_ALIKE = 0.8  # of two names of which one may be meant for the other, at least
_MOST_DECLARED = 2**26  # bytes of one declaration of one input


class SlabBuffer:
    """Memory that one slab after the other is read into; it grows to the largest."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Returns an uninitialised array in C order over the start of the memory.

        The array returned before must not be used any more.
        """
        size = prod(shape) * dtype.itemsize
        if len(self._bytes) < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size].view(dtype).reshape(shape)


class StoredMaps(ABC):
    """The attention of one input, of which single layers can be read.

    Attributes:
        shape: Shape as stored, without the axis of inputs.
        dtype: Type of the values; uint16 for bfloat16.
        data_type: "bfloat16", or None for numpy's own types.
        least_layers: Number of layers that are best read together.
        least_bytes: Bytes that are in memory at once however few layers and heads are read.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        data_type: str | None = None,
        least_layers: int = 1,
        least_bytes: int = 0,
    ) -> None:
        self.shape, self.dtype, self.data_type = shape, dtype, data_type
        self.least_layers, self.least_bytes = least_layers, least_bytes

    @property
    def layered(self) -> tuple[int, ...]:
        """The shape with all of its four axes [layers, heads, L, L]; 1 for those that were left out."""
        return (1,) * (4 - len(self.shape)) + self.shape

    def check(self) -> None:
        """Checks, before any value is read, that shape and type are those of attention.

        Raises:
            ShapeError, DataTypeError: As ``read_attention`` raises them.
            SourceError: The shape has more maps than an input may have.
        """
        square = len(self.shape) in (2, 3, 4) and self.shape[-1] == self.shape[-2] and prod(self.shape) > 0
        shape = (1, 1) if square else self.shape
        read_attention(np.broadcast_to(np.zeros((), self.dtype), shape), self.data_type)
        maps = prod(self.shape[:-2])
        if maps > _MOST_MAPS:
            raise SourceError(f"attention has shape {list(self.shape)}: {maps:,} maps, expected at most {_MOST_MAPS:,}")

    @abstractmethod
    def slab(self, layers: Sequence[int], heads: Sequence[int], buffer: SlabBuffer) -> NDArray[Any]:
        """Reads [layers, heads, L, L] of these layers and heads; valid until the buffer is used again."""

    def finish(self) -> None:  # noqa: B027 - most formats have nothing to check behind the last layer
        """Checks what can only be checked once all was read, such as a checksum of the whole."""


class ArrayMaps(StoredMaps):
    """The attention of one input that is in memory as a whole."""

    def __init__(self, values: NDArray[Any]) -> None:
        super().__init__(values.shape, values.dtype)
        self._values = values

    def slab(self, layers: Sequence[int], heads: Sequence[int], buffer: SlabBuffer) -> NDArray[Any]:  # noqa: ARG002
        """Copies these layers and heads."""
        whole: NDArray[Any] = self._values.reshape(self.layered)
        return whole[np.ix_(layers, heads)]


@dataclass(frozen=True)
class StoredInput:
    """One input of an opened file.

    Attributes:
        maps: Attention, not yet read.
        declared: Keywords of ``read_declaration`` that came with it, and ``layers``.
        warnings: Sentences on what the file holds.
    """

    maps: StoredMaps
    declared: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DumpHeader:
    """The properties of a file that are known before its attention is read.

    Attributes:
        inputs: Number of inputs; None for a file of one input without an axis of inputs.
        layers: Number of layers of an input, as all sizes here of the first where inputs differ.
        heads: Number of heads per layer.
        length: Number of tokens.
        itemsize: Bytes per value.
        groups: Numbers of inputs in each group that can only be read one after the other; () where any input can.
        ids: Ids of the inputs, where the file names them.
    """

    inputs: int | None
    layers: int
    heads: int
    length: int
    itemsize: int
    groups: tuple[int, ...] = ()
    ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Checks that the inputs are not too many to be planned.

        Raises:
            SourceError: They are.
        """
        if self.count > MOST_INPUTS:
            raise SourceError(f"it holds {self.count:,} inputs, expected at most {MOST_INPUTS:,} in a file; split it")

    @property
    def count(self) -> int:
        """The number of inputs."""
        return 1 if self.inputs is None else self.inputs


class OpenDump(ABC):
    """An opened file of dumped attention."""

    @abstractmethod
    def header(self) -> DumpHeader:
        """Returns the number of inputs and their sizes.

        Raises:
            SourceError: The file holds no inputs.
        """

    @abstractmethod
    def input(self, n: int | None) -> StoredInput:
        """Returns input ``n``, or the only one; quickest in rising order.

        Raises:
            SourceError: The file has no such input, or a declaration of it cannot be read.
        """


def require_attention(names: Iterable[str]) -> None:
    """Checks that one of the arrays is called "attention".

    Raises:
        SourceError: None of them is.
    """
    held = sorted(names)
    if "attention" not in held:
        meant = get_close_matches("attention", held, n=1, cutoff=_ALIKE)
        hint = f"; save {meant[0]!r} under the name 'attention'" if meant else ""
        raise SourceError(
            f"it holds no 'attention', expected it beside or instead of {', '.join(held)[:80] or '-'}{hint}"
        )


def check_size(subject: str, size: int) -> None:
    """Checks that a declaration of one input, or what holds it, is small enough to be read.

    Raises:
        SourceError: The size is over 64 MiB.
    """
    if size > _MOST_DECLARED:
        raise SourceError(f"{subject} has {size} bytes, expected at most {_MOST_DECLARED}")


def check_fits(subject: str, size: int, most_bytes: int) -> None:
    """Checks that so many bytes of attention may be in memory at once.

    Raises:
        SourceError: ``size`` is more than ``most_bytes``.
    """
    if size > most_bytes:
        raise SourceError(
            f"{subject} needs {in_words(size)} of memory at once, expected at most the {in_words(most_bytes)} that are "
            "left for it; raise --max-memory"
        )


def read_declared(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keywords of ``read_declaration``, and ``layers``, from arrays or lists.

    They are Python's own integer, boolean and strings.

    Raises:
        SourceError: A value is of another kind.
    """
    return {
        name: _CONVERSIONS[name](name, np.array(value, object) if isinstance(value, list) else np.asarray(value))
        for name, value in values.items()
    }


def misnamed_warnings(names: Iterable[str]) -> tuple[str, ...]:
    """Returns a warning for each array that is not read because of its name, but may be a declaration."""
    meant = {
        name: "mask"
        if name.endswith("mask")
        else next(iter(get_close_matches(name, DECLARED, n=1, cutoff=_ALIKE)), None)
        for name in sorted(set(names) - {*DECLARED, "attention"})
    }
    return tuple(f"{name!r} is not read; is {known!r} meant?" for name, known in meant.items() if known)


def _to_strings(name: str, values: NDArray[Any]) -> list[str]:
    texts: list[Any] = values.tolist()
    if values.dtype.kind not in "UTO" or values.ndim != 1 or not all(isinstance(text, str) for text in texts):
        raise SourceError(
            f"{name} has dtype {values.dtype} and shape {list(values.shape)}, expected one string per token (numpy <U)"
        )
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{name} cannot be written as UTF-8: {error}") from error
    return texts


def _to_integer(name: str, values: NDArray[Any]) -> int:
    if values.dtype.kind not in "iu" or values.size != 1:
        raise SourceError(
            f"{name} has dtype {values.dtype} and shape {list(values.shape)}, expected one integer per input"
        )
    return operator.index(values.item())


def _to_indices(name: str, values: NDArray[Any]) -> tuple[int, ...]:
    indices = tuple(map(int, values)) if values.dtype.kind in "iu" and values.ndim == 1 else ()
    if not indices or indices[0] < 0 or list(indices) != sorted(set(indices)):
        raise SourceError(f"{name} is {values.tolist()!r:.80}, expected rising indices from 0, one per layer")
    return indices


def _to_boolean(name: str, values: NDArray[Any]) -> bool:
    flags = _to_flags(name, values)
    if flags.dtype.kind not in "iu" or flags.size != 1 or flags.item() not in (0, 1):
        raise SourceError(f"{name} is {values.tolist()!r:.80}, expected one true or false")
    return bool(flags.item())


def _to_flags(_name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Returns booleans as bytes, since a file may fill them with other values than 0 and 1."""
    return values.view(np.uint8) if values.dtype.kind == "b" else values


def _keep(_name: str, values: NDArray[Any]) -> NDArray[Any]:
    return values


_CONVERSIONS: dict[str, Callable[[str, NDArray[Any]], Any]] = {
    "tokens": _to_strings,
    "special_tokens": _to_strings,
    "layers": _to_indices,
    "segments": _keep,
    "valid_length": _to_integer,
    "mask": _to_flags,
    "causal": _to_boolean,
}
