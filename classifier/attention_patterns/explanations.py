"""The causes for which maps are refused: a table, in which each remedy was checked on the map before it is advised."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import ROW_SUM_TOLERANCE, AttentionMaps, Declaration, decode
from attention_patterns.errors import (
    InvalidAttentionError,
    LogitsError,
    NegativeAttentionError,
    NotCausalError,
    NotFiniteError,
    RowSumError,
    TransposedError,
)
from attention_patterns.row_sums import decode_map, find_rounding

_LEAST_DROPPED = 0.02  # share of the weights that dropout sets to 0, at least


@np.errstate(all="ignore")  # the error alone reports what is wrong
def explain_not_causal(maps: AttentionMaps, declaration: Declaration, index: int) -> NotCausalError:
    """Returns the error that names what stands above the diagonal of a map that was declared causal."""
    matrix, kept = decode_map(maps, declaration, index), declaration.kept
    row, column = (int(i[0]) for i in np.nonzero(np.triu(matrix, 1)))
    bad = f"row {kept[row]}, column {kept[column]} is {matrix[row, column]:.3g}"
    return NotCausalError(f"{maps.where(index)}: {bad}, expected 0 above the diagonal of a causal map")


@dataclass(frozen=True)
class _Refused:
    """A map that the kernel refused at a row, without its padding."""

    maps: AttentionMaps
    declaration: Declaration
    index: int
    row: int

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        return decode_map(self.maps, self.declaration, self.index)

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        sums: NDArray[np.float64] = self.matrix.sum(axis=1)
        return sums

    @property
    def tolerance(self) -> float:
        return ROW_SUM_TOLERANCE[self.maps.data_type]

    @property
    def where(self) -> str:
        return self.maps.where(self.index)

    @property
    def wrong_sum(self) -> str:
        place = f"row {self.declaration.kept[self.row]}"
        return f"{self.where}: {place} sums to {self.sums[self.row]:.4g}, expected 1 +- {self.tolerance:g}"

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Which rows sum to 1."""
        return self.sum_to(1)

    @cached_property
    def mostly_wrong(self) -> bool:
        """Whether most rows are no distribution, so that it was no slip."""
        return bool(np.median(np.abs(self.sums - 1)) > self.tolerance)

    @cached_property
    def causal(self) -> bool:
        """Whether nothing stands above the diagonal."""
        return not np.triu(self.matrix, 1).any()

    def sum_to(self, total: float) -> NDArray[np.bool_]:
        return np.abs(self.sums / total - 1) <= self.tolerance

    def cell(self, flags: NDArray[np.bool_]) -> tuple[str, float]:
        """Returns the place and the value of the first marked cell."""
        row, column = divmod(int(flags.argmax()), len(self.matrix))
        kept = self.declaration.kept
        return f"row {kept[row]}, column {kept[column]}", float(self.matrix[row, column])

    @property
    def divide_hint(self) -> str:
        """The way to divide each row by its sum; "" where a row has none."""
        if not (np.isfinite(self.sums) & (self.sums > 0)).all():
            return ""
        return " Each row is divided by its sum with renormalise=True, --renormalise of the labeller"

    def crop_hint(self, good: NDArray[np.bool_]) -> str:
        """Returns the declaration that crops to these rows; "" where a part of their attention goes elsewhere."""
        if not good.any() or good.all():
            return ""
        cropped = self.matrix[np.ix_(good, good)]
        if not (np.abs(cropped.sum(axis=1) - 1) <= self.tolerance).all():
            return ""
        kept = self.declaration.kept[good]
        prefix = int(kept[-1]) == len(kept) - 1
        return f" Declare valid_length={len(kept)}" if prefix else f" Declare a mask of the {len(kept)} other tokens"


@np.errstate(all="ignore")
def explain(maps: AttentionMaps, declaration: Declaration, index: int, row: int) -> InvalidAttentionError:
    """Returns the error that names what is wrong with a map refused at ``row``, and the likely cause."""
    refused = _Refused(maps, declaration, index, row)
    return next(error for cause in _CAUSES if (error := cause(refused)) is not None)


def _not_finite(refused: _Refused) -> InvalidAttentionError | None:
    bad = ~np.isfinite(refused.matrix)
    bad[: refused.row] = bad[refused.row + 1 :] = False
    if not bad.any():
        return None
    place, value = refused.cell(bad)
    hint = refused.crop_hint(np.asarray(np.isfinite(refused.matrix).any(axis=1)))
    padded = "; a query that sees no key, such as padding?" if hint else ""
    return NotFiniteError(f"{refused.where}: {place} is {value}, expected a finite weight{padded}{hint}")


def _logarithms(refused: _Refused) -> InvalidAttentionError | None:
    weights = np.exp(refused.matrix)
    if (refused.matrix > 0).any() or not (np.abs(weights.sum(axis=1) - 1) <= refused.tolerance).all():
        return None
    return LogitsError(f"{refused.wrong_sum}, while its exponentials do: logarithms of weights? Send numpy.exp of them")


