"""The verdict on each head over many inputs, and the shares of each layer and task, summed up from a run's labels.

The inputs are the sample. The share of a pattern in one head is a proportion of inputs, with Wilson's interval (Wilson
1927). The share in a layer or in all heads is the mean over inputs of each input's share, with the normal interval of
that mean, since the heads of one input are not independent of each other. All intervals are of 95 %.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attention_patterns.labelling.output.table import HEAD_GROUP_MEASURES, HEAD_MEASURES
from attention_patterns.labelling.summary.sums import Floats, Mean, ShareMean, Shares, Sum, count_cells, entropy, wilson
from attention_patterns.patterns import PATTERN_NAMES, PATTERNS

STABLE = 0.75  # a head is stable when Wilson's lower bound of its commonest pattern's share is at least this
_STACK = ("task", "model", "revision", "part")
_COLUMNS = (*_STACK, "input_id", "length", "layer", "head", "pattern", "uncertain")


@dataclass(frozen=True)
class GroupSummary:
    """The mean attention of a stack's heads to a token group, over the inputs that hold it.

    Attributes:
        inputs: Number of these inputs.
        of_heads: Number of these inputs that have the head, int64 [layers, heads].
        means: Name of the measure -> mean over them, [layers, heads]; NaN where there are none.
    """

    inputs: int
    of_heads: NDArray[np.int64]
    means: Mapping[str, Floats]


@dataclass(frozen=True)
class StackSummary:
    """The verdicts and means of one stack: all heads of one task, model and part.

    Arrays are [layers, heads], in the order of ``layers`` and ``heads``.

    Attributes:
        task, model, revision, part: Names, as in the tables.
        inputs: Number of inputs.
        mean_length: Tokens of an input, mean over inputs.
        layers: Indices of the layers in the model.
        heads: Indices of the heads in their layer.
        counts: Number of inputs by pattern, int64 [layers, heads, 5]; all 0 where no input has the head.
        uncertain: Share of the inputs whose answer is uncertain, 0 to 1.
        of_heads: Shares of the patterns in each head, [layers, heads, 5].
        of_layers: Shares of the patterns in each layer, [layers, 5].
        of_all: Shares of the patterns in all heads, [5].
        entropy: Entropy of the head's pattern over the inputs, bits, 0 to log2(5).
        stable: Whether the verdict is "stable": Wilson's lower bound of the commonest pattern's share is at least
            ``STABLE``.
        measures: Name of the measure -> mean over inputs; NaN where no input has it.
        attention_to: Token group -> its summary.
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
    attention_to: Mapping[str, GroupSummary]


@dataclass(frozen=True)
class _Key:
    task: str
    model: str | None
    revision: str | None
    part: str | None


def summarise(label_files: Sequence[Path]) -> list[StackSummary]:
    """Sums up files of ``labels``, one after the other, so that memory does not grow with their number."""
    stacks: dict[_Key, _Stack] = {}
    for file in label_files:
        table = pq.read_table(file, columns=[*_COLUMNS, *HEAD_MEASURES, "attention_to"])
        for key, rows in _by_stack(table):
            stacks.setdefault(key, _Stack()).add(rows)
    return [stack.summarise(key) for key, stack in stacks.items()]


def _by_stack(table: pa.Table) -> Iterator[tuple[_Key, pa.Table]]:
    plain = pa.table({name: table[name].cast(pa.string()) for name in _STACK})
    keys = plain.group_by(list(_STACK), use_threads=False).aggregate([])
    if keys.num_rows == 1:  # nearly always, since a unit is of one task
        yield _Key(**keys.to_pylist()[0]), table
        return
    for row in keys.to_pylist():
        same = [
            pc.is_null(plain[name]) if row[name] is None else pc.fill_null(pc.equal(plain[name], row[name]), False)
            for name in _STACK
        ]
        chosen = np.logical_and.reduce([column.to_numpy() for column in same])
        yield _Key(**row), table.filter(pa.array(chosen))


