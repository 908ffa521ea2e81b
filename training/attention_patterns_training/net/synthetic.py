"""Synthetic attention maps of known composition, for pre-training only: in no split, and never labelled by hand.

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
    """A synthetic map.

    Attributes:
        attention: float32 [L, L].
        pattern: Class by the guide's rule.
        segments: Lengths, L in all.
    """

    attention: NDArray[np.float32]
    pattern: Pattern
    segments: tuple[int, ...]


# Mean masses of stripes, lines, squares, scatter and ground, before each row varies them.
_COMPOSITIONS = (
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
    """Draws one map; compositions are equally likely, classes therefore nearly so."""
    while True:
        length = int(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST + 1))))
        causal = bool(rng.random() < 0.3)
        composition = _COMPOSITIONS[rng.integers(len(_COMPOSITIONS))]
        pair = composition[2] > 0 or rng.random() < 0.4
        cut = int(length * rng.uniform(0.25, 0.75)) if pair else length
        segments = (cut, length - cut) if 0 < cut < length else (length,)
        components = _draw_components(rng, length, segments, causal=causal)
        masses = rng.dirichlet(np.maximum(np.array(composition), 1e-3) * rng.uniform(8, 40))
        weights = masses * np.exp(rng.normal(0, rng.uniform(0, 0.6), (length, 5)))  # rows differ
        weighted = [component * weights[:, k : k + 1] for k, component in enumerate(components)]
        total = np.sum(weighted, axis=0).sum(axis=1, keepdims=True)
        shares = [component / total for component in weighted]
        pattern = _decide(shares, segments)
        if pattern is not None:
            return SyntheticMap(np.sum(shares, axis=0).astype(np.float32), pattern, segments)


def _draw_components(rng: np.random.Generator, length: int, segments: tuple[int, ...], *, causal: bool) -> list[Matrix]:
    """Draws stripes, lines, squares, scatter and ground [L, L] >= 0; each row sums to 1 or, out of reach, to 0."""
    reach = np.tri(length) if causal else np.ones((length, length))
    components = [
        _draw_stripes(rng, length, segments),
        _draw_lines(rng, length),
        _draw_squares(rng, length, segments),
        _draw_scatter(rng, length),
        np.exp(rng.normal(0, rng.uniform(0, 0.35), (length, length))),
    ]
    reached = [component * reach for component in components]
    return [component / np.maximum(component.sum(axis=1, keepdims=True), 1e-12) for component in reached]


def _draw_stripes(rng: np.random.Generator, length: int, segments: tuple[int, ...]) -> Matrix:
    count = int(rng.integers(1, max(2, min(7, length // 5)) + 1))
    columns = rng.choice(length, count, replace=False)
    if rng.random() < 0.7:
        columns[0] = 0  # the first token is the usual sink
    component = np.zeros((length, length))
    component[:, columns] = np.exp(rng.normal(0, 0.7, count))
    component *= np.exp(rng.normal(0, rng.uniform(0, 0.8), (length, length)))
    component *= rng.random((length, length)) > rng.uniform(0, 0.3)  # broken in some rows, in fewer than half
    if len(segments) > 1 and rng.random() < 0.2:  # each segment attends to a column of its own
        component[:] = 0.02 * component
        ends = np.cumsum(segments) - 1
        component[: segments[0], ends[0]] = component[segments[0] :, ends[1]] = 1.0
    return component


def _draw_lines(rng: np.random.Generator, length: int) -> Matrix:
    component = np.zeros((length, length))
    rows = np.arange(length)
    for _ in range(int(rng.integers(1, 3))):
        offset = int(rng.integers(-3, 4)) if rng.random() < 0.9 else int(rng.integers(-length // 3, length // 3 + 1))
        wander = np.cumsum(rng.random(length) < rng.choice([0.0, 0.0, 0.1])) % 2
        width = rng.uniform(0.2, max(0.9, min(2.0, length / 40)))
        distance = np.abs(rows[None, :] - rows[:, None] - offset - wander[:, None])
        component += np.exp(-0.5 * (distance / width) ** 2) * (distance <= max(2, length // 20)) * rng.uniform(0.3, 1)
    return np.asarray(component * np.exp(rng.normal(0, rng.uniform(0, 0.7), (length, length))))


def _draw_squares(rng: np.random.Generator, length: int, segments: tuple[int, ...]) -> Matrix:
    ids = np.repeat(np.arange(len(segments)), segments)
    texture = np.exp(rng.normal(0, rng.uniform(0.1, 1.1), (length, length)))
    columns = np.exp(rng.normal(0, rng.uniform(0, 0.4), (1, length)))
    return np.asarray((ids[:, None] == ids[None, :]) * texture * columns)


def _draw_scatter(rng: np.random.Generator, length: int) -> Matrix:
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


def _decide(shares: list[Matrix], segments: tuple[int, ...]) -> Pattern | None:
    """Applies the guide to the true composition of the visible cells; returns None near a threshold."""
    length = len(shares[0])
    total = np.sum(shares, axis=0)
    visible = total >= VISIBLE / length
    if total.max() < 0.8 * VISIBLE / length and len(segments) == 1:
        return Pattern.HETEROGENEOUS
    stripes, lines, squares, scatter, _ = (float(component[visible].sum()) for component in shares)
    seen = stripes + lines + squares + scatter
    covered = (stripes + lines) / max(seen, 1e-9)
    standing_out = float(shares[2].sum()) / max(1e-9, float(sum(component.sum() for component in shares[:4])))
    if covered > 0.80 and seen > 0.03 * length:
        return _decide_between_stripes_and_lines(stripes / seen, lines / seen)
    if covered > 0.68:
        return None
    if len(segments) > 1 and standing_out > 0.6:
        return Pattern.BLOCK
    return Pattern.HETEROGENEOUS if standing_out < 0.3 else None


def _decide_between_stripes_and_lines(stripes: float, lines: float) -> Pattern | None:
    """Returns the class by the shares of stripes and lines in the visible attention; None near the guide's fifth."""
    if lines < 0.14:
        return Pattern.VERTICAL
    if stripes < 0.14:
        return Pattern.DIAGONAL
    return Pattern.VERTICAL_DIAGONAL if min(stripes, lines) > 0.25 else None


def draw_many(count: int, seed: int) -> list[SyntheticMap]:
    """Draws ``count`` maps, as many of each class as of the others."""
    rng = np.random.default_rng(seed)
    missing = dict.fromkeys(PATTERNS, -(-count // len(PATTERNS)))
    drawn: list[SyntheticMap] = []
    while any(missing.values()):
        synthetic = draw(rng)
        if missing[synthetic.pattern]:
            missing[synthetic.pattern] -= 1
            drawn.append(synthetic)
    return drawn[:count]
