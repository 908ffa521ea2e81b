"""The one rendering: attention maps to the images that the net reads, and the sums that the measures need.

An image has three channels, each white (0) to dark (255), over cells of floor-divided bounds: cell c of S holds tokens
c L // S to (c + 1) L // S - 1. With v = 2.5 / L, the least weight that the annotation guide calls visible:

0. maximum of the cell m, as m / (m + v): a one-token stripe or diagonal keeps its shade at any L, v itself is 128;
1. mean of the cell a, as a / (a + v): separates a line through the cell from a single point in it;
2. maximum of the cell over the maximum of the map: what an annotator sees.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attention_patterns import kernel
from attention_patterns.attention_map import (
    ROW_SUM_TOLERANCE,
    AttentionMaps,
    DataType,
    Declaration,
    read_attention,
    read_declaration,
)
from attention_patterns.explanations import explain, explain_not_causal
from attention_patterns.row_sums import divide_rounded

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
        warnings: Sentences on maps that were taken although their rows do not sum to 1.
    """

    images: NDArray[np.uint8]
    column_sums: NDArray[np.float64]
    causal: NDArray[np.bool_]
    stripes: NDArray[np.bool_]
    measures: NDArray[Any]
    warnings: tuple[str, ...] = ()

    @classmethod
    def join(cls, surveys: Sequence["Survey"]) -> "Survey":
        """Returns one survey of several over consecutive maps."""
        if len(surveys) == 1:
            return surveys[0]
        arrays = {name: np.concatenate([getattr(each, name) for each in surveys]) for name in _ARRAYS}
        return cls(**arrays, warnings=tuple(dict.fromkeys(w for each in surveys for w in each.warnings)))

    def replace_map(self, index: int, other: "Survey") -> None:
        """Puts the survey of a single map in the place of one of these."""
        for name in _ARRAYS:
            getattr(self, name)[index] = getattr(other, name)[0]


_ARRAYS = [field.name for field in fields(Survey) if field.name != "warnings"]


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
            raise explain_not_causal(maps, declaration, int(n))
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
    warnings = dict.fromkeys(
        _survey_rounded(maps, declaration, result, int(n), begin=begin, row=int(bad_rows[n]))
        for n in np.flatnonzero(bad_rows != kernel.OK)
    )
    return replace(result, warnings=tuple(warnings))


def _survey_rounded(
    maps: AttentionMaps, declaration: Declaration, result: Survey, n: int, *, begin: int, row: int
) -> str:
    """Surveys a map again that was refused at ``row``, if rounding explains its sums; returns the warning.

    Raises:
        InvalidAttentionError: It does not; subclasses name the cause.
    """
    divided = divide_rounded(maps, declaration, begin + n, causal=bool(result.causal[n]))
    if divided is None:
        raise explain(maps, declaration, begin + n, row)
    size, causal = result.images.shape[-1], result.causal[n : n + 1]
    again = survey(divided.maps, divided.declaration, causal, image_size=size, begin=0, end=1)
    result.replace_map(n, again)
    return divided.warning


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
