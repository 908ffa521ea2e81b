"""The one pass over a map that checks, renders and measures it, compiled with numba.

Each row is read from memory once into a buffer that stays in the first-level cache; everything else works on that
buffer or on small per-map sums. The kernel releases the interpreter lock, so threads run it side by side. It is
compiled once for each of uint16 (float16 and bfloat16 bits), float32 and float64, and cached on disk. All compiled
code stands in this one file: numba's cache sees only changes of the file that holds the function called.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

FLOAT, FLOAT16, BFLOAT16 = 0, 1, 2  # how the bits of a value are read; FLOAT: float32 or float64 as they are
OK, NOT_FINITE, NEGATIVE, ROW_SUM, ABOVE_DIAGONAL = 0, 1, 2, 3, 4  # verdicts on a map


def _compiled(function: Callable[..., Any]) -> Any:
    """Compiles on first call and caches on disk, where there is a folder for it: beside this file or in the home.

    Sums may be reordered, or they would not vectorise; NaN and infinity keep their meaning. Python's error model would
    put a branch for zero into every division, and that too keeps loops scalar.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract"}, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # a read-only installation and no home
        return njit(**options)(function)


def _load_row(source: Any, target: Any, bits: Any, encoding: int) -> None:
    """Reads a row into ``target`` as floating point; ``bits`` is the same memory as ``target``, as uint32."""
    raise TypeError("compiled code only")


@overload(_load_row)
def _load_row_overload(source: Any, target: Any, bits: Any, encoding: Any) -> Any:
    def load_bits(source: Any, target: Any, bits: Any, encoding: Any) -> Any:
        if encoding == BFLOAT16:
            for j in range(len(target)):
                bits[j] = np.uint32(source[j]) << np.uint32(16)
            return
        # A float16's exponent and mantissa, moved into a float32's place, read 2^-112 of the value, denormals
        # included; infinities and NaN end at 65536 and above.
        for j in range(len(target)):
            half = np.uint32(source[j])
            bits[j] = ((half & np.uint32(0x7FFF)) << np.uint32(13)) | ((half & np.uint32(0x8000)) << np.uint32(16))
        for j in range(len(target)):
            target[j] *= np.float32(5.192296858534828e33)  # 2^112
        for j in range(len(target)):
            target[j] = target[j] if abs(target[j]) < np.float32(65536.0) else np.float32(np.nan)

    def load_floats(source: Any, target: Any, bits: Any, encoding: Any) -> Any:
        for j in range(len(target)):
            target[j] = source[j]

    return load_bits if source.dtype == types.uint16 else load_floats


@_compiled
def _row_entropy(row: Any, single: Any, bits: Any, exponent: Any) -> Any:
    """Entropy of a row in nats: -sum p ln p, with ln by exponent and a polynomial (error under 2e-7), 0 ln 0 = 0."""
    for j in range(len(row)):
        single[j] = row[j]
    for j in range(len(row)):
        exponent[j] = np.float32(np.int32(bits[j] >> np.uint32(23)))
    for j in range(len(row)):
        bits[j] = np.uint32((bits[j] & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000))
    total = np.float32(0.0)
    for j in range(len(row)):
        # single is now the mantissa m in [1, 2); ln m = 2 artanh(z), z = (m - 1) / (m + 1) <= 1/3
        z = (single[j] - np.float32(1.0)) / (single[j] + np.float32(1.0))
        s = z * z
        series = np.float32(1 / 11) * s + np.float32(1 / 9)
        series = series * s + np.float32(1 / 7)
        series = series * s + np.float32(1 / 5)
        series = series * s + np.float32(1 / 3)
        series = series * s + np.float32(1.0)
        power = exponent[j] - np.float32(127.0)
        total += np.float32(row[j]) * (np.float32(2.0) * z * series + power * np.float32(0.6931471805599453))
    return -total


