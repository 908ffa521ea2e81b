"""The one rendering: attention maps to the images that the net reads, and the sums that the measures need.

An image has three channels, each white (0) to dark (255), over cells of floor-divided bounds: cell c of S holds tokens
c L // S to (c + 1) L // S - 1. With v = 2.5 / L, the least weight that the annotation guide calls visible:

0. maximum of the cell m, as m / (m + v): a one-token stripe or diagonal keeps its shade at any L, v itself is 128;
1. mean of the cell a, as a / (a + v): separates a line through the cell from a single point in it;
2. maximum of the cell over the maximum of the map: what an annotator sees.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attention_patterns import kernel
from attention_patterns.attention_map import (
    ROW_SUM_TOLERANCE,
    AttentionMaps,
    DataType,
    Declaration,
    decode,
    read_attention,
    read_declaration,
)
from attention_patterns.errors import (
    InvalidAttentionError,
    LogitsError,
    NegativeAttentionError,
    NotCausalError,
    NotFiniteError,
    RowSumError,
    TransposedError,
)

RENDERING_VERSION = 1  # raised whenever the same map would give another image; travels with the weights
CHANNELS = 3
_SPAN = 32  # maps that one thread checks at a time

_ENCODINGS = {DataType.FLOAT16: kernel.FLOAT16, DataType.BFLOAT16: kernel.BFLOAT16}


@dataclass(frozen=True)
class Survey:
    """The result of one pass over maps of one length.

    Attributes:
        images: Images of the maps, uint8 [maps, 3, size, size].
        column_sums: Attention that each kept token receives, summed over query rows, float64 [maps, length].
        causal: Whether the map is causal, bool [maps].
        stripes: Which columns are stripes, bool [maps, length].
        measures: Measures of the kernel by name, ``kernel.MEASURES`` [maps].
    """

    images: NDArray[np.uint8]
    column_sums: NDArray[np.float64]
    causal: NDArray[np.bool_]
    stripes: NDArray[np.bool_]
    measures: NDArray[Any]

    @classmethod
    def join(cls, surveys: Sequence["Survey"]) -> "Survey":
        """Returns one survey of several over consecutive maps."""
        if len(surveys) == 1:
            return surveys[0]
        return cls(*(np.concatenate([getattr(each, field.name) for each in surveys]) for field in fields(cls)))


def find_causal(
    maps: AttentionMaps, declaration: Declaration, run: Callable[..., Iterable[object]] = map
) -> NDArray[np.bool_]:
    """Finds which maps are causal, bool [maps].

    Maps are causal as declared, or layer by layer where no head has anything above the diagonal: a single head that
    attends to the previous token can lose all of its upper triangle in float16, a layer does not.

    Args:
        maps: The maps.
        declaration: Their declaration.
        run: Maps a function over arguments as ``map`` does, perhaps on several threads.

    Raises:
        NotCausalError: A map that was declared causal is not.
    """
    count = len(maps.values)
    if declaration.causal is False or declaration.length == 1:
        return np.full(count, bool(declaration.causal))
    values, start = _crop(maps.values, declaration)
    empty = np.empty(count, np.bool_)

    def check(begin: int, end: int) -> None:
        kernel.nothing_above(*_locate(values[begin:end]), start, declaration.length, empty[begin:end])

    check(0, 1)  # most maps show at once that they are not causal, and nothing is left to share out
    spans = range(1, count, _SPAN if empty[0] else count)
    list(run(check, spans, [*spans[1:], count] if spans else []))
    if declaration.causal:
        for n in np.flatnonzero(~empty)[:1]:
            raise _explain_not_causal(maps, declaration, int(n))
        return empty
    heads = maps.leading[-1] if maps.names[-1:] == ("head",) else 1
    return np.repeat(empty.reshape(-1, heads).all(axis=1), heads)


def _crop(values: NDArray[Any], declaration: Declaration) -> tuple[NDArray[Any], int]:
    """Returns values in which the kept tokens stand together, and their start; copies only for a mask with holes."""
    start, kept = int(declaration.kept[0]), declaration.kept
    if kept[-1] - start + 1 == len(kept):
        return values, start
    return np.ascontiguousarray(values[:, kept][:, :, kept]), 0


def _locate(values: NDArray[Any]) -> tuple[int, NDArray[Any], int]:
    """Returns values as the kernel takes them: address, an array of their type, side."""
    return values.ctypes.data, np.empty(0, values.dtype), values.shape[-1]


def survey(
    maps: AttentionMaps,
    declaration: Declaration,
    causal: NDArray[np.bool_],
    *,
    image_size: int,
    begin: int,
    end: int,
) -> Survey:
    """Checks, renders and measures maps ``begin`` to ``end - 1`` in one pass; ``causal`` is that of all maps.

    Raises:
        InvalidAttentionError: A map is not a self-attention map; subclasses name why, the map, the row and the value.
    """
    count, length = end - begin, declaration.length
    values, start = _crop(maps.values[begin:end], declaration)
    result = Survey(
        images=np.empty((count, CHANNELS, image_size, image_size), np.uint8),
        column_sums=np.zeros((count, length)),
        causal=causal[begin:end],
        stripes=np.empty((count, length), np.bool_),
        measures=np.empty(count, kernel.MEASURES),
    )
    bad_rows = np.empty(count, np.int64)
    kernel.survey(
        *_locate(values),
        start,
        _ENCODINGS.get(maps.data_type, kernel.FLOAT),
        ROW_SUM_TOLERANCE[maps.data_type],
        _number_segments(declaration),
        result.causal,
        result.images,
        bad_rows,
        result.column_sums,
        result.stripes,
        result.measures,
        np.empty(0, np.float64 if maps.data_type is DataType.FLOAT64 else np.float32),
    )
    for n in np.flatnonzero(bad_rows != kernel.OK)[:1]:
        raise _explain(maps, declaration, begin + int(n), int(bad_rows[n]))
    return result


def _number_segments(declaration: Declaration) -> NDArray[np.int32]:
    """Returns the segments numbered from 0; an empty array when they were not declared."""
    if declaration.segments is None:
        return np.empty(0, np.int32)
    return np.unique(declaration.segments, return_inverse=True)[1].astype(np.int32)


def render(attention: ArrayLike, *, image_size: int, data_type: str | None = None) -> NDArray[np.uint8]:
    """Renders maps [L, L], [heads, L, L] or [layers, heads, L, L] without padding as uint8 [maps, 3, size, size].

    Raises:
        InvalidAttentionError: The array is not a self-attention map; subclasses name why.
    """
    maps = read_attention(attention, data_type)
    whole = read_declaration(maps.length)
    causal = find_causal(maps, whole)
    return survey(maps, whole, causal, image_size=image_size, begin=0, end=len(maps.values)).images


def _decode_map(maps: AttentionMaps, declaration: Declaration, index: int) -> NDArray[np.float64]:
    return decode(maps.values[index], maps.data_type)[np.ix_(declaration.kept, declaration.kept)]


@np.errstate(all="ignore")  # the error alone reports what is wrong
def _explain_not_causal(maps: AttentionMaps, declaration: Declaration, index: int) -> NotCausalError:
    matrix, kept = _decode_map(maps, declaration, index), declaration.kept
    row, column = (int(i[0]) for i in np.nonzero(np.triu(matrix, 1)))
    bad = f"row {kept[row]}, column {kept[column]} is {matrix[row, column]:.3g}"
    return NotCausalError(f"{maps.where(index)}: {bad}, expected 0 above the diagonal of a causal map")


@np.errstate(all="ignore")
def _explain(maps: AttentionMaps, declaration: Declaration, index: int, row: int) -> InvalidAttentionError:
    """Returns the error that names what is wrong with a map which the kernel refused at ``row``."""
    matrix, kept = _decode_map(maps, declaration, index), declaration.kept
    where, place = maps.where(index), f"row {kept[row]}"
    tolerance = ROW_SUM_TOLERANCE[maps.data_type]
    if not np.isfinite(matrix[row]).all():
        column = int(np.flatnonzero(~np.isfinite(matrix[row]))[0])
        value = matrix[row, column]
        return NotFiniteError(f"{where}: {place}, column {kept[column]} is {value}, expected a finite weight")
    total = float(matrix[row].sum())
    wrong_sum = f"{where}: {place} sums to {total:.4g}, expected 1 +- {tolerance:g}"
    for outside in (matrix < 0, matrix > 1 + tolerance):  # where there are both, the negative value is reported
        if not outside.any():
            continue
        r, c = divmod(int(outside.argmax()), len(kept))
        bad = f"row {kept[r]}, column {kept[c]} is {matrix[r, c]:.4g}"
        if np.median(np.abs(matrix.sum(axis=1) - 1)) > tolerance:  # not one slip: most rows are no distribution
            return LogitsError(f"{wrong_sum}, and {bad}: scores from before the softmax were sent? Expected weights")
        if matrix[r, c] < 0:
            return NegativeAttentionError(f"{where}: {bad}, expected a weight from 0 to 1")
    if len(kept) > 1 and np.abs(matrix.sum(axis=0) - 1).max() <= tolerance:
        return TransposedError(f"{wrong_sum}, while every column does: transposed? Expected queries as rows")
    if len(kept) < maps.length:
        hint = "; attention to tokens declared as padding is missing from it"
    elif total == 0:
        hint = "; an empty row is a padded query? Declare valid_length or mask"
    else:
        hint = "; taken with dropout on, averaged or cut?"
    return RowSumError(wrong_sum + hint)
