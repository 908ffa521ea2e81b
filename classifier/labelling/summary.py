"""The verdict on each head over many inputs, and the shares of each layer and task, summed up from a run's labels.

The inputs are the sample. The share of a pattern in one head is a proportion of inputs, with Wilson's interval (Wilson
1927). The share in a layer or in all heads is the mean over inputs of each input's share, with the normal interval of
that mean, since the heads of one input are not independent of each other. All intervals are of 95 %.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

STABLE = 0.75  # a head is stable when Wilson's lower bound of its commonest pattern's share is at least this
_Z = 1.959964  # standard deviations either side of a normal distribution's mean that hold 95 %
MEASURES = ("visible_mass", "stripe_mass", "line_mass", "stripe_or_line_mass", "segment_mass", "row_entropy")
GROUP_MEASURES = ("share", "max_token_share", "baseline")
_COLUMNS = ["task", "input_id", "part", "model", "revision", "layer", "head", "pattern", "uncertain", "length"]

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


@dataclass(frozen=True)
class StackSummary:
    """What was found in one stack of layers: of one task, model and part.

    Arrays are [layers, heads], in the order of ``layers`` and ``heads``.

    Attributes:
        task, model, revision, part: as in the tables.
        inputs: how many inputs there were.
        mean_length: tokens, mean over inputs.
        layers: the indices of the layers in the model.
        heads: likewise of the heads.
        counts: inputs by the pattern found, int64 [layers, heads, 5].
        uncertain: share of the inputs whose answer is uncertain.
        of_heads: shares of each head, [layers, heads, 5].
        of_layers: shares of each layer, [layers, 5].
        of_all: shares of all heads, [5].
        entropy: of the head's pattern over the inputs, bits, 0 to log2(5).
        stable: whether the head shows one pattern in at least three quarters of inputs, by its interval's lower end.
        measures: name -> mean over inputs; NaN where no input has it.
        attention_to: token group -> name of the measure -> mean over the inputs that hold the group.
    """

    task: str
    model: str | None
    revision: str | None
    part: str | None
    inputs: int
    mean_length: float
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    counts: NDArray[np.int64]
    uncertain: Floats
    of_heads: Shares
    of_layers: Shares
    of_all: Shares
    entropy: Floats
    stable: NDArray[np.bool_]
    measures: Mapping[str, Floats]
    attention_to: Mapping[str, Mapping[str, Floats]]


def wilson(counts: NDArray[np.int64]) -> Shares:
    """Shares of counts [..., 5] with Wilson's interval."""
    n = counts.sum(axis=-1, keepdims=True).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / n
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Shares(p, np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1))


def entropy(counts: NDArray[np.int64]) -> Floats:
    """Of counts [..., 5], bits."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / counts.sum(axis=-1, keepdims=True)
        return -np.where(p > 0, p * np.log2(p), 0).sum(axis=-1)


def summarise(label_files: Sequence[Path]) -> list[StackSummary]:
    """Sums up the parts of ``labels``, one after the other, so that memory does not grow with their number."""
    stacks: dict[tuple[str | None, ...], _Stack] = {}
    for file in label_files:
        table = pq.read_table(file, columns=[*_COLUMNS, *MEASURES, "attention_to"])
        for key, rows in _by_stack(table):
            stacks.setdefault(key, _Stack()).add(rows)
    return [stack.summary(*key) for key, stack in stacks.items()]


def _by_stack(table: pa.Table) -> Iterator[tuple[tuple[str | None, ...], pa.Table]]:
    names = ["task", "model", "revision", "part"]
    plain = pa.table({name: table[name].cast(pa.string()) for name in names})
    for row in plain.group_by(names, use_threads=False).aggregate([]).to_pylist():
        chosen = np.ones(table.num_rows, np.bool_)
        for name in names:
            column = plain[name]
            same = column.is_null() if row[name] is None else pa.compute.equal(column, row[name]).fill_null(False)
            chosen &= same.to_numpy()
        yield tuple(row[name] for name in names), table.filter(pa.array(chosen))


class _Sums:
    """A sum for each cell of a grid that grows as larger layers and heads are seen."""

    def __init__(self, *inner: int) -> None:
        self.values = np.zeros((0, 0, *inner))

    def add(self, layer: NDArray[np.int64], head: NDArray[np.int64], values: Floats) -> None:
        wanted = int(layer.max()) + 1, int(head.max()) + 1
        grown = [(0, max(0, want - has)) for want, has in zip(wanted, self.values.shape[:2], strict=True)]
        self.values = np.pad(self.values, [*grown, *[(0, 0)] * (self.values.ndim - 2)])
        np.add.at(self.values, (layer, head), values)