@_compiled
def _paint(image: Any, cell_max: Any, cell_sum: Any, bounds: Any, visible: Any) -> None:
    """Fills one image uint8 [3, size, size] from the cells; a map smaller than the image gets flat, larger cells."""
    size = image.shape[1]
    cells = len(bounds) - 1
    darkest = np.float32(0.0)
    for r in range(cells):
        for c in range(cells):
            darkest = max(darkest, np.float32(cell_max[r, c]))
    shades = np.empty((3, cells), np.uint8)
    for r in range(cells):
        for c in range(cells):
            top = np.float32(cell_max[r, c])
            area = np.float32((bounds[r + 1] - bounds[r]) * (bounds[c + 1] - bounds[c]))
            mean = np.float32(cell_sum[r, c]) / area
            shades[0, c] = np.uint8(np.float32(255.0) * top / (top + visible) + np.float32(0.5))
            shades[1, c] = np.uint8(np.float32(255.0) * mean / (mean + visible) + np.float32(0.5))
            shades[2, c] = np.uint8(np.float32(255.0) * top / darkest + np.float32(0.5))
        first, last = -(-r * size // cells), -(-(r + 1) * size // cells)  # pixel y shows cell y * cells // size
        for channel in range(3):
            for x in range(size):
                image[channel, first, x] = shades[channel, x * cells // size]
            for y in range(first + 1, last):
                image[channel, y] = image[channel, first]


@_compiled
def _find_stripes(row_start: Any, column: Any, causal: bool, stripe: Any) -> None:
    """Marks the columns visible in at least half of the rows that can reach them."""
    length = len(row_start) - 1
    seen = np.zeros(length, np.int64)
    for k in range(row_start[length]):
        seen[column[k]] += 1
    for j in range(length):
        rows = length - j if causal else length
        # In a causal map the last few columns are reached by so few rows that any cell would make a stripe.
        stripe[j] = seen[j] > 0 and 2 * seen[j] >= rows and 4 * rows >= length


@_compiled
def _find_lines(row_start: Any, column: Any, stripe: Any, is_line: Any) -> None:
    """Marks the diagonals, index = key - query + length - 1, that make up lines.

    A line is a run of at most max(5, length / 10) neighbouring diagonals, each visible in at least half of its cells
    outside the stripes; diagonals of fewer than a quarter of the tokens are too short to tell from chance.
    """
    length = len(row_start) - 1
    widest = max(5, length // 10)
    on = np.zeros(2 * length - 1, np.int64)  # visible cells outside the stripes
    free = np.zeros(2 * length - 1, np.int64)  # cells outside the stripes
    for j in range(length):
        if not stripe[j]:
            for d in range(j, j + length):
                free[d] += 1
    for i in range(length):
        for k in range(row_start[i], row_start[i + 1]):
            on[column[k] - i + length - 1] += not stripe[column[k]]
    run = 0
    for d in range(2 * length):
        if d < 2 * length - 1 and 2 * on[d] >= free[d] and 4 * free[d] >= length:
            run += 1
            continue
        if 0 < run <= widest:
            for e in range(d - run, d):
                is_line[e] = True
        run = 0


@_compiled
def _stripes_and_lines(
    row_start: Any,
    column: Any,
    weight: Any,
    causal: bool,
    stripe: Any,
) -> tuple[float, float, float, float, int]:
    """Marks the stripes; masses of the visible cells: all, in stripes, in lines, in either; offset of the main line."""
    length = len(row_start) - 1
    is_line = np.zeros(2 * length - 1, np.bool_)
    mass = np.zeros(2 * length - 1, np.float64)
    _find_stripes(row_start, column, causal, stripe)
    _find_lines(row_start, column, stripe, is_line)
    total, in_stripes, in_lines, in_either = 0.0, 0.0, 0.0, 0.0
    for i in range(length):
        for k in range(row_start[i], row_start[i + 1]):
            d = column[k] - i + length - 1
            mass[d] += weight[k]
            total += weight[k]
            in_stripes += weight[k] if stripe[column[k]] else 0.0
            in_lines += weight[k] if is_line[d] else 0.0
            in_either += weight[k] if is_line[d] or stripe[column[k]] else 0.0
    heaviest = length - 1
    for d in range(2 * length - 1):
        if is_line[d] and (not is_line[heaviest] or mass[d] > mass[heaviest]):
            heaviest = d
    return total, in_stripes, in_lines, in_either, heaviest - length + 1


@_compiled
def _count_nonzero(values: Any) -> int:
    found = 0
    for j in range(len(values)):
        found += values[j] != 0
    return found


@_compiled
def nothing_above(values: Any, start: int, length: int, empty: Any) -> None:
    """Writes to ``empty``, bool [maps], where no value stands above the diagonal; stops at the first that does."""
    for n in range(len(values)):
        empty[n] = True
        for i in range(start, start + length - 1):
            if _count_nonzero(values[n, i, i + 1 : start + length]) > 0:
                empty[n] = False
                break


@_compiled
def _verdict(row: Any, tolerance: float) -> int:
    """What is wrong with a row."""
    total = 0.0
    negative = 0
    for j in range(len(row)):
        total += row[j]
        negative += row[j] < 0
    if not math.isfinite(total):
        return NOT_FINITE
    if negative > 0:
        return NEGATIVE
    return OK if abs(total - 1.0) <= tolerance else ROW_SUM


@_compiled
def _add_to_band(row: Any, band_max: Any, band_sum: Any, first: bool) -> None:
    """Adds a row to the band of rows that one row of cells covers."""
    if first:
        for j in range(len(row)):
            band_max[j] = row[j]
            band_sum[j] = row[j]
        return
    for j in range(len(row)):
        band_max[j] = band_max[j] if band_max[j] > row[j] else row[j]
        band_sum[j] += row[j]


@_compiled
def _close_band(band_max: Any, band_sum: Any, bounds: Any, cell_max: Any, cell_sum: Any) -> None:
    """Gathers a band into one row of cells."""
    for c in range(len(bounds) - 1):
        top = band_max[bounds[c]]
        mass = band_sum[bounds[c]]
        for j in range(bounds[c] + 1, bounds[c + 1]):
            top = band_max[j] if band_max[j] > top else top
            mass += band_sum[j]
        cell_max[c] = top
        cell_sum[c] = mass


@_compiled
def _mass_of_segment(row: Any, segments: Any, segment: int) -> float:
    inside = 0.0
    for j in range(len(row)):
        inside += row[j] if segments[j] == segment else 0.0
    return inside


@_compiled
def _append_visible(row: Any, threshold: float, column: Any, weight: Any, found: int) -> int:
    """Appends the visible cells of a row without a branch: every cell is written, a visible one is kept."""
    for j in range(len(row)):
        column[found] = j
        weight[found] = row[j]
        found += row[j] >= threshold
    return found


@_compiled
def survey(
    values: Any,
    start: int,
    encoding: int,
    tolerance: float,
    segments: Any,
    row: Any,
    bits: Any,
    causal: Any,
    images: Any,
    verdicts: Any,
    column_sums: Any,
    stripes: Any,
    measures: Any,
) -> None:
    """Checks, renders and measures square maps; writes its results into the arrays given.

    Args:
        values: [maps, L, L] uint16, float32 or float64, C order.
        start: first token kept; the map proper is ``values[:, start:start + length, start:start + length]``, and
            ``length`` that of ``row``.
        encoding: FLOAT, FLOAT16 or BFLOAT16: how ``values`` are read.
        tolerance: how far a row sum may be from 1.
        segments: int64 [length], the segment of each token.
        row: [length] buffer, float64 for float64 values and float32 for all others.
        bits: the same memory as uint32 (unused for float64).
        causal: bool [maps]: where an entry above the diagonal is refused and columns are reached by few rows.
        images: uint8 [maps, 3, size, size], written.
        verdicts: int64 [maps, 2], written: verdict and the first offending row.
        column_sums: float64 [maps, length], zero, added to.
        stripes: bool [maps, length], written.
        measures: float64 [maps, 7], written: visible, stripe, line, stripe-or-line and segment mass as fractions of
            all attention, mean row entropy in nats, offset of the heaviest line (0 where there is none).
    """
    length = len(row)
    cells = min(length, images.shape[2])
    bounds = np.empty(cells + 1, np.int64)  # cell c holds tokens bounds[c] to bounds[c + 1] - 1
    for c in range(cells + 1):
        bounds[c] = c * length // cells
    log_bits = np.empty(length, np.uint32)
    log_mantissa = log_bits.view(np.float32)
    log_exponent = np.empty(length, np.float32)
    band_max, band_sum = np.empty_like(row), np.empty_like(row)
    cell_max, cell_sum = np.empty((cells, cells), row.dtype), np.empty((cells, cells), row.dtype)
    visible = 2.5 / length
    # A row that sums to at most 1 + tolerance has at most that / 2.5 of its cells visible; one more is written over.
    column = np.empty(length * (int(length * (1.0 + tolerance) / 2.5) + 1) + 1, np.int32)
    weight = np.empty(len(column), row.dtype)
    row_start = np.empty(length + 1, np.int64)

    for n in range(len(values)):
        verdicts[n, 0] = OK
        found, entropy, inside, r = 0, 0.0, 0.0, 0
        for i in range(length):
            _load_row(values[n, start + i, start : start + length], row, bits, encoding)
            verdicts[n, 0] = _verdict(row, tolerance)
            if verdicts[n, 0] == OK and causal[n] and _count_nonzero(row[i + 1 :]) > 0:
                verdicts[n, 0] = ABOVE_DIAGONAL
            if verdicts[n, 0] != OK:
                verdicts[n, 1] = i
                break
            for j in range(length):
                column_sums[n, j] += row[j]
            inside += _mass_of_segment(row, segments, segments[i])
            entropy += _row_entropy(row, log_mantissa, log_bits, log_exponent)
            row_start[i] = found
            found = _append_visible(row, visible, column, weight, found)
            _add_to_band(row, band_max, band_sum, i == bounds[r])
            if i + 1 == bounds[r + 1]:
                _close_band(band_max, band_sum, bounds, cell_max[r], cell_sum[r])
                r += 1
        if verdicts[n, 0] != OK:
            continue
        row_start[length] = found
        _paint(images[n], cell_max, cell_sum, bounds, np.float32(visible))
        total, in_stripes, in_lines, in_either, offset = _stripes_and_lines(
            row_start, column, weight, causal[n], stripes[n]
        )
        measures[n, 0] = total / length
        measures[n, 1] = in_stripes / length
        measures[n, 2] = in_lines / length
        measures[n, 3] = in_either / length
        measures[n, 4] = inside / length
        measures[n, 5] = entropy / length
        measures[n, 6] = offset
