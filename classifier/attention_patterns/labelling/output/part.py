"""The work on one unit, which makes one part: its inputs are measured, classified, and written as Parquet in memory."""

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
    with_versions,
)
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.sources.source import FailedInput, MeasuredInput, Source, Unit

IMAGES = 144  # that the net reads at a time: enough for all cores, few enough to hold

_T = TypeVar("_T")
Advance = Callable[[int, int], None]  # called with the inputs and maps done since the last call


@dataclass(frozen=True)
class Part:
    """A finished piece of a run's output, made of one unit.

    Attributes:
        number: Number of the unit.
        tables: The Parquet files of "labels", "inputs" and "maps"; a table without rows is left out.
        inputs: Number of inputs that were labelled.
        maps: Number of rows in "labels".
        warned: Number of inputs that were labelled with warnings.
        errors: Failures, as lines of the errors file.
    """

    number: int
    tables: Mapping[str, bytes]
    inputs: int
    maps: int
    warned: int
    errors: tuple[Mapping[str, str | None], ...]


_Place = tuple[int, bool]  # place of the input in the unit; whether the attention is the decoder's


@dataclass
class _Results:
    """The results of a unit's inputs by place, so that rows are written in the order of the inputs."""

    labelled: dict[_Place, Labelled] = field(default_factory=dict)
    examples: dict[_Place, MeasuredInput] = field(default_factory=dict)
    failed: dict[_Place, FailedInput] = field(default_factory=dict)

    def make_part(self, number: int) -> Part:
        labelled, examples = _sort_by_place(self.labelled), _sort_by_place(self.examples)
        tables = {"labels": label_rows(labelled), "inputs": input_rows(labelled)} if labelled else {}
        tables |= {"maps": map_rows(examples)} if examples else {}
        return Part(
            number=number,
            tables={name: _to_parquet(rows) for name, rows in tables.items()},
            inputs=len(labelled),
            maps=sum(result.patterns.size for _, result in labelled),
            warned=sum(bool(measured.warnings or result.warnings) for measured, result in labelled),
            errors=tuple(error_row(failed.name, failed.error) for failed in _sort_by_place(self.failed)),
        )


@dataclass(frozen=True)
class PartMaker:
    """A maker of parts from units. Safe to share between threads.

    Attributes:
        source: Reader of the inputs.
        classifier: Classifier that measures and classifies them.
        memory: Limit of the memory for attention.
        keep_maps: Whether to keep the images of all inputs instead of those of the unit's examples.
    """

    source: Source
    classifier: Classifier
    memory: Memory
    keep_maps: bool = False

    def make(self, unit: Unit, advance: Advance = lambda _inputs, _maps: None, *, alone: bool = False) -> Part:
        """Makes the part of a unit, on all cores, or ``alone`` on that of the calling thread.

        Args:
            unit: Unit of the source.
            advance: Called with the inputs and maps done since the last call.
            alone: Whether to use the calling thread's core only.

        Raises:
            ServerError: The classifier is a client, and its server failed.
        """
        with self.classifier.on_this_thread() if alone else nullcontext():
            return self._make(unit, advance)

    def _make(self, unit: Unit, advance: Advance) -> Part:
        prepared = self.source.prepare(unit)
        results = _Results()
        waiting: list[tuple[int, MeasuredInput]] = []
        most_bytes = self.memory.of_a_caller(self.source.callers(), prepared=prepared)
        for place, outcome in self.source.measure(unit, self.classifier, most_bytes=most_bytes):
            if isinstance(outcome, FailedInput):
                results.failed[place, outcome.name.part == "decoder"] = outcome
                advance(1, 0)
                continue
            waiting.append((place, outcome))
            if sum(len(measured.maps.images) for _, measured in waiting) >= IMAGES:
                self._classify(unit, waiting, results, advance)
                waiting = []
        self._classify(unit, waiting, results, advance)
        return results.make_part(unit.number)

    def _classify(
        self, unit: Unit, waiting: Sequence[tuple[int, MeasuredInput]], results: _Results, advance: Advance
    ) -> None:
        if not waiting:
            return
        answers = self.classifier.classify_measured([measured.maps for _, measured in waiting])
        for (place, measured), answer in zip(waiting, answers, strict=True):
            key = place, measured.name.part == "decoder"
            if self.keep_maps or place in unit.examples:
                results.examples[key] = measured
            results.labelled[key] = replace(measured, maps=measured.maps.without_images()), with_doubts(answer)
            advance(1, len(measured.maps.images))


def _sort_by_place(results: Mapping[_Place, _T]) -> list[_T]:
    return [results[place] for place in sorted(results)]


def _to_parquet(rows: pa.RecordBatch) -> bytes:
    sink: Any = pa.BufferOutputStream()
    table = pa.Table.from_batches([rows], schema=with_versions(rows.schema))
    pq.write_table(table, sink, compression="zstd")
    return bytes(memoryview(sink.getvalue()))
