"""Sums over rows that come part by part, and the shares, intervals and means they make. All intervals are of 95 %."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from attention_patterns.patterns import PATTERNS

_Z = 1.959964  # standard deviations either side of a normal distribution's mean that hold 95 %

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shares:
    """How often each pattern occurs, in the order of ``Pattern``, with 95 % intervals.

    Attributes:
        share: [..., 5], 0 to 1.
        low: lower ends, [..., 5]; NaN where there are too few inputs to tell.
        high: upper ends.
    """

    share: Floats
    low: Floats
    high: Floats


def wilson(counts: NDArray[np.int64]) -> Shares:
    """Shares of counts [..., 5] with Wilson's interval."""
    n = counts.sum(axis=-1, keepdims=True).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / n
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Shares(p, np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1))


def entropy(counts: NDArray[np.int64] | Floats) -> Floats:
    """Of counts or shares [..., 5], bits; NaN where all are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / counts.sum(axis=-1, keepdims=True)
        bits: Floats = np.where(p > 0, p * np.log2(1 / p), 0).sum(axis=-1)
    return np.where(counts.sum(axis=-1) > 0, bits, np.nan)


def counted(index: Sequence[NDArray[Any]], shape: tuple[int, ...], weights: Floats | None = None) -> Floats:
    """How often each cell of ``shape`` is among ``index``, or the sum of its weights."""
    flat = np.ravel_multi_index(tuple(index), shape)
    return np.bincount(flat, weights, minlength=prod(shape)).reshape(shape).astype(np.float64)


class Sum:
    """A sum of arrays whose first axes grow as larger layers and heads are seen."""

    def __init__(self) -> None:
        self.values: Floats | None = None

    def add(self, values: Floats) -> None:
        """Adds an array of any first axes."""
        if self.values is None:
            self.values = values
            return
        shape = np.maximum(self.values.shape, values.shape)
        self.values = _padded(self.values, shape) + _padded(values, shape)

    def of(self, *shape: int) -> Floats:
        """The sum, with zeros up to ``shape``."""
        return np.zeros(shape) if self.values is None else _padded(self.values, np.array(shape))


def _padded(values: Floats, shape: NDArray[Any]) -> Floats:
    return np.pad(values, [(0, max(0, int(want) - has)) for want, has in zip(shape, values.shape, strict=True)])


class Mean:
    """The mean of a measure in each cell, over the rows that have it."""

    def __init__(self) -> None:
        self.sum, self.count = Sum(), Sum()

    def add(self, cells: Sequence[NDArray[Any]], shape: tuple[int, ...], values: pa.ChunkedArray) -> None:
        """Adds values by their cell of ``shape``; null is none."""
        given = np.asarray(values.is_valid())
        present = [axis[given] for axis in cells]
        self.sum.add(counted(present, shape, values.drop_null().to_numpy().astype(np.float64)))
        self.count.add(counted(present, shape))

    def of(self, *shape: int) -> Floats:
        """The means; NaN where there was none."""
        with np.errstate(invalid="ignore"):
            return self.sum.of(*shape) / self.count.of(*shape)


class ShareMean:
    """The mean over inputs of each input's share of the patterns, and its interval."""

    def __init__(self) -> None:
        self.sum, self.squares, self.inputs = Sum(), Sum(), Sum()

    def add(self, counts: Floats) -> None:
        """Counts of the maps of each input by pattern, [inputs, ..., 5]."""
        maps = counts.sum(axis=-1, keepdims=True)
        shares = counts / np.maximum(maps, 1)
        self.sum.add(shares.sum(axis=0))
        self.squares.add((shares**2).sum(axis=0))
        self.inputs.add((maps > 0).sum(axis=0).astype(np.float64))

    def shares(self, *shape: int) -> Shares:
        """The means, [*shape, 5]; no interval of fewer than two inputs."""
        n = self.inputs.of(*shape, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.sum.of(*shape, len(PATTERNS)) / n
            variance = (self.squares.of(*shape, len(PATTERNS)) - n * mean**2) / (n - 1)
            half = np.where(n > 1, _Z * np.sqrt(np.maximum(variance, 0) / n), np.nan)
        return Shares(mean, np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1))
