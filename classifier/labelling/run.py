"""The offline run: inputs from a source, through a classifier, to a Parquet file of one row a head and input."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from classifier.classification import Classification, Classifier
from classifier.errors import AttentionPatternsError
from classifier.label_input import FailedInput, LabelInput
from classifier.label_table import head_rows, table_schema
from classifier.patterns import PATTERN_NAMES, PATTERNS

ROW_GROUP = 16_384  # rows; small enough to hold, large enough to compress and to skip
IN_FLIGHT = 2  # inputs classified at once, so that reading, classifying and writing overlap


@dataclass(frozen=True)
class Tally:
    """What was found in all inputs of one part and of one number of layers and heads.

    Attributes:
        part: "encoder", "decoder" or None.
        inputs: how many there were.
        counts: inputs by the pattern found, int64 [layers, heads, 5].
        attention_to: token group -> share [layers, heads], mean over the inputs that hold the group, float64.
    """

    part: str | None
    inputs: int
    counts: NDArray[np.int64]
    attention_to: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class LabelSummary:
    """What came of a run.

    Attributes:
        output: the Parquet file.
        errors: the file of failed inputs, one JSON object a line; None when none failed.
        inputs: inputs labelled.
        failed: inputs that failed.
        maps: rows written.
        warned: inputs labelled with warnings.
        tallies: what was found, in order of first appearance.
    """

    output: Path
    errors: Path | None
    inputs: int
    failed: int
    maps: int
    warned: int
    tallies: tuple[Tally, ...]


def label(
    inputs: Iterable[LabelInput | FailedInput],
    *,
    classifier: Classifier,
    output: Path,
    rendering_version: int | None = None,
    on_progress: Callable[[float, int], None] = lambda _progress, _maps: None,
) -> LabelSummary:
    """Labels all inputs in order and writes ``output``, which appears under its name only when whole.

    A bad input does not end the run: it goes to ``<output>.errors.jsonl`` as input_id, part, error and message.

    Args:
        inputs: from a source; what a source raises itself ends the run and leaves no file.
        classifier: in-process, or a client.
        output: the Parquet file, replaced if it exists; its columns are ``label_table.SCHEMA``.
        rendering_version: of the model, noted in the file's metadata.
        on_progress: called for each input with its ``progress`` and its number of maps, 0 if it failed.
    """
    schema, run = table_schema(rendering_version), _Run()
    with _whole(output) as partial:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for group in _row_groups(run.rows(_answers(inputs, classifier), on_progress)):
                writer.write_table(pa.Table.from_batches(group).cast(schema))
        errors = _write_errors(output.with_name(output.name + ".errors.jsonl"), run.failed)
    return LabelSummary(
        output=output,
        errors=errors,
        inputs=run.inputs,
        failed=len(run.failed),
        maps=run.maps,
        warned=run.warned,
        tallies=tuple(tally.result() for tally in run.tallies.values()),
    )


def _answers(
    inputs: Iterable[LabelInput | FailedInput], classifier: Classifier
) -> Iterator[tuple[LabelInput, Classification] | FailedInput]:
    """Classifies a few inputs at once; answers come in the order of the inputs."""
    waiting: deque[Future[tuple[LabelInput, Classification] | FailedInput]] = deque()
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="label") as pool:
        for one in inputs:
            waiting.append(pool.submit(_answer, one, classifier))
            if len(waiting) > IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _answer(one: LabelInput | FailedInput, classifier: Classifier) -> tuple[LabelInput, Classification] | FailedInput:
    if isinstance(one, FailedInput):
        return one
    try:
        return one, classifier.classify(
            one.attention,
            tokens=one.tokens,
            segments=one.segments,
            valid_length=one.valid_length,
            mask=one.mask,
            causal=one.causal,
            data_type=one.data_type,
        )
    except AttentionPatternsError as error:
        return FailedInput(one.input_id, error, one.part, one.progress)


class _Run:
    """Counts what passes on its way to the file."""

    def __init__(self) -> None:
        self.failed: list[FailedInput] = []
        self.tallies: dict[tuple[str | None, int, int], _RunningTally] = {}
        self.inputs = self.maps = self.warned = 0

    def rows(
        self,
        answers: Iterable[tuple[LabelInput, Classification] | FailedInput],
        on_progress: Callable[[float, int], None],
    ) -> Iterator[pa.RecordBatch]:
        for answer in answers:
            if isinstance(answer, FailedInput):
                self.failed.append(answer)
                on_progress(answer.progress, 0)
                continue
            one, result = answer
            rows = head_rows(result, input_id=one.input_id, part=one.part, warnings=one.warnings)
            self._count(one, result)
            on_progress(one.progress, rows.num_rows)
            yield rows

    def _count(self, one: LabelInput, result: Classification) -> None:
        layers, heads = (1,) * (2 - result.patterns.ndim) + result.patterns.shape
        tally = self.tallies.setdefault((one.part, layers, heads), _RunningTally(one.part, layers, heads))
        tally.add(result)
        self.inputs += 1
        self.maps += result.patterns.size
        self.warned += bool(one.warnings or result.warnings)


class _RunningTally:
    def __init__(self, part: str | None, layers: int, heads: int) -> None:
        self._part = part
        self._inputs = 0
        self._counts = np.zeros((layers, heads, len(PATTERNS)), np.int64)
        self._shares: dict[str, tuple[int, NDArray[np.float64]]] = {}  # group -> inputs, sum of shares [layers, heads]

    def add(self, result: Classification) -> None:
        shape = self._counts.shape[:2]
        self._inputs += 1
        self._counts += result.patterns.reshape(*shape, 1) == PATTERN_NAMES
        for name, group in result.attention_to.items():
            inputs, total = self._shares.get(name, (0, np.zeros(shape)))
            self._shares[name] = (inputs + 1, total + group.share.reshape(shape))

    def result(self) -> Tally:
        means = {name: total / inputs for name, (inputs, total) in self._shares.items()}
        return Tally(self._part, self._inputs, self._counts, means)


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(one.num_rows for one in group) >= ROW_GROUP:
            yield group
            group = []
    if group:
        yield group


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``output`` unless something is raised."""
    partial = output.with_name(output.name + ".partial")
    try:
        yield partial
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _write_errors(path: Path, failed: Sequence[FailedInput]) -> Path | None:
    path.unlink(missing_ok=True)
    if not failed:
        return None
    records = [
        {"input_id": one.input_id, "part": one.part, "error": type(one.error).__name__, "message": str(one.error)}
        for one in failed
    ]
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path