def _scaled(refused: _Refused) -> InvalidAttentionError | None:
    """Explains rows that all have the same sum, which is not 1."""
    total = float(np.median(refused.sums))
    if len(refused.sums) == 1 or not total > 0 or (refused.matrix < 0).any() or not refused.sum_to(total).all():
        return None
    if abs(total - 1) <= refused.tolerance:
        return None
    number = round(total)
    if refused.sum_to(100).all():
        cause = "weights in per cent? Divide by 100"
    elif refused.sum_to(255).all():
        cause = "levels of 8 bits? Divide by 255"
    elif number > 1 and refused.sum_to(number).all():
        cause = f"{number} heads or layers added up? Divide by {number}, or send each of them"
    else:
        cause = f"scaled?{refused.divide_hint}"
    return RowSumError(f"{refused.wrong_sum}, as all rows do: {cause}")


def _scores(refused: _Refused) -> InvalidAttentionError | None:
    """Explains values that are no weights; where there are both, the negative value is reported."""
    for outside in (refused.matrix < 0, refused.matrix > 1 + refused.tolerance):
        if outside.any() and refused.mostly_wrong:
            place, value = refused.cell(outside)
            bad = f"{refused.wrong_sum}, and {place} is {value:.4g}"
            if value < 0:
                return LogitsError(f"{bad}: scores from before the softmax were sent? Expected weights")
            return LogitsError(
                f"{bad}: scores, or exponentials not divided by their sums, were sent?{refused.divide_hint}"
            )
        if outside.any() and (refused.matrix < 0).any():
            place, value = refused.cell(outside)
            return NegativeAttentionError(f"{refused.where}: {place} is {value:.4g}, expected a weight from 0 to 1")
    return None


def _transposed(refused: _Refused) -> InvalidAttentionError | None:
    columns = refused.matrix.sum(axis=0)
    if len(columns) == 1 or not (np.abs(columns - 1) <= refused.tolerance).all():
        return None
    return TransposedError(f"{refused.wrong_sum}, while every column does: transposed? Expected queries as rows")


def _row_sum(refused: _Refused) -> InvalidAttentionError:
    """Explains a sum of weights, all of which are right by themselves."""
    hint = next(filter(None, (hint(refused) for hint in _HINTS)), "")
    return RowSumError(refused.wrong_sum + hint)


_CAUSES: tuple[Callable[[_Refused], InvalidAttentionError | None], ...] = (
    _logarithms,
    _not_finite,
    _scaled,
    _scores,
    _transposed,
    _row_sum,
)


def _to_padding(refused: _Refused) -> str:
    kept, maps = refused.declaration.kept, refused.maps
    if len(kept) == maps.length:
        return ""
    whole = decode(maps.values[refused.index], maps.data_type)[kept[refused.row]]
    if not abs(whole.sum() - 1) <= refused.tolerance:
        return ""
    return (
        f"; attention to tokens declared as padding is missing from it, {1 - refused.sums[refused.row]:.2g}: is the "
        "declaration right?"
    )


def _empty(refused: _Refused) -> str:
    if refused.sums[refused.row] != 0:
        return ""
    if not refused.matrix.any():
        return ", and the whole map is empty"
    hint = refused.crop_hint(refused.sums != 0)
    return f"; an empty row is a padded query?{hint}" if hint else "; no weight stands in it"


def _rounded(refused: _Refused) -> str:
    rounding = find_rounding(refused.matrix)
    if rounding is None:
        return ""
    explained = rounding.explains(refused.matrix, causal=refused.causal)[refused.row]
    return (
        f"; weights are rounded to {rounding.name}, which explains no more than +- {explained:.2g}{refused.divide_hint}"
    )


def _slip(refused: _Refused) -> str:
    wrong, rows = int(np.count_nonzero(~refused.right)), len(refused.sums)
    return f"; {wrong} of {rows} rows differ and all others sum to 1: changed later?" if 0 < 2 * wrong < rows else ""


def _dropout(refused: _Refused) -> str:
    """Explains sums on both sides of 1 with weights of exactly 0: dropout scales those that it leaves."""
    above, below = (refused.sums > 1 + refused.tolerance).any(), (refused.sums < 1 - refused.tolerance).any()
    seen = refused.matrix[np.tril_indices(len(refused.matrix))] if refused.causal else refused.matrix
    dropped = np.mean(seen == 0) > _LEAST_DROPPED
    return "; taken with dropout on? Call the model's eval() first" if above and below and dropped else ""


def _uneven(refused: _Refused) -> str:
    """Explains sums that are all at most 1, or not, by what may be missing or too much."""
    missing = not (refused.sums > 1 + refused.tolerance).any()
    cause = (
        "keys that were cut off, or attention to a sink outside of the map" if missing else "not divided by their sums"
    )
    return f"; rows sum to {refused.sums.min():.2g} to {refused.sums.max():.2g}: {cause}?{refused.divide_hint}"


_HINTS = (_to_padding, _empty, _slip, _dropout, _rounded, _uneven)
