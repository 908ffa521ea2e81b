"""The input: an array of attention maps and the caller's declarations, checked before any value is read."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attention_patterns.errors import (
    DataTypeError,
    InvalidDeclarationError,
    PaddingError,
    SegmentsError,
    ShapeError,
    TokenGroupsError,
    TokensError,
)
from attention_patterns.special_tokens import PADDING_TOKENS, special_token_positions

MOST_AXES = 64  # numpy's limit
MANY = 5  # axes of the attention of many inputs
SHORTEST_LABELLED = 8  # tokens; the annotation guide labels no shorter map


class DataType(StrEnum):
    """The storage type of a tensor's values; bfloat16 is held in uint16, since numpy has no such type."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


# How far the sum of a row may be from 1: published dumps are rounded to three decimals and more, and a softmax taken
# in half precision loses its last bits.
ROW_SUM_TOLERANCE = {DataType.FLOAT64: 0.01, DataType.FLOAT32: 0.01, DataType.FLOAT16: 0.02, DataType.BFLOAT16: 0.04}


@dataclass(frozen=True)
class AttentionMaps:
    """Square maps of one length.

    Attributes:
        values: The maps, [maps, L, L], C order; float64, float32, or uint16 holding the bits of float16 or bfloat16.
        data_type: Storage type of the values.
        names: Names of the leading axes: ("layer", "head"), ("head",), () or, for a list of maps, ("map",).
        axes: Indices of the entries of each leading axis in the tensor or list that they were taken from.
        warnings: Sentences for the caller on how they were read.
    """

    values: NDArray[Any]
    data_type: DataType
    names: tuple[str, ...]
    axes: tuple[Sequence[int], ...]
    warnings: tuple[str, ...] = ()

    @cached_property
    def leading(self) -> tuple[int, ...]:
        """The sizes of the axes before the last two; their product is the number of maps."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def layers(self) -> tuple[int, ...]:
        """The indices of the layers; () where there is no axis of layers."""
        return tuple(dict(zip(self.names, self.axes, strict=True)).get("layer", ()))

    @cached_property
    def length(self) -> int:
        """L, the number of tokens, padding included."""
        return int(self.values.shape[-1])

    def where(self, index: int) -> str:
        """Returns the name of a map in messages: "attention[layer 3, head 7]"."""
        places = np.unravel_index(index, self.leading) if self.leading else ()
        indices = [axis[int(place)] for axis, place in zip(self.axes, places, strict=True)]
        if self.names == ("map",):
            return f"maps[{indices[0]}]"
        inner = ", ".join(f"{name} {i}" for name, i in zip(self.names, indices, strict=True))
        return f"attention[{inner}]" if inner else "attention"


def decode(values: NDArray[Any], data_type: DataType) -> NDArray[np.float64]:
    """Returns stored values of any shape as float64."""
    if data_type is DataType.BFLOAT16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif data_type is DataType.FLOAT16:
        values = values.view(np.float16)
    return values.astype(np.float64)


def read_attention(
    attention: ArrayLike, data_type: str | None, *, first_layer: int = 0, first_head: int = 0
) -> AttentionMaps:
    """Reads [L, L], [heads, L, L] or [layers, heads, L, L]; copies only an array that is not in C order.

    Args:
        attention: numpy array or anything with ``__array__``.
        data_type: "bfloat16" when ``attention`` is uint16 holding its bits; otherwise None or the array's own type.
        first_layer: Index of the first layer, where ``attention`` is a chunk of a larger tensor.
        first_head: Index of the first head, where it is a chunk of a layer.

    Raises:
        ShapeError: The array has other axes, is not square, or is empty.
        DataTypeError: The array is not of a float type that is read, or not of ``data_type``.
    """
    array = _as_array(attention)
    stored = _read_data_type(array, data_type)
    if array.ndim not in (2, 3, 4):
        raise ShapeError(
            f"attention has {array.ndim} axes, shape {list(array.shape)}, "
            f"expected [L, L], [heads, L, L] or [layers, heads, L, L]{_hint_at_batch(array.shape)}"
        )
    rows, columns = array.shape[-2:]
    if rows != columns:
        raise ShapeError(
            f"attention has {rows} query rows and {columns} key columns, shape {list(array.shape)}, expected as many "
            "of one as of the other; cross-attention and cached decoding steps are not self-attention maps"
        )
    if array.size == 0:
        raise ShapeError(f"attention is empty, shape {list(array.shape)}, expected at least one map of one token")
    bits = array.view(np.uint16) if array.dtype.itemsize == 2 else array
    names = ("layer", "head")[4 - array.ndim :]
    firsts = {"layer": first_layer, "head": first_head}
    return AttentionMaps(
        values=np.ascontiguousarray(bits).reshape(-1, rows, rows),
        data_type=stored,
        names=names,
        axes=tuple(range(firsts[n], firsts[n] + size) for n, size in zip(names, array.shape[:-2], strict=True)),
    )


def read_input(attention: ArrayLike, data_type: str | None) -> AttentionMaps:
    """Reads the attention of one input as ``read_attention`` does, also ``torch.stack(outputs.attentions)`` of a batch.

    Raises:
        ShapeError: The array has other axes, holds a batch of several inputs, is not square, or is empty.
        DataTypeError: The array is not of a float type that is read, or not of ``data_type``.
    """
    array = _as_array(attention)
    if array.ndim != MANY or array.shape[1] != 1:
        return read_attention(array, data_type)
    warning = f"attention of shape {list(array.shape)} was read as [layers, batch, heads, L, L], a batch of one input"
    return replace(read_attention(array[:, 0], data_type), warnings=(warning,))


def _hint_at_batch(shape: tuple[int, ...]) -> str:
    if len(shape) != MANY:
        return ""
    return (
        "; a batch axis was left in? Take one input: attention[:, n] of [layers, batch, heads, L, L], as "
        "torch.stack(outputs.attentions) has it, or attention[n] of [batch, layers, heads, L, L]"
    )


def _as_array(attention: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(attention)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f"{type(attention).__module__}.{type(attention).__name__}"
        raise DataTypeError(
            f"attention of type {kind} cannot be read as an array ({error}); {_explain_unreadable(attention)}"
        ) from error


def _explain_unreadable(attention: object) -> str:
    """Returns what to do with a value that is no array: all that is needed of a tensor, or of a list of them."""
    parts = [*attention] if isinstance(attention, (list, tuple)) else [attention]
    shapes = {
        tuple(part.shape) if hasattr(part, "shape") else (len(part),) if hasattr(part, "__len__") else ()
        for part in parts
    }
    steps = [
        (any(getattr(part, "requires_grad", False) for part in parts), "a torch tensor must be detached: .detach()"),
        (
            any(str(getattr(part, "device", "cpu")) != "cpu" for part in parts),
            "a torch tensor must be on the CPU: .cpu()",
        ),
        (
            any(str(getattr(part, "dtype", "")) == "torch.bfloat16" for part in parts),
            "bfloat16 is passed as .view(torch.uint16) with data_type='bfloat16'",
        ),
        (
            len(shapes) > 1,
            f"its entries have shapes {', '.join(str(list(shape)) for shape in sorted(shapes)[:3])}, expected one; "
            "classify_maps takes single maps of any sizes",
        ),
    ]
    return "; ".join(step for needed, step in steps if needed) or "expected numbers, or anything with __array__"


def _read_data_type(array: NDArray[Any], declared: str | None) -> DataType:
    if declared is not None and declared not in list(DataType):
        raise DataTypeError(f"data_type is {declared!r}, expected one of {', '.join(DataType)}")
    own = "bfloat16" if array.dtype == np.uint16 and declared == DataType.BFLOAT16 else array.dtype.name
    if own not in list(DataType) or not array.dtype.isnative:
        raise DataTypeError(
            f"attention has dtype {array.dtype}, expected one of {', '.join(DataType)}{_hint_at_data_type(array)}"
        )
    if declared not in (None, own):
        raise DataTypeError(f"attention has dtype {own}, but data_type is {declared!r}")
    return DataType(own)


def _hint_at_data_type(array: NDArray[Any]) -> str:
    """Returns what to do with values of a type that is not read."""
    if array.dtype == np.uint16:
        return "; bfloat16 bits in uint16 need data_type='bfloat16'"
    if array.dtype == np.uint8 and array.ndim and abs(np.median(array.sum(axis=-1)) / 255 - 1) < 0.5:
        return "; levels of 8 bits? Divide by 255"
    if array.dtype.kind == "V":
        return "; bfloat16 that was saved without its type? Convert it to float32 before"
    if array.dtype.kind == "O":
        return "; entries of several sizes, or None?"
    return "" if array.dtype.kind not in "fiu" else "; convert it with .astype('float32')"


@dataclass(frozen=True)
class TokenGroup:
    """A named set of tokens; ``positions`` are int64, rising, and count the kept tokens."""

    name: str
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class Declaration:
    """The declaration of an input: all that is known of it besides its matrix, cropped to the kept tokens.

    Attributes:
        kept: Positions, in the matrix as sent, of the tokens that are not padding; int64 [length], rising.
        tokens: The kept tokens, or None.
        groups: Token groups, special tokens first.
        segments: Segment id of each kept token, int64 [length], or None when not declared.
        causal: True, False, or None to find it layer by layer.
        warnings: Sentences for the caller.
    """

    kept: NDArray[np.int64]
    tokens: tuple[str, ...] | None
    groups: tuple[TokenGroup, ...]
    segments: NDArray[np.int64] | None
    causal: bool | None
    warnings: tuple[str, ...]

    def warn(self, *warnings: str) -> "Declaration":
        """Returns the same declaration with more warnings, each once."""
        return replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *warnings))))

    @cached_property
    def length(self) -> int:
        """The number of kept tokens."""
        return len(self.kept)

    @cached_property
    def one_segment(self) -> bool:
        """Whether the input was declared to be one segment, so that no pattern of it is Block."""
        return self.segments is not None and len(np.unique(self.segments)) == 1


def read_declaration(
    length: int,
    *,
    tokens: Sequence[str] | None = None,
    special_tokens: Collection[str] = (),
    token_groups: Mapping[str, Iterable[int]] | None = None,
    segments: ArrayLike | None = None,
    valid_length: int | None = None,
    mask: ArrayLike | None = None,
    causal: bool | None = None,
) -> Declaration:
    """Reads and checks the declarations of maps of ``length`` tokens, which are those of ``Classifier.classify``.

    Raises:
        TokensError: The tokens do not match the length, or ``special_tokens`` is one string.
        TokenGroupsError: A group's name is empty or taken, or a position is outside the map.
        SegmentsError: The segments do not match the length.
        PaddingError: ``valid_length`` or ``mask`` does not fit.
    """
    kept = _read_kept(length, valid_length, mask)
    kept_tokens = _read_tokens(length, kept, tokens)
    warnings = []
    if kept_tokens is not None and kept_tokens[-1] in PADDING_TOKENS:
        warnings.append(
            f"the last token is {kept_tokens[-1]} and was classified like any other; "
            "declare valid_length or mask to crop padding"
        )
    if len(kept) < SHORTEST_LABELLED:
        warnings.append(f"{len(kept)} tokens are fewer than {SHORTEST_LABELLED}, the shortest map the model was taught")
    return Declaration(
        kept=kept,
        tokens=kept_tokens,
        groups=_read_groups(length, kept, _special_groups(kept_tokens, special_tokens), token_groups),
        segments=_read_segments(length, kept, segments),
        causal=causal,
        warnings=tuple(warnings),
    )


def _read_array(values: ArrayLike, name: str, error_class: type[InvalidDeclarationError]) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of several lengths
        raise error_class(f"{name} cannot be read as an array: {error}") from error


def _read_kept(length: int, valid_length: int | None, mask: ArrayLike | None) -> NDArray[np.int64]:
    if valid_length is not None and mask is not None:
        raise PaddingError("valid_length and mask are both declared, expected one of them")
    if mask is not None:
        flags = _read_array(mask, "mask", PaddingError)
        if flags.shape != (length,) or not np.isin(flags, (0, 1)).all() or not flags.any():
            raise PaddingError(f"mask has shape {list(flags.shape)}, expected {length} values 0 or 1, at least one 1")
        return np.flatnonzero(flags).astype(np.int64)
    if valid_length is None:
        return np.arange(length, dtype=np.int64)
    if isinstance(valid_length, bool) or not 1 <= valid_length <= length:
        raise PaddingError(f"valid_length is {valid_length}, expected 1 to {length}, the length of the map")
    return np.arange(valid_length, dtype=np.int64)


def _read_tokens(length: int, kept: NDArray[np.int64], tokens: Sequence[str] | None) -> tuple[str, ...] | None:
    if tokens is None:
        return None
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        raise TokensError(
            f"tokens is {type(tokens).__name__} {tokens!r:.80}, expected a sequence of strings, one a token"
        )
    if len(tokens) == length:
        return tuple(str(tokens[i]) for i in kept)
    if len(tokens) == len(kept):
        return tuple(str(token) for token in tokens)
    raise TokensError(f"{len(tokens)} tokens are declared for maps of {length} tokens, {len(kept)} of them not padding")


def _special_groups(tokens: tuple[str, ...] | None, others: Collection[str]) -> list[TokenGroup]:
    if isinstance(others, str):
        raise TokensError(f"special_tokens is {others!r:.80}, expected a collection of tokens")
    positions = special_token_positions(tokens or (), frozenset(others))
    return [TokenGroup(name, np.array(places, np.int64)) for name, places in positions.items()]


def _read_groups(
    length: int,
    kept: NDArray[np.int64],
    special_groups: Sequence[TokenGroup],
    declared: Mapping[str, Iterable[int]] | None,
) -> tuple[TokenGroup, ...]:
    groups = list(special_groups)
    special = {group.name for group in groups}
    member = np.empty(length, np.bool_)
    for name, positions in (declared or {}).items():
        if not name:
            raise TokenGroupsError(f"a token group has the name {name!r}, expected at least one character")
        if name in special:
            raise TokenGroupsError(f"token group {name!r} has the name of a special token of this input")
        sent = _read_array(list(positions), f"token group {name!r}", TokenGroupsError)
        if sent.size == 0 or not np.issubdtype(sent.dtype, np.integer) or sent.min() < 0 or sent.max() >= length:
            raise TokenGroupsError(
                f"token group {name!r} has positions {sent.tolist()!r:.80}, expected integers from 0 to {length - 1}"
            )
        member[:] = False
        member[sent] = True
        inside = np.flatnonzero(member[kept]).astype(np.int64)
        if inside.size == 0:
            raise TokenGroupsError(f"token group {name!r} lies wholly in the padding")
        groups.append(TokenGroup(name, inside))
    return tuple(groups)


def _read_segments(length: int, kept: NDArray[np.int64], segments: ArrayLike | None) -> NDArray[np.int64] | None:
    if segments is None:
        return None
    given = _read_array(segments, "segments", SegmentsError)
    if given.ndim != 1 or given.size == 0 or not np.issubdtype(given.dtype, np.integer) or given.min() < 0:
        raise SegmentsError(f"segments is {given.tolist()!r:.80}, expected lengths or ids: integers from 0 up")
    if len(given) == length:
        return np.asarray(given[kept], np.int64)
    if len(given) == len(kept):
        return given.astype(np.int64)
    if (given > 0).all() and (given <= length).all() and given.sum() in (length, len(kept)):
        ids = np.repeat(np.arange(len(given)), given)
        return np.asarray(ids[kept] if len(ids) == length else ids, np.int64)
    raise SegmentsError(
        f"segments is {given.tolist()!r:.80} (sum {sum(given.tolist())}), expected lengths that sum to {len(kept)} or "
        f"one id for each of {len(kept)} tokens"
    )
