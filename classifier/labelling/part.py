"""One unit of work as one part of the output: its inputs measured, classified, and written as Parquet in memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from classifier.classification import doubted
from classifier.image_classifier import ImageClassifier
from classifier.labelling.memory import Memory
from classifier.labelling.source import FailedInput, MeasuredInput, Source, Unit
from classifier.labelling.table import (
    INPUTS,
    LABELS,
    MAPS,
    error_row,
    input_row,
    label_rows,
    map_rows,
    one_table,
    versioned,
)

IMAGES = 576  # read by the net at a time: enough for all cores, few enough to hold

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


@dataclass
class _Rows:
    """Rows by the place of their input, so that they are written in the order of the inputs."""

    labels: dict[tuple[int, bool], pa.RecordBatch] = field(default_factory=dict)
    inputs: dict[tuple[int, bool], pa.RecordBatch] = field(default_factory=dict)
    maps: dict[tuple[int, bool], pa.RecordBatch] = field(default_factory=dict)
    failed: list[tuple[int, FailedInput]] = field(default_factory=list)
    warned: int = 0


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
    classifier: ImageClassifier
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
        rows = _Rows()
        waiting: list[tuple[int, MeasuredInput]] = []
        most_bytes = self.memory.of_a_caller(self.source.callers(), prepared=prepared)
        for place, one in self.source.measured(unit, self.classifier, most_bytes=most_bytes):
            if isinstance(one, FailedInput):
                rows.failed.append((place, one))
                advance(1, 0)
                continue
            waiting.append((place, one))
            if sum(len(other.maps.images) for _, other in waiting) >= IMAGES:
                self._classify(unit, waiting, rows, advance)
                waiting = []
        self._classify(unit, waiting, rows, advance)
        return _part(unit, rows)

    def _classify(
        self, unit: Unit, waiting: Sequence[tuple[int, MeasuredInput]], rows: _Rows, advance: Advance
    ) -> None:
        if not waiting:
            return
        answers = self.classifier.classify_measured([one.maps for _, one in waiting])
        for (place, one), answer in zip(waiting, answers, strict=True):
            result, at = doubted(answer), (place, one.name.part == "decoder")
            rows.labels[at] = label_rows(one, result)
            rows.inputs[at] = input_row(one, result)
            if self.keep_maps or place in unit.examples:
                rows.maps[at] = map_rows(one)
            rows.warned += bool(one.warnings or result.warnings)
            advance(1, len(one.maps.images))


def _part(unit: Unit, rows: _Rows) -> Part:
    labels = _in_order(rows.labels)
    tables = {
        "labels": (labels, LABELS),
        "inputs": (_in_order(rows.inputs), INPUTS),
        "maps": (_in_order(rows.maps), MAPS),
    }
    return Part(
        number=unit.number,
        tables={name: _parquet(batches, schema) for name, (batches, schema) in tables.items() if batches},
        inputs=len(labels),
        maps=sum(batch.num_rows for batch in labels),
        warned=rows.warned,
        errors=tuple(error_row(one.name, one.error) for _, one in sorted(rows.failed, key=lambda failed: failed[0])),
    )


def _in_order(batches: Mapping[tuple[int, bool], pa.RecordBatch]) -> list[pa.RecordBatch]:
    return [batches[at] for at in sorted(batches)]


def _parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> bytes:
    sink: Any = pa.BufferOutputStream()
    pq.write_table(one_table(list(batches), versioned(schema)), sink, compression="zstd")
    return bytes(memoryview(sink.getvalue()))
