"""Synthetic attention maps of known composition, for pre-training only: never hand-labelled, never in the test split.

A map is a weighted sum of stripes, lines, squares, scattered points and ground, each row normalised to 1. Because every
component is known cell by cell, the annotation guide's rule can be applied to the true composition of the visible
cells; maps near one of its thresholds are drawn again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attention_patterns.patterns import PATTERNS, Pattern

Matrix = NDArray[np.float64]
SHORTEST, LONGEST = 8, 160  # tokens
VISIBLE = 2.5  # times the even weight 1 / L


@dataclass(frozen=True)
class SyntheticMap:
    """A map float32 [L, L], its class by the guide's rule, and its segment lengths."""

    attention: NDArray[np.float32]
    pattern: Pattern
    segments: tuple[int, ...]


# Mean mass of (stripes, lines, squares, scatter, ground) for each recipe, before every row varies it.
_RECIPES = (
    (0.85, 0.00, 0.00, 0.05, 0.10),
    (0.55, 0.03, 0.00, 0.07, 0.35),
    (0.30, 0.00, 0.00, 0.02, 0.68),
    (0.00, 0.85, 0.00, 0.05, 0.10),
    (0.03, 0.50, 0.00, 0.07, 0.40),
    (0.45, 0.35, 0.00, 0.05, 0.15),
    (0.60, 0.25, 0.00, 0.03, 0.12),
    (0.25, 0.25, 0.00, 0.02, 0.48),
    (0.05, 0.00, 0.75, 0.05, 0.15),
    (0.15, 0.00, 0.55, 0.02, 0.28),
    (0.00, 0.10, 0.80, 0.00, 0.10),
    (0.05, 0.03, 0.00, 0.50, 0.42),
    (0.30, 0.00, 0.00, 0.40, 0.30),
    (0.15, 0.20, 0.00, 0.40, 0.25),
    (0.00, 0.00, 0.00, 0.15, 0.85),
    (0.35, 0.05, 0.00, 0.30, 0.30),
)


def draw(rng: np.random.Generator) -> SyntheticMap:
    """Draws one map; recipes are equally likely, classes therefore nearly so."""
    while True:
        length = int(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST + 1))))
        causal = bool(rng.random() < 0.3)
        recipe = _RECIPES[rng.integers(len(_RECIPES))]
        pair = recipe[2] > 0 or rng.random() < 0.4
        cut = int(length * rng.uniform(0.25, 0.75)) if pair else length
        segments = (cut, length - cut) if 0 < cut < length else (length,)
        parts = _components(rng, length, segments, causal=causal)
        masses = rng.dirichlet(np.maximum(np.array(recipe), 1e-3) * rng.uniform(8, 40))
        weights = masses * np.exp(rng.normal(0, rng.uniform(0, 0.6), (length, 5)))  # rows differ
        mixed = [part * weights[:, k : k + 1] for k, part in enumerate(parts)]
        total = np.sum(mixed, axis=0).sum(axis=1, keepdims=True)
        shares = [part / total for part in mixed]
        pattern = _rule(shares, segments)
        if pattern is not None:
            return SyntheticMap(np.sum(shares, axis=0).astype(np.float32), pattern, segments)


def _components(rng: np.random.Generator, length: int, segments: tuple[int, ...], *, causal: bool) -> list[Matrix]:
    """Stripes, lines, squares, scatter and ground [L, L], non-negative; rows of each sum to 1 or, unreachable, 0."""
    reach = np.tri(length) if causal else np.ones((length, length))
    parts = [
        _stripes(rng, length, segments),
        _lines(rng, length),
        _squares(rng, length, segments),
        _scatter(rng, length),
        np.exp(rng.normal(0, rng.uniform(0, 0.35), (length, length))),
    ]
    reached = [part * reach for part in parts]
    return [part / np.maximum(part.sum(axis=1, keepdims=True), 1e-12) for part in reached]


