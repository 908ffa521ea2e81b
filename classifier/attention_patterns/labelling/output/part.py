"""One unit of work as one part of the output: its inputs measured, classified, and written as Parquet in memory."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from attention_patterns.classification import with_doubts
from attention_patterns.classifier import Classifier
from attention_patterns.labelling.output.table import (
    Labelled,
    error_row,
    input_rows,
    label_rows,
    map_rows,
    versioned,
)
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.sources.source import FailedInput, MeasuredInput, Source, Unit

IMAGES = 144  # read by the net at a time: enough for all cores, few enough to hold

_T = TypeVar("_T")
Advance = Callable[[int, int], None]  # told how many inputs and maps are done since the last time


@dataclass(frozen=True)
class Part:
    """What came of a unit.

    Attributes:
        number: of the unit.
        tables: "labels", "inputs" and "maps", each a Parquet file; a table without rows is left out.
        inputs: how many were labelled.
        maps: how many rows ``labels`` has.
        warned: how many inputs were labelled with warnings.
        errors: what failed, as lines of the errors file.
    """

    number: int
    tables: Mapping[str, bytes]
    inputs: int
    maps: int
    warned: int
    errors: tuple[Mapping[str, str | None], ...]


_Place = tuple[int, bool]  # of the input in the unit, and whether it is a decoder's


@dataclass
class _Found:
    """What came of the inputs by their place, so that rows are written in the order of the inputs."""

    labelled: dict[_Place, Labelled] = field(default_factory=dict)
    examples: dict[_Place, MeasuredInput] = field(default_factory=dict)
    failed: dict[_Place, FailedInput] = field(default_factory=dict)

    def part(self, number: int) -> Part:
        """All of it as a part."""
        labelled, examples = _in_order(self.labelled), _in_order(self.examples)
        tables = {"labels": label_rows(labelled), "inputs": input_rows(labelled)} if labelled else {}
        tables |= {"maps": map_rows(examples)} if examples else {}
        return Part(
            number=number,
            tables={name: _parquet(rows) for name, rows in tables.items()},
            inputs=len(labelled),
            maps=sum(result.patterns.size for _, result in labelled),
            warned=sum(bool(one.warnings or result.warnings) for one, result in labelled),
            errors=tuple(error_row(one.name, one.error) for one in _in_order(self.failed)),
        )


@dataclass(frozen=True)
class PartMaker:
    """Makes parts of units. Safe to share between threads.

    Attributes:
        source: reads the inputs.
        classifier: measures and classifies them.
        memory: what it may use.
        keep_maps: keep the images of all inputs, not only of the unit's examples.
    """

    source: Source
    classifier: Classifier
    memory: Memory
    keep_maps: bool = False

    def make(self, unit: Unit, advance: Advance = lambda _inputs, _maps: None, *, alone: bool = False) -> Part:
        """Does the work of a unit, on all cores, or ``alone`` on the calling thread's.

        Raises:
            ServerError: the classifier is a client, and its server failed.
        """
        with self.classifier.on_this_thread() if alone else nullcontext():
            return self._made(unit, advance)

    def _made(self, unit: Unit, advance: Advance) -> Part:
        prepared = self.source.prepare(unit)
        found = _Found()
        waiting: list[tuple[int, MeasuredInput]] = []
        most_bytes = self.memory.of_a_caller(self.source.callers(), prepared=prepared)
        for place, one in self.source.measured(unit, self.classifier, most_bytes=most_bytes):
            if isinstance(one, FailedInput):
                found.failed[place, one.name.part == "decoder"] = one
                advance(1, 0)
                continue
            waiting.append((place, one))
            if sum(len(other.maps.images) for _, other in waiting) >= IMAGES:
                self._classify(unit, waiting, found, advance)
                waiting = []
        self._classify(unit, waiting, found, advance)
        return found.part(unit.number)

    def _classify(
        self, unit: Unit, waiting: Sequence[tuple[int, MeasuredInput]], found: _Found, advance: Advance
    ) -> None:
        if not waiting:
            return
        answers = self.classifier.classify_measured([one.maps for _, one in waiting])
        for (place, one), answer in zip(waiting, answers, strict=True):
            at = place, one.name.part == "decoder"
            if self.keep_maps or place in unit.examples:
                found.examples[at] = one
            found.labelled[at] = replace(one, maps=one.maps.without_images()), with_doubts(answer)
            advance(1, len(one.maps.images))


def _in_order(found: Mapping[_Place, _T]) -> list[_T]:
    return [found[at] for at in sorted(found)]


def _parquet(rows: pa.RecordBatch) -> bytes:
    sink: Any = pa.BufferOutputStream()
    table = pa.Table.from_batches([rows], schema=versioned(rows.schema))
    pq.write_table(table, sink, compression="zstd")
    return bytes(memoryview(sink.getvalue()))
