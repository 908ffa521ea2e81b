"""The run: units of work through an engine into the run folder, where what is done already is not done again."""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from attention_patterns.errors import OutputError
from attention_patterns.labelling.output.folder import RunFolder, locked
from attention_patterns.labelling.output.part import Advance, Part, PartMaker
from attention_patterns.labelling.sources.source import Unit
from attention_patterns.labelling.summary.summary import StackSummary
from attention_patterns.labelling.summary.summary_files import write_summary
from attention_patterns.labelling.output.table import SCHEMA_VERSION, error_row
from attention_patterns.rendering import RENDERING_VERSION

Engine = Callable[[Sequence[Unit], PartMaker, Advance], Generator[Part, None, None]]
Failures = tuple[Mapping[str, str | None], ...]


@dataclass(frozen=True)
class RunResult:
    """What came of a run, together with what was there of it before.

    Attributes:
        folder: with the tables.
        inputs: labelled; an encoder-decoder makes two of each text.
        maps: rows in ``labels``.
        warned: inputs labelled with warnings.
        errors: what failed, as lines of the errors file.
        continued: parts that were there before.
        stacks: what all of it says of each head.
    """

    folder: RunFolder
    inputs: int
    maps: int
    warned: int
    errors: Failures
    continued: int
    stacks: tuple[StackSummary, ...]


def label(
    maker: PartMaker,
    *,
    output: Path,
    settings: Mapping[str, Any],
    engine: Engine | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    units: Sequence[Unit] | None = None,
    on_begin: Callable[[int, int], None] = lambda _inputs, _maps: None,
    advance: Advance = lambda _inputs, _maps: None,
) -> RunResult:
    """Labels all units of the source into the folder ``output``, or those that an earlier run left undone.

    Args:
        maker: of the parts.
        output: a new folder, or that of a run of the same job.
        settings: what changes the labels, in plain values; a run is only continued with the same.
        engine: does the work; threads of this process by default.
        overwrite: remove what ``output`` holds of a run.
        retry_failed: do again the parts in which an input failed.
        units: of the source, where they are known already.
        on_begin: told the inputs and maps that earlier runs did.
        advance: told how many inputs and maps were done since the last time.

    Raises:
        InvalidSettingsError: ``output`` holds another job's run, or something else.
        OutputError: even the errors could not be written.
        ServerError: the classifier is a client, and its server failed; the run can be continued.
    """
    work = maker.source.units() if units is None else units
    job = {
        "schema_version": SCHEMA_VERSION,
        "rendering_version": RENDERING_VERSION,
        "settings": settings,
        "sources": maker.source.fingerprint(),
        "units": len(work),
    }
    with locked(output) as folder:
        folder.begin(job, overwrite=overwrite)
        if retry_failed:
            folder.forget([record.number for record in folder.records() if record.errors])
        before = folder.records()
        on_begin(sum(record.inputs + len(record.errors) for record in before), sum(record.maps for record in before))
        done = {record.number for record in before}
        left = [unit for unit in work if unit.number not in done]
        with closing((engine or in_process)(left, maker, advance)) as parts:
            unwritten = _written(folder, parts, {unit.number: unit for unit in left}, maker)
        return _finish(folder, len(before), unwritten)


def _written(folder: RunFolder, parts: Iterator[Part], units: Mapping[int, Unit], maker: PartMaker) -> Failures:
    """Keeps parts as they come; gives what failed because its part could not be written."""
    lost: dict[int, Failures] = {}
    for part in parts:
        try:
            folder.keep(part)
        except OSError as error:
            told = OutputError(f"part {part.number} could not be written: {error}")
            lost[part.number] = tuple(error_row(name, told) for name in maker.source.names(units[part.number]))
    return tuple(error for number in sorted(lost) for error in lost[number])


def _finish(folder: RunFolder, continued: int, unwritten: Failures) -> RunResult:
    records = folder.records()
    errors = (*(error for record in records for error in record.errors), *unwritten)
    try:
        folder.write_errors(errors)
        stacks = write_summary(folder, errors)
    except OSError as error:
        raise OutputError(f"the parts are written, but not what sums them up: {error}") from error
    return RunResult(
        folder=folder,
        inputs=sum(record.inputs for record in records),
        maps=sum(record.maps for record in records),
        warned=sum(record.warned for record in records),
        errors=errors,
        continued=continued,
        stacks=tuple(stacks),
    )


def in_process(units: Sequence[Unit], maker: PartMaker, advance: Advance) -> Generator[Part, None, None]:
    """Makes parts by threads of this process, as many at once as the source says; they come as they are done."""
    callers, stopped = maker.source.callers(), threading.Event()
    side_by_side = len(units) - len(units) % callers if callers > 1 else 0  # what is left then has all cores
    left = iter(enumerate(units))

    def told(inputs: int, maps: int) -> None:
        if stopped.is_set():
            raise CancelledError
        advance(inputs, maps)

    with ThreadPoolExecutor(callers, thread_name_prefix="label") as pool:
        running: set[Future[Part]] = set()
        try:
            while True:
                # One more than can run, so that no caller waits while a part is written.
                some = islice(left, callers + 1 - len(running))
                running |= {pool.submit(maker.make, unit, told, alone=place < side_by_side) for place, unit in some}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            stopped.set()  # an interrupted run does not wait for whole units
