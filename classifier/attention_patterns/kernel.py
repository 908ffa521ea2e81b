"""The one pass over a map that checks, renders and measures it, compiled with numba.

Each value is read from memory once, four rows at a time, into a buffer that stays in the first-level cache; everything
else works on that buffer or on small per-map sums. The kernel releases the interpreter lock, so threads run it side by
side. It is compiled once for each of uint16 (float16 and bfloat16 bits), float32 and float64, and cached on disk. All
compiled code stands in this one file: numba's cache sees only changes of the file that holds the function called.

Loops are short and have few arrays each, or they would not vectorise; integers in them are 32 bits wide for the same
reason, which numba keeps only where each is converted. No loop that sums up writes to an array: whether it then runs by
vectors would depend on where the arrays happen to lie, and with that the order of the sum and its last bit.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined] # not declared there
from numba.core import cgutils
from numba.extending import intrinsic, overload

FLOAT, FLOAT16, BFLOAT16 = 0, 1, 2  # encodings of a value; FLOAT: float32 or float64 as it is
OK = -1  # no row of the map is bad
MEASURES = np.dtype(  # of one map: masses as fractions of all attention, mean row entropy in nats, offset in tokens
    [
        ("visible_mass", np.float64),
        ("stripe_mass", np.float64),
        ("line_mass", np.float64),
        ("stripe_or_line_mass", np.float64),
        ("segment_mass", np.float64),
        ("row_entropy", np.float64),
        ("line_offset", np.int64),  # key minus query position of the heaviest line, 0 where there is none
    ]
)
_GROUP = 4  # rows read before their visible cells are added to the sums by column and diagonal
_MARGIN = 16  # empty cells on both sides of a buffered row: a cache line of float32
_AHEAD = 3  # rows by which prefetching leads: the processor does not look ahead past a page by itself
_LINE_BYTES = 64  # of a cache line


_intrinsic: Callable[[Callable[..., Any]], Any] = intrinsic  # a call leaves out the definition's first argument


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


def _reinterpret(source: Any, target: Any, convert: Callable[[Any, Any], Any]) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return convert(builder, arguments[0])

    return target(source), generate


@_intrinsic
def _half_as_float(typing: Any, half: Any) -> Any:
    """Returns the value of float16 bits, uint16, as float32: one instruction, denormals included."""
    return _reinterpret(
        types.uint16, types.float32, lambda build, bits: build.fpext(build.bitcast(bits, ir.HalfType()), ir.FloatType())
    )


@_intrinsic
def _bits_as_float(typing: Any, bits: Any) -> Any:
    """Returns the float32 of bits, uint32."""
    return _reinterpret(types.uint32, types.float32, lambda build, word: build.bitcast(word, ir.FloatType()))


@_intrinsic
def _float_as_bits(typing: Any, value: Any) -> Any:
    """Returns the bits of a float32 as a uint32."""
    return _reinterpret(types.float32, types.uint32, lambda build, word: build.bitcast(word, ir.IntType(32)))


@_intrinsic
def _at(typing: Any, address: Any, like: Any) -> Any:
    """Returns an address as a pointer to values of the type of ``like``."""
    pointer = types.CPointer(like.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, like), generate


@_intrinsic
def _prefetch(typing: Any, values: Any, n: Any, i: Any, j: Any) -> Any:
    """Prefetches the cache line of ``values[n, i, j]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(values)(context, builder, arguments[0])
        place = cgutils.get_item_pointer(context, builder, values, array, arguments[1:], wraparound=False)
        byte, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
        builder.call(prefetch, [builder.bitcast(place, byte), *(ir.Constant(integer, k) for k in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(values, n, i, j), generate


@_compiled
def _prefetch_row(values: Any, n: int, row: int, start: int, width: int) -> None:
    for j in range(start, start + width, _LINE_BYTES // values.itemsize):
        _prefetch(values, n, row, j)


def _stands(stored: Any) -> bool:
    """Returns whether a stored value is not zero."""
    raise TypeError("compiled code only")


@overload(_stands, inline="always")
def _stands_overload(stored: Any) -> Any:
    def bits_stand(stored: Any) -> Any:
        return stored & np.uint16(0x7FFF) != 0  # -0.0 is zero

    def float_stands(stored: Any) -> Any:
        return stored != 0

    return bits_stand if stored == types.uint16 else float_stands


def _read(stored: Any, encoding: int) -> float:
    """Returns a stored value as floating point."""
    raise TypeError("compiled code only")


@overload(_read, inline="always")
def _read_overload(stored: Any, encoding: Any) -> Any:
    def read_bits(stored: Any, encoding: Any) -> Any:
        if encoding == BFLOAT16:
            return _bits_as_float(np.uint32(stored) << np.uint32(16))
        return _half_as_float(stored)

    def read_float(stored: Any, encoding: Any) -> Any:
        return stored

    return read_bits if stored == types.uint16 else read_float


@_compiled
def _read_row(source: Any, encoding: int, row: Any) -> None:
    """Reads stored values into ``row``."""
    if encoding == BFLOAT16:  # one loop per encoding: a branch inside would keep it scalar
        for j in range(len(row)):
            row[j] = _read(source[j], BFLOAT16)
    elif encoding == FLOAT16:
        for j in range(len(row)):
            row[j] = _read(source[j], FLOAT16)
    else:
        for j in range(len(row)):
            row[j] = _read(source[j], FLOAT)


@_compiled
def _sum_up(row: Any) -> Any:
    """Returns the sum of a row, the number of its negative values, and its entropy in nats.

    The entropy is -sum p ln p, with ln by exponent and a polynomial (error under 2e-6), and 0 ln 0 = 0.
    """
    total, negative, entropy = row.dtype.type(0.0), np.int32(0), np.float32(0.0)
    for j in range(len(row)):
        total += row[j]
        negative = np.int32(negative + (row[j] < 0))
        p = np.float32(row[j])
        bits = _float_as_bits(p)
        power = np.float32(np.int32(bits >> np.uint32(23))) - np.float32(127.0)
        x = _bits_as_float(np.uint32((bits & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000))) - np.float32(1.0)
        series = np.float32(-0.01833886) * x + np.float32(0.08556992)
        series = series * x + np.float32(-0.19376093)
        series = series * x + np.float32(0.31764904)
        series = series * x + np.float32(-0.49787507)
        series = series * x + np.float32(0.99990164)
        entropy += p * (x * series + power * np.float32(0.6931471805599453))
    return total, negative, -entropy


@_compiled
def _sum(values: Any) -> Any:
    total = 0.0
    for j in range(len(values)):
        total += values[j]
    return total


@_compiled
def _mass_of_segment(row: Any, segments: Any, segment: int) -> Any:
    inside = row.dtype.type(0.0)
    for j in range(len(row)):
        inside += row[j] if segments[j] == segment else row.dtype.type(0.0)
    return inside


@_compiled
def _add_to_band(row: Any, band_max: Any, band_sum: Any) -> None:
    """Adds a row to the band of rows that one row of cells covers."""
    for j in range(len(row)):
        band_max[j] = band_max[j] if band_max[j] > row[j] else row[j]
        band_sum[j] += row[j]


@_compiled
def _close_band(band_max: Any, band_sum: Any, bounds: Any, cell_max: Any, cell_sum: Any, column_sums: Any) -> None:
    """Gathers a band into one row of cells and into the columns' sums, and empties it."""
    for c in range(len(bounds) - 1):
        top = band_max[bounds[c]]
        mass = band_sum[bounds[c]]
        for j in range(bounds[c] + 1, bounds[c + 1]):
            top = band_max[j] if band_max[j] > top else top
            mass += band_sum[j]
        cell_max[c] = top
        cell_sum[c] = mass
    for j in range(len(band_sum)):
        column_sums[j] += band_sum[j]
    band_max[:] = 0
    band_sum[:] = 0


@_compiled
def _add_visible(rows: Any, threshold: Any, in_column: Any, in_diagonal: Any, mass: Any) -> None:
    """Counts the visible cells of four rows by column and by diagonal, and adds their mass to the diagonals'.

    ``in_diagonal`` and ``mass`` start at the diagonal of the first cell of the last row. Going along a diagonal, the
    column rises by one from row to row, so that the cells of four rows add up before anything is stored.
    """
    a, b, c, d = rows[0, _MARGIN:], rows[1, _MARGIN:], rows[2, _MARGIN:], rows[3, _MARGIN:]
    for j in range(len(in_column)):
        in_column[j] += (
            np.int32(a[j] >= threshold)
            + np.int32(b[j] >= threshold)
            + np.int32(c[j] >= threshold)
            + np.int32(d[j] >= threshold)
        )
    first = _MARGIN - _GROUP + 1
    a, b, c, d = rows[0, first:], rows[1, first + 1 :], rows[2, first + 2 :], rows[3, first + 3 :]
    none = rows.dtype.type(0.0)
    for j in range(len(in_column) + _GROUP - 1):
        p, q, r, s = a[j], b[j], c[j], d[j]
        in_diagonal[j] += (
            np.int32(p >= threshold) + np.int32(q >= threshold) + np.int32(r >= threshold) + np.int32(s >= threshold)
        )
        mass[j] += ((p if p >= threshold else none) + (q if q >= threshold else none)) + (
            (r if r >= threshold else none) + (s if s >= threshold else none)
        )


@_compiled
def _find_stripes(in_column: Any, causal: bool, stripe: Any) -> Any:
    """Marks the columns visible in at least half of the rows that can reach them, and returns their positions."""
    length = len(stripe)
    for j in range(length):
        rows = length - j if causal else length
        # In a causal map the last few columns are reached by so few rows that any cell would make a stripe.
        stripe[j] = in_column[j] > 0 and 2 * in_column[j] >= rows and 4 * rows >= length
    return np.flatnonzero(stripe)


@_compiled
def _find_lines(in_diagonal: Any, stripe: Any, is_line: Any) -> None:
    """Marks the diagonals, index = key - query + length - 1, that make up lines.

    A line is a run of at most max(5, length / 10) neighbouring diagonals, each visible in at least half of its cells
    outside the stripes; diagonals of fewer than a quarter of the tokens are too short to tell from chance.
    ``in_diagonal`` counts the visible cells outside the stripes.
    """
    length = len(stripe)
    widest = max(5, length // 10)
    run, free = 0, 0  # free: cells of the diagonal outside the stripes
    for d in range(2 * length):
        free += not stripe[d] if d < length else -1 + stripe[d - length]
        if d < 2 * length - 1 and 2 * in_diagonal[d] >= free and 4 * free >= length:
            run += 1
            continue
        if 0 < run <= widest:
            is_line[d - run : d] = True
        run = 0


@_compiled
def _stripes_and_lines(
    matrix: Any,
    encoding: int,
    visible: Any,
    causal: bool,
    in_column: Any,
    in_diagonal: Any,
    mass: Any,
    in_stripe: Any,
    is_line: Any,
    stripe: Any,
) -> Any:
    """Marks the stripes; returns the visible mass in stripes, in lines and in either, and the heaviest line's offset.

    Only the stripes' columns are read once more, for the visible cells of each diagonal that stand in a stripe.
    """
    length = len(stripe)
    columns = _find_stripes(in_column, causal, stripe)
    in_stripe[:], in_stripes = 0, 0.0
    for i in range(length if len(columns) else 0):
        for j in columns:
            value = _read(matrix[i, j], encoding)
            if value >= visible:
                in_diagonal[j - i + length - 1] -= 1
                in_stripe[j - i + length - 1] += value
                in_stripes += value
    is_line[:] = False
    _find_lines(in_diagonal, stripe, is_line)
    in_lines, in_either, heaviest = 0.0, in_stripes, length - 1
    for d in range(len(is_line)):
        if not is_line[d]:
            continue
        in_lines += mass[d]
        in_either += mass[d] - in_stripe[d]
        if not is_line[heaviest] or mass[d] > mass[heaviest]:
            heaviest = d
    return in_stripes, in_lines, in_either, heaviest - length + 1


@_compiled
def _shade(cell: Any, visible: Any) -> Any:
    return np.uint8(np.int32(np.float32(255.0) * cell / (cell + visible) + np.float32(0.5)))


@_compiled
def _paint(image: Any, cell_max: Any, cell_sum: Any, bounds: Any, visible: Any) -> None:
    """Fills one image uint8 [3, size, size] from the cells; a map smaller than the image gets flat, larger cells."""
    size, cells = image.shape[1], len(bounds) - 1
    darkest = np.float32(0.0)
    for r in range(cells):
        for c in range(cells):
            darkest = max(darkest, np.float32(cell_max[r, c]))
    extent = np.diff(bounds).astype(np.float32)
    shades = np.empty((3, cells), np.uint8)
    for r in range(cells):
        for c in range(cells):
            shades[0, c] = _shade(np.float32(cell_max[r, c]), visible)
        for c in range(cells):
            shades[1, c] = _shade(np.float32(cell_sum[r, c]) / (extent[r] * extent[c]), visible)
        for c in range(cells):
            shades[2, c] = np.uint8(
                np.int32(np.float32(255.0) * np.float32(cell_max[r, c]) / darkest + np.float32(0.5))
            )
        first, last = -(-r * size // cells), -(-(r + 1) * size // cells)  # pixel y shows cell y * cells // size
        for channel in range(3):
            if cells == size:
                image[channel, r] = shades[channel]
                continue
            for x in range(size):
                image[channel, first, x] = shades[channel, x * cells // size]
            for y in range(first + 1, last):
                image[channel, y] = image[channel, first]


@_compiled
def nothing_above(address: int, stored: Any, side: int, start: int, length: int, empty: Any) -> None:
    """Writes to ``empty``, bool [maps], whether all above the diagonal is zero; stops at the first row with a value.

    The arguments are those of ``survey``.
    """
    values = carray(_at(address, stored), (len(empty), side, side))
    for n in range(len(values)):
        empty[n] = True
        for i in range(start, start + length - 1):
            standing = 0
            for j in range(i + 1, start + length):
                standing += _stands(values[n, i, j])
            if standing > 0:
                empty[n] = False
                break


@_compiled
def _line_aligned(size: int, like: Any) -> Any:
    """Returns zeros that start at a cache line: elsewhere every vector of a line's width would touch two."""
    buffer = np.zeros(size + _LINE_BYTES // like.itemsize, like.dtype)
    first = -(buffer.ctypes.data // like.itemsize) % (_LINE_BYTES // like.itemsize)
    return buffer[first : first + size]


@_compiled
def _keep(measures: Any, visible: Any, elements: Any, inside: Any, entropy: Any, length: int) -> None:
    """Writes the measures of one map, MEASURES, from sums over its rows."""
    in_stripes, in_lines, in_either, offset = elements
    measures.visible_mass = visible / length
    measures.stripe_mass = in_stripes / length
    measures.line_mass = in_lines / length
    measures.stripe_or_line_mass = in_either / length
    measures.segment_mass = inside / length
    measures.row_entropy = entropy / length
    measures.line_offset = offset


@_compiled
def survey(
    address: int,
    stored: Any,
    side: int,
    start: int,
    encoding: int,
    tolerance: float,
    segments: Any,
    causal: Any,
    images: Any,
    bad_rows: Any,
    column_sums: Any,
    stripes: Any,
    measures: Any,
    like: Any,
) -> None:
    """Checks, renders and measures square maps; writes the results into its arguments.

    Args:
        address: Address of values [maps, side, side], C order. It may be any, as of values received in the middle of a
            message; numba would compile the kernel again for arrays that are not aligned.
        stored: An array of the values' type, uint16, float32 or float64; its content is not read.
        side: Number of tokens, padding included.
        start: First token kept; the map proper is ``values[:, start:start + length, start:start + length]``, and
            ``length`` that of ``column_sums``.
        encoding: Encoding of the values: FLOAT, FLOAT16 or BFLOAT16.
        tolerance: Largest distance of a row sum from 1.
        segments: Segment of each token, int32 [length]; empty when not declared.
        causal: Whether nothing stands above the diagonal, which is then not read again, bool [maps].
        images: Images, uint8 [maps, 3, size, size], written.
        bad_rows: First row that is negative, not finite or does not sum to 1, or OK; int64 [maps], written.
        column_sums: Sums of the columns, float64 [maps, length], zero before; added to.
        stripes: Which columns are stripes, bool [maps, length], written.
        measures: Measures, MEASURES [maps], written.
        like: An array of the type of the arithmetic: float64 for float64 values, float32 for all others.
    """
    length = column_sums.shape[1]
    values = carray(_at(address, stored), (len(causal), side, side))
    cells = min(length, images.shape[2])
    bounds = np.arange(cells + 1) * length // cells  # cell c holds tokens bounds[c] to bounds[c + 1] - 1
    stride = (length + 2 * _MARGIN) // _MARGIN * _MARGIN + _MARGIN
    rows = _line_aligned(_GROUP * stride, like).reshape(_GROUP, stride)
    band_max, band_sum = _line_aligned(length, like), _line_aligned(length, like)
    cell_max, cell_sum = np.empty((cells, cells), like.dtype), np.empty((cells, cells), like.dtype)
    # By diagonal, index = key - query + length - 1, after as many unused entries as a group reaches out of the map.
    out = _GROUP - 1
    in_column, in_diagonal = np.empty(length, np.int32), np.empty(2 * length - 1 + 2 * out, np.int32)
    mass, in_stripe = np.empty(len(in_diagonal), like.dtype), np.empty(2 * length - 1, like.dtype)
    is_line = np.empty(2 * length - 1, np.bool_)
    visible = like.dtype.type(2.5 / length)

    for n in range(len(values)):
        bad_rows[n] = OK
        entropy, inside, r = 0.0, 0.0, 0
        band_max[:], band_sum[:], in_column[:], in_diagonal[:], mass[:] = 0, 0, 0, 0, 0
        if causal[n]:
            rows[:] = 0
        for first in range(0, length, _GROUP):
            width = min(first + _GROUP, length) if causal[n] else length
            for k in range(_GROUP):
                i = first + k
                row = rows[k, _MARGIN : _MARGIN + width]
                if i >= length:
                    row[:] = 0
                    continue
                if i + _AHEAD < length:
                    _prefetch_row(values, n, start + i + _AHEAD, start, width)
                _read_row(values[n, start + i, start : start + width], encoding, row)
                total, negative, spread = _sum_up(row)
                if negative > 0 or not abs(total - 1.0) <= tolerance:  # NaN is not
                    bad_rows[n] = i
                    break
                entropy += spread
                if len(segments) > 0:
                    inside += _mass_of_segment(row, segments, segments[i])
                _add_to_band(row, band_max, band_sum)
                if i + 1 == bounds[r + 1]:
                    _close_band(band_max, band_sum, bounds, cell_max[r], cell_sum[r], column_sums[n])
                    r += 1
            if bad_rows[n] != OK:
                break
            diagonal = length - 1 - first
            _add_visible(rows, visible, in_column[:width], in_diagonal[diagonal:], mass[diagonal:])
        if bad_rows[n] != OK:
            continue
        _paint(images[n], cell_max, cell_sum, bounds, np.float32(visible))
        seen = _sum(mass)
        elements = _stripes_and_lines(
            values[n, start : start + length, start : start + length],
            encoding,
            visible,
            causal[n],
            in_column,
            in_diagonal[out:],
            mass[out:],
            in_stripe,
            is_line,
            stripes[n],
        )
        _keep(measures[n], seen, elements, inside, entropy, length)
