"""Attention for the fuzzers, with its declaration, right and wrong.

Everything is drawn by one function, ``pick(low, high)``, which may be of a generator, of a fuzzer's bytes or of
hypothesis; where the bytes are used up it returns ``low``, which is harmless.
"""

from dataclasses import dataclass

import numpy as np

FLOATS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float64": "<f8"}
SMALLEST = {"float64": 5e-324, "float32": 1.4e-45, "bfloat16": 9.2e-41, "float16": 6e-8}  # numbers over 0
SPECIAL = (
    *(np.nan, np.inf, -np.inf, -0.0, 1.0, 2.0, -0.5, 65504.0, 3e38, 1e308, -1e308, 1e-310, -1e-310),
    *(sign * smallest for smallest in SMALLEST.values() for sign in (1, -1)),
)
WORDS = ("a", "[CLS]", "[SEP]", "[PAD]", "<|x|>", "<extra_id_7>", "", "é", "\0", "a" * 300, "margin", "attention_to.")
RAGGED = [[0], [0, 0]]


class Draw:
    """Choices, made by a function ``pick(low, high)`` that returns a whole number."""

    def __init__(self, pick):
        self.pick = pick

    def choose(self, options):
        return options[self.pick(0, len(options) - 1)]

    def once_in(self, times):
        return self.pick(1, times) == times


@dataclass(frozen=True)
class DrawnAttention:
    """Attention and its declaration.

    Attributes:
        values: Maps as they are stored, [..., L, L].
        data_type: Their type, one of FLOATS.
        declared: Other arguments of ``classify``.
    """

    values: np.ndarray
    data_type: str
    declared: dict


def draw_attention(draw):
    """Draws attention, some of it padded, some causal, some spoilt."""
    length = draw.pick(*draw.choose([(1, 12), (1, 3), (46, 50), (1, 70)]))
    shapes = [(), (2,), (1, 2), (1,), (1, 1)] if length > 12 else [(), (2,), (1, 2), (2, 2), (1,), (3, 1)]
    leading = (37,) if length < 6 and draw.once_in(32) else draw.choose(shapes)  # more than are looked at together
    random = np.random.default_rng(draw.pick(0, 65535))
    logits = random.normal(0, draw.choose([2.0, 0.0, 1.0, 30.0]), (int(np.prod(leading)), length, length))
    causal, kept = draw.once_in(3), np.ones(length, np.bool_)
    if draw.once_in(3):
        kept = np.arange(length) < draw.pick(1, length) if draw.once_in(2) else random.random(length) < 0.8
        kept[draw.pick(0, length - 1)] = True
    seen = np.broadcast_to(kept, (length, length)) & (np.tri(length, dtype=bool) if causal else np.True_)
    weights = np.where(seen, np.exp(logits - logits.max(-1, keepdims=True)), 0) + 1e-9 * np.eye(length)
    maps = weights / weights.sum(-1, keepdims=True)
    draw.choose(_SPOILERS)(draw, maps, random)
    if not kept.all() and draw.once_in(2):
        maps[:, ~kept], maps[:, :, ~kept] = draw.choose(SPECIAL), draw.choose(SPECIAL)
    data_type = draw.choose(list(FLOATS))
    values = store(maps, data_type)
    if draw.once_in(24):
        values.view("u1")[..., draw.pick(0, length - 1), :] = random.integers(0, 256, values.view("u1").shape[-1])
    return DrawnAttention(values.reshape(*leading, length, length), data_type, _draw_declaration(draw, length, kept))


def store(maps, data_type):
    """Returns float64 maps as they are stored in ``data_type``; bfloat16 is cut."""
    with np.errstate(all="ignore"):
        if data_type == "bfloat16":
            return (np.ascontiguousarray(maps, "<f4").view("<u4") >> 16).astype("<u2")
        return np.ascontiguousarray(maps, FLOATS[data_type])


def _spoil_weight(draw, maps, random):
    maps[_choose_place(draw, maps)] = draw.choose(SPECIAL)


def _spoil_row(draw, maps, random):
    maps[_choose_place(draw, maps)[:2]] = draw.choose(SPECIAL)


def _spoil_all(draw, maps, random):
    maps[:] = draw.choose(SPECIAL)


def _negate_zeros(draw, maps, random):
    maps[maps == 0] = -0.0


def _shift_weight(draw, maps, random):
    """Keeps the sums of the rows at 1, with a weight that may be negative."""
    n, i, j = _choose_place(draw, maps)
    shift = draw.choose([1e-30, 1e-7, 1e-3, 0.5, 7.0])
    maps[n, i, j] -= shift
    maps[n, i, j - 1] += shift


def _put_scores(draw, maps, random):
    with np.errstate(divide="ignore"):
        maps[:] = np.log(maps) if draw.once_in(2) else random.normal(size=maps.shape)


def _transpose(draw, maps, random):
    maps[:] = maps.swapaxes(1, 2).copy()