def _stripes(rng: np.random.Generator, length: int, segments: tuple[int, ...]) -> Matrix:
    count = int(rng.integers(1, max(2, min(7, length // 5)) + 1))
    columns = rng.choice(length, count, replace=False)
    if rng.random() < 0.7:
        columns[0] = 0  # the first token is the usual sink
    part = np.zeros((length, length))
    part[:, columns] = np.exp(rng.normal(0, 0.7, count))
    part *= np.exp(rng.normal(0, rng.uniform(0, 0.8), (length, length)))
    part *= rng.random((length, length)) > rng.uniform(0, 0.3)  # broken in some rows, in fewer than half
    if len(segments) > 1 and rng.random() < 0.2:  # each segment attends to a column of its own
        part[:] = 0.02 * part
        ends = np.cumsum(segments) - 1
        part[: segments[0], ends[0]] = part[segments[0] :, ends[1]] = 1.0
    return part


def _lines(rng: np.random.Generator, length: int) -> Matrix:
    part = np.zeros((length, length))
    rows = np.arange(length)
    for _ in range(int(rng.integers(1, 3))):
        offset = int(rng.integers(-3, 4)) if rng.random() < 0.9 else int(rng.integers(-length // 3, length // 3 + 1))
        wander = np.cumsum(rng.random(length) < rng.choice([0.0, 0.0, 0.1])) % 2
        width = rng.uniform(0.2, max(0.9, min(2.0, length / 40)))
        distance = np.abs(rows[None, :] - rows[:, None] - offset - wander[:, None])
        part += np.exp(-0.5 * (distance / width) ** 2) * (distance <= max(2, length // 20)) * rng.uniform(0.3, 1)
    return np.asarray(part * np.exp(rng.normal(0, rng.uniform(0, 0.7), (length, length))))


def _squares(rng: np.random.Generator, length: int, segments: tuple[int, ...]) -> Matrix:
    ids = np.repeat(np.arange(len(segments)), segments)
    texture = np.exp(rng.normal(0, rng.uniform(0.1, 1.1), (length, length)))
    columns = np.exp(rng.normal(0, rng.uniform(0, 0.4), (1, length)))
    return np.asarray((ids[:, None] == ids[None, :]) * texture * columns)


def _scatter(rng: np.random.Generator, length: int) -> Matrix:
    kind = rng.integers(4)
    noise = np.exp(rng.normal(0, rng.uniform(1.2, 2.2), (length, length)))
    if kind == 0:  # points anywhere
        return noise
    if kind == 1:  # broken columns: visible in fewer than half of the rows
        columns = np.exp(rng.normal(0, 1.2, (1, length)))
        return noise * columns * (rng.random((length, length)) < 0.3)
    if kind == 2:  # a band too wide for a line
        distance = np.abs(np.arange(length)[None, :] - np.arange(length)[:, None] + rng.integers(-2, 3))
        return np.asarray(noise * np.exp(-0.5 * (distance / (length * rng.uniform(0.15, 0.4))) ** 2))
    rank = int(rng.integers(2, 5))  # soft patches
    return np.asarray(np.exp(2 * rng.normal(0, 1, (length, rank)) @ rng.normal(0, 1, (rank, length)) / rank))


def _rule(shares: list[Matrix], segments: tuple[int, ...]) -> Pattern | None:
    """The guide's decision on the true composition of the visible cells; None near a threshold."""
    length = len(shares[0])
    total = np.sum(shares, axis=0)
    visible = total >= VISIBLE / length
    if total.max() < 0.8 * VISIBLE / length and len(segments) == 1:
        return Pattern.HETEROGENEOUS
    stripes, lines, squares, scatter, _ = (float(part[visible].sum()) for part in shares)
    seen = stripes + lines + squares + scatter
    covered = (stripes + lines) / max(seen, 1e-9)
    standing_out = float(shares[2].sum()) / max(1e-9, float(sum(part.sum() for part in shares[:4])))
    if covered > 0.80 and seen > 0.03 * length:
        return _of_stripes_and_lines(stripes / seen, lines / seen)
    if covered > 0.68:
        return None
    if len(segments) > 1 and standing_out > 0.6:
        return Pattern.BLOCK
    return Pattern.HETEROGENEOUS if standing_out < 0.3 else None


def _of_stripes_and_lines(stripes: float, lines: float) -> Pattern | None:
    """The class of a map made of them, by their shares of the visible attention; None near the guide's fifth."""
    if lines < 0.14:
        return Pattern.VERTICAL
    if stripes < 0.14:
        return Pattern.DIAGONAL
    return Pattern.VERTICAL_DIAGONAL if min(stripes, lines) > 0.25 else None


def draw_many(count: int, seed: int) -> list[SyntheticMap]:
    """``count`` maps, as many of each class as of the others."""
    rng = np.random.default_rng(seed)
    wanted = dict.fromkeys(PATTERNS, -(-count // len(PATTERNS)))
    drawn: list[SyntheticMap] = []
    while any(wanted.values()):
        one = draw(rng)
        if wanted[one.pattern]:
            wanted[one.pattern] -= 1
            drawn.append(one)
    return drawn[:count]
