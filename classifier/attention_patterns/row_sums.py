"""Rows that do not sum to 1 and are taken all the same: those of rounded weights, and all on request.

Such rows are divided by their sums. The rounding is only looked for in maps that the kernel refused.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import ROW_SUM_TOLERANCE, AttentionMaps, DataType, Declaration, decode

RENORMALISED = "each row was divided by its sum, as was asked for (renormalise)"
_SMALL = 10  # steps of a rounding below which a weight must be somewhere, or nothing tells what became of the zeros
_OF_BFLOAT16, _OF_FLOAT16, _OF_FLOAT32 = 2**-8, 2**-11, 2**-22  # distances of a stored number from its decimals


@dataclass(frozen=True)
class Rounding:
    """A rounding of weights: all are whole steps.

    Attributes:
        step: Distance of neighbouring weights.
        name: Name in messages.
    """

    step: float
    name: str

    def is_of(self, weights: NDArray[np.float64], precision: float) -> bool:
        """Returns whether all weights are whole steps, as far as numbers of this relative precision can be."""
        return bool((np.abs(np.rint(weights / self.step) * self.step - weights) <= weights * precision).all())

    def explains(self, matrix: NDArray[np.float64], *, causal: bool = False) -> NDArray[np.float64]:
        """Returns how far half a step in each cell brings the sum of each row of a map from 1, float64 [L].

        Cells above the diagonal of a causal map count for nothing, and neither do zeros where no weight is small, nor
        where a sum is too large. No rounding more than doubles a sum: what is less than half a step becomes 0.
        """
        seen = np.count_nonzero(matrix, axis=1)
        if ((matrix > 0) & (matrix < _SMALL * self.step)).any():
            cells = np.arange(1, len(matrix) + 1) if causal else np.full(len(matrix), len(matrix))
        else:
            cells = seen
        return np.minimum(1, self.step / 2 * np.where(matrix.sum(axis=1) > 1, seen, cells))


ROUNDINGS = (  # the coarsest first
    Rounding(1e-2, "2 decimals"),
    Rounding(1 / 255, "8 bits"),
    Rounding(1e-3, "3 decimals"),
    Rounding(1e-4, "4 decimals"),
    Rounding(1e-5, "5 decimals"),
)


def find_rounding(matrix: NDArray[np.float64], data_type: DataType) -> Rounding | None:
    """Returns the coarsest rounding that the weights [L, L] of a map show, None where they show none."""
    if not (np.isfinite(matrix).all() and (matrix >= 0).all() and (matrix <= 1).all()):
        return None
    fine = not (matrix.astype(np.float16) == matrix).all()  # or they came from half precision, whatever they are now
    precision = _OF_BFLOAT16 if data_type is DataType.BFLOAT16 else _OF_FLOAT32 if fine else _OF_FLOAT16
    return next((each for each in ROUNDINGS if all(each.is_of(m, precision) for m in (matrix[:1], matrix))), None)


@dataclass(frozen=True)
class DividedMap:
    """A map whose rows were divided by their sums.

    Attributes:
        maps: The map, without padding.
        declaration: Its declaration.
        warning: Sentence for the caller.
    """

    maps: AttentionMaps
    declaration: Declaration
    warning: str


@np.errstate(all="ignore")  # of what is not finite, which is refused
def divide_rounded(maps: AttentionMaps, declaration: Declaration, index: int, *, causal: bool) -> DividedMap | None:
    """Returns a map of rounded weights with its rows divided by their sums; None where no rounding explains these.

    Half a step in each cell of a row, and the tolerance of the data type, must bring its sum to 1.
    """
    matrix = decode_map(maps, declaration, index)
    rounding = find_rounding(matrix, maps.data_type)
    if rounding is None:
        return None
    sums, explained = matrix.sum(axis=1), rounding.explains(matrix, causal=causal)
    if (sums <= 0).any() or (np.abs(sums - 1) > explained + ROW_SUM_TOLERANCE[maps.data_type]).any():
        return None
    stored = DataType.FLOAT64 if maps.data_type is DataType.FLOAT64 else DataType.FLOAT32
    values = (matrix / sums[:, None]).astype(stored.value)[None]
    return DividedMap(
        maps=AttentionMaps(values, stored, ("map",), (range(1),)),
        declaration=replace(declaration, kept=np.arange(len(matrix))),
        warning=f"weights are rounded to {rounding.name}, which explains row sums of 1 +- "
        f"{explained.max():.2g}; such rows were divided by their sums",
    )


@np.errstate(all="ignore")
def divide_rows(maps: AttentionMaps, declaration: Declaration) -> AttentionMaps:
    """Returns maps with each row divided by its sum; rows that have none stay as they are, to be refused."""
    values, kept = maps.values.copy(), np.ix_(declaration.kept, declaration.kept)
    for n in range(len(values)):
        matrix = decode_map(maps, declaration, n)
        sums = matrix.sum(axis=1)
        good = np.isfinite(sums) & (sums > 0) & (matrix >= 0).all(axis=1)
        values[n][kept] = encode(matrix / np.where(good, sums, 1)[:, None], maps.data_type)
    return replace(maps, values=values, warnings=(*maps.warnings, RENORMALISED))


def decode_map(maps: AttentionMaps, declaration: Declaration, index: int) -> NDArray[np.float64]:
    """Returns a map without its padding as float64."""
    return decode(maps.values[index], maps.data_type)[np.ix_(declaration.kept, declaration.kept)]


def encode(values: NDArray[np.float64], data_type: DataType) -> NDArray[Any]:
    """Returns float64 values as they are stored; the inverse of ``decode``, to the nearest."""
    if data_type is DataType.FLOAT16:
        return values.astype(np.float16).view(np.uint16)
    if data_type is DataType.BFLOAT16:
        bits = values.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype(data_type.value)