def _scale(draw, maps, random):
    """Scales some weights to the edge of each tolerance and beyond it."""
    maps[_choose_place(draw, maps)[: draw.pick(0, 2)]] *= 1 + draw.choose([-1, 1]) * draw.choose(
        [0.0099, 0.0101, 0.0199, 0.0201, 1]
    )
    maps *= draw.choose([1, 1, 1.03, 0.95])


def _add_above(draw, maps, random):
    """Adds a single weight above the diagonal."""
    maps[_choose_place(draw, maps)[0], 0, -1] += draw.choose([1e-3, 1e-30, 6e-8, -0.0])


def _round_off(draw, maps, random):
    """Rounds weights as JSON and images do, some rows of them beyond what that explains."""
    steps = draw.choose([100, 255, 1000, 10_000])
    maps[:] = np.rint(maps * steps) / steps
    maps[_choose_place(draw, maps)[:2]] *= draw.choose([1, 1, 0.9, 0])


def _leave(draw, maps, random):
    pass


_SPOILERS = (_leave,) * 10 + (
    *(_spoil_weight, _spoil_row, _spoil_all, _negate_zeros, _negate_zeros),
    *(_shift_weight, _put_scores, _transpose, _scale, _scale, _add_above, _round_off, _round_off),
)


def _choose_place(draw, maps):
    return tuple(draw.pick(0, size - 1) for size in maps.shape)


def _draw_declaration(draw, length, kept):
    """Draws arguments of ``classify`` that fit, at times one that does not."""
    every, count, declared = np.arange(length), int(kept.sum()), {}
    if not kept.all():
        prefix = kept[:count].all() and draw.once_in(2)
        declared = {"valid_length": count} if prefix else {"mask": draw.choose([list, np.asarray])(kept.astype(int))}
    sizes = [length, count]
    if draw.once_in(3):
        declared["tokens"] = [draw.choose(WORDS[:9]) for _ in range(draw.choose(sizes))]
    if draw.once_in(3):
        names = dict.fromkeys(draw.choose(WORDS[:1] + WORDS[6:]) for _ in range(draw.pick(1, 3)))
        declared["token_groups"] = {
            name: [int(draw.choose(every[kept])) for _ in range(draw.pick(1, 4))] for name in names
        }
    if draw.once_in(3):
        half = draw.pick(0, count - 1)
        ids = [draw.choose([0, 1, 5]) for _ in range(draw.choose(sizes))]
        declared["segments"] = draw.choose([ids, [count], [half, count - half] if half else ids, [length]])
    if draw.once_in(3):
        declared["causal"] = draw.choose([True, False])
    if draw.once_in(6):
        name = draw.choose(list(_WRONG))
        declared[name] = draw.choose(_WRONG[name](length))
    return declared


_WRONG = {
    "valid_length": lambda size: [size, size + 1, 0, -1, 2**27, 2**31, 2**32 - 1, 2**64, True],
    "mask": lambda size: [[1] * size, [], [0] * size, [1] * (size + 1), [2] * size, [[1] * size], "1" * size, RAGGED],
    "tokens": lambda size: [["a"] * (size + 1), [], [1] * size, "a" * size, [b"a"] * size, ["\ud800"] * size],
    "segments": lambda size: [
        *([size + 1], [], [0], [-1] * size, [[0] * size], [0.5] * size, [2**64] * size, RAGGED, [None] * size),
        *([2**63 - 1, 2**63 - 1, size + 2], [2**27], [2**32 - 1]),
    ],
    "token_groups": lambda size: [
        *({"a": positions} for positions in ([], [size], [-1], [2**63], [2**70], ["0"], [0.0], RAGGED, [size - 1])),
        {"[CLS]": [0]},
    ],
}


def library_arguments(draw, drawn):
    """Returns the first arguments of ``classify``: the array as it is, in another guise, or another thing."""
    values, given = drawn.values, {"data_type": drawn.data_type} if drawn.data_type == "bfloat16" else {}
    if draw.once_in(6):
        given["renormalise"] = True
    if not draw.once_in(4):
        return values, given
    if draw.once_in(3):
        return values, given | {"data_type": draw.choose([None, "bfloat16", "float32", "float16", "int8", ""])}
    with np.errstate(all="ignore"):
        return draw.choose(_guises(draw, values)), given


def _guises(draw, values):
    as_float = values.astype(float)
    return [
        *(values[..., ::-1], values.swapaxes(-1, -2), np.asfortranarray(values), values.tolist(), values[None]),
        *(values[..., :-1], values[..., :-1, :-1], values[:0], values[0, 0], values[..., None], values.astype(">f4")),
        *(as_float.astype(int), as_float.astype(complex), as_float.astype(bool), as_float.astype(np.longdouble)),
        *(np.broadcast_to(values, (2, *values.shape)), values[(None,) * draw.pick(0, 60)], "9", None, RAGGED),
    ]
