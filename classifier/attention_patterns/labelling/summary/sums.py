"""Sums over rows that come part by part; shares, means and 95 % intervals made from them."""

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
    """The share of each pattern, in the order of ``Pattern``, with 95 % intervals.

    Attributes:
        share: Shares, [..., 5], 0 to 1.
        low: Lower ends of the intervals, [..., 5]; NaN where there are too few inputs for one.
        high: Upper ends of the intervals, [..., 5].
    """

    share: Floats
    low: Floats
    high: Floats


def wilson(counts: NDArray[np.int64]) -> Shares:
    """Returns the shares of counts [..., 5] with Wilson's interval."""
    n = counts.sum(axis=-1, keepdims=True).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / n
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Shares(p, np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1))


def entropy(counts: NDArray[np.int64] | Floats) -> Floats:
    """Returns the entropy of counts or shares [..., 5], bits, 0 to log2(5); NaN where all are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / counts.sum(axis=-1, keepdims=True)
        bits: Floats = np.where(p > 0, p * np.log2(1 / p), 0).sum(axis=-1)
    return np.where(counts.sum(axis=-1) > 0, bits, np.nan)


def count_cells(index: Sequence[NDArray[Any]], shape: tuple[int, ...], weights: Floats | None = None) -> Floats:
    """Counts how often each cell of ``shape`` is among ``index``, or adds up the cell's weights."""
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
        self.values = _pad(self.values, shape) + _pad(values, shape)

    def of(self, *shape: int) -> Floats:
        """Returns the sum, with zeros up to ``shape``."""
        return np.zeros(shape) if self.values is None else _pad(self.values, np.array(shape))


def _pad(values: Floats, shape: NDArray[Any]) -> Floats:
    return np.pad(values, [(0, max(0, int(new) - old)) for new, old in zip(shape, values.shape, strict=True)])


class Mean:
    """The mean of a measure in each cell, over the rows that have the measure."""

    def __init__(self) -> None:
        self.sum, self.count = Sum(), Sum()

    def add(self, cells: Sequence[NDArray[Any]], shape: tuple[int, ...], values: pa.ChunkedArray) -> None:
        """Adds values by their cell of ``shape``; nulls do not count."""
        given = np.asarray(values.is_valid())
        present = [axis[given] for axis in cells]
        self.sum.add(count_cells(present, shape, values.drop_null().to_numpy().astype(np.float64)))
        self.count.add(count_cells(present, shape))

    def of(self, *shape: int) -> Floats:
        """Returns the means; NaN where there was no value."""
        with np.errstate(invalid="ignore"):
            return self.sum.of(*shape) / self.count.of(*shape)


class ShareMean:
    """The mean over inputs of each input's share of the patterns, and its interval."""

    def __init__(self) -> None:
        self.sum, self.squares, self.inputs = Sum(), Sum(), Sum()

    def add(self, counts: Floats) -> None:
        """Adds the counts of the maps of each input by pattern, [inputs, ..., 5]."""
        maps = counts.sum(axis=-1, keepdims=True)
        shares = counts / np.maximum(maps, 1)
        self.sum.add(shares.sum(axis=0))
        self.squares.add((shares**2).sum(axis=0))
        self.inputs.add((maps > 0).sum(axis=0).astype(np.float64))

    def shares(self, *shape: int) -> Shares:
        """Returns the means, [*shape, 5], with their normal interval; NaN for that of fewer than two inputs."""
        n = self.inputs.of(*shape, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.sum.of(*shape, len(PATTERNS)) / n
            variance = (self.squares.of(*shape, len(PATTERNS)) - n * mean**2) / (n - 1)
            half = np.where(n > 1, _Z * np.sqrt(np.maximum(variance, 0) / n), np.nan)
        return Shares(mean, np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1))