class _Group:
    """The sums of one token group in a stack."""

    def __init__(self) -> None:
        self.inputs = 0
        self._of_heads = Sum()
        self._means = {measure: Mean() for measure in HEAD_GROUP_MEASURES}

    def add(self, cells: tuple[NDArray[Any], ...], shape: tuple[int, ...], measures: pa.StructArray) -> None:
        self._of_heads.add(count_cells(cells, shape))
        for name, mean in self._means.items():
            mean.add(cells, shape, measures.field(name))

    def summarise(self, grid: tuple[int, ...], cells: tuple[NDArray[Any], ...]) -> GroupSummary:
        return GroupSummary(
            inputs=self.inputs,
            of_heads=self._of_heads.of(*grid)[cells].astype(np.int64),
            means={name: mean.of(*grid)[cells] for name, mean in self._means.items()},
        )


class _Stack:
    """The sums of one stack."""

    def __init__(self) -> None:
        self.inputs, self.tokens = 0, 0
        self.counts, self.uncertain = Sum(), Mean()
        self.layers, self.all = ShareMean(), ShareMean()
        self.measures = {name: Mean() for name in HEAD_MEASURES}
        self.groups: dict[str, _Group] = {}

    def add(self, rows: pa.Table) -> None:
        layer, head = rows["layer"].to_numpy(), rows["head"].to_numpy()
        pattern = pc.index_in(rows["pattern"].cast(pa.string()), pa.array(PATTERN_NAMES)).to_numpy()
        place = rows["input_id"].combine_chunks().dictionary_encode().indices.to_numpy()  # of the row's input
        firsts = np.unique(place, return_index=True)[1]
        shape = int(layer.max()) + 1, int(head.max()) + 1
        self.inputs += len(firsts)
        self.tokens += int(rows["length"].to_numpy()[firsts].sum())
        self.counts.add(count_cells((layer, head, pattern), (*shape, len(PATTERNS))))
        of_inputs = count_cells((place, layer, pattern), (len(firsts), shape[0], len(PATTERNS)))
        self.layers.add(of_inputs)
        self.all.add(of_inputs.sum(axis=1))
        self.uncertain.add((layer, head), shape, rows["uncertain"].cast(pa.int8()))
        for name, mean in self.measures.items():
            mean.add((layer, head), shape, rows[name])
        groups = rows["attention_to"].combine_chunks()
        of_row, structs = groups.value_parent_indices().to_numpy(), groups.flatten()
        names = structs.field("group").dictionary_encode()
        for code, name in enumerate(names.dictionary.to_pylist()):
            entries = np.flatnonzero(names.indices.to_numpy() == code)
            held = of_row[entries]  # rows whose input holds the group
            group = self.groups.setdefault(name, _Group())
            group.inputs += len(np.unique(place[held]))
            group.add((layer[held], head[held]), shape, structs.take(pa.array(entries)))

    def summarise(self, key: _Key) -> StackSummary:
        sums = self.counts.of(*(() if self.counts.values is None else self.counts.values.shape))
        grid = sums.shape[:2]
        layers, heads = np.flatnonzero(sums.any(axis=(1, 2))), np.flatnonzero(sums.any(axis=(0, 2)))
        cells = np.ix_(layers, heads)
        counts = sums[cells].astype(np.int64)
        of_heads, of_layers = wilson(counts), self.layers.shares(grid[0])
        commonest = counts.argmax(axis=-1)[..., None]
        with np.errstate(invalid="ignore"):
            stable = np.take_along_axis(of_heads.low, commonest, axis=-1)[..., 0] >= STABLE
        return StackSummary(
            **vars(key),
            inputs=self.inputs,
            mean_length=self.tokens / self.inputs,
            layers=tuple(map(int, layers)),
            heads=tuple(map(int, heads)),
            counts=counts,
            uncertain=self.uncertain.of(*grid)[cells],
            of_heads=of_heads,
            of_layers=Shares(*(values[layers] for values in (of_layers.share, of_layers.low, of_layers.high))),
            of_all=self.all.shares(),
            entropy=entropy(counts),
            stable=stable,
            measures={name: mean.of(*grid)[cells] for name, mean in self.measures.items()},
            attention_to={name: group.summarise(grid, cells) for name, group in self.groups.items()},
        )
