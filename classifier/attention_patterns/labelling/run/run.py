"""A run: units of work through an engine into the run folder, where no part that is finished is made again."""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from attention_patterns.errors import OutputError, SourceError
from attention_patterns.labelling.output.folder import RunFolder, lock_folder
from attention_patterns.labelling.output.part import Advance, Part, PartMaker
from attention_patterns.labelling.output.table import SCHEMA_VERSION, error_row
from attention_patterns.labelling.sources.source import Unit
from attention_patterns.labelling.summary.summary import StackSummary
from attention_patterns.labelling.summary.summary_files import write_summary
from attention_patterns.rendering import RENDERING_VERSION

Engine = Callable[[Sequence[Unit], PartMaker, Advance], Generator[Part, None, None]]
Failures = tuple[Mapping[str, str | None], ...]


@dataclass(frozen=True)
class RunResult:
    """The result of a run, together with that of earlier runs into the same folder.

    Attributes:
        folder: Folder with the tables.
        inputs: Number of inputs that were labelled; an encoder-decoder makes two of each text.
        maps: Number of rows in ``labels``.
        warned: Number of inputs that were labelled with warnings.
        errors: Failures, as lines of the errors file.
        continued: Number of parts of earlier runs.
        stacks: Summary of each stack's heads over all inputs.
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
    on_failures: Callable[[Failures], None] = lambda _failures: None,
) -> RunResult:
    """Labels all units of the source into the folder ``output``, or those that an earlier run left undone.

    Args:
        maker: Maker of the parts.
        output: New folder, or that of an earlier run of the same inputs and settings.
        settings: Settings that change the labels, in plain values; a run is only continued with the same.
        engine: Engine that does the work; threads of this process by default.
        overwrite: Whether to remove what ``output`` holds of a run.
        retry_failed: Whether to make again the parts in which an input failed.
        units: Units of the source, where they are known already.
        on_begin: Called with the inputs and maps of earlier runs.
        advance: Called with the inputs and maps done since the last call.
        on_failures: Called with the failures of a part when it is finished.

    Raises:
        InvalidSettingsError: ``output`` holds a run of other inputs or settings, or something else.
        MissingExtraError: A package that the source needs is not installed.
        OutputError: Even the errors could not be written.
        ServerError: The classifier is a client, and its server failed; the run can be continued.
        SourceError: All inputs would fail for one reason, and none was run.
    """
    work = maker.source.units() if units is None else units
    request = {
        "schema_version": SCHEMA_VERSION,
        "rendering_version": RENDERING_VERSION,
        "settings": settings,
        "sources": maker.source.fingerprint(),
        "units": len(work),
    }
    with lock_folder(output) as folder:
        folder.begin(request, overwrite=overwrite)
        if retry_failed:
            folder.forget([record.number for record in folder.records() if record.errors])
        before = folder.records()
        on_begin(sum(record.inputs + len(record.errors) for record in before), sum(record.maps for record in before))
        done = {record.number for record in before}
        left = [unit for unit in work if unit.number not in done]
        with closing((engine or in_process)(left, maker, advance)) as parts:
            try:
                unwritten = _keep_parts(folder, parts, {unit.number: unit for unit in left}, maker, on_failures)
            except SourceError:
                folder.forget_request()
                raise
        return _finish(folder, len(before), unwritten)


def _keep_parts(
    folder: RunFolder,
    parts: Iterator[Part],
    units: Mapping[int, Unit],
    maker: PartMaker,
    on_failures: Callable[[Failures], None],
) -> Failures:
    """Keeps parts as they come; returns the failures of inputs whose part could not be written."""
    lost: dict[int, Failures] = {}
    for part in parts:
        try:
            folder.keep(part)
        except OSError as error:
            failure = OutputError(f"part {part.number} could not be written: {error}")
            lost[part.number] = tuple(error_row(name, failure) for name in maker.source.names(units[part.number]))
        on_failures(lost.get(part.number, part.errors))
    return tuple(error for number in sorted(lost) for error in lost[number])


def _finish(folder: RunFolder, continued: int, unwritten: Failures) -> RunResult:
    records = folder.records()
    errors = (*(error for record in records for error in record.errors), *unwritten)
    try:
        folder.write_errors(errors)
        stacks = write_summary(folder, errors)
    except OSError as error:
        raise OutputError(f"the parts are written, but their errors or summary could not be: {error}") from error
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
    """Makes parts by threads of this process, as many as the source's callers; yields them as they are done.

    Raises:
        SourceError: All inputs would fail for one reason.
    """
    if units:
        maker.source.check(maker.classifier)
    callers, stopped = maker.source.callers(), threading.Event()
    side_by_side = len(units) - len(units) % callers if callers > 1 else 0  # the others have all cores to themselves
    left = iter(enumerate(units))

    def advance_or_stop(inputs: int, maps: int) -> None:
        if stopped.is_set():
            raise CancelledError
        advance(inputs, maps)

    with ThreadPoolExecutor(callers, thread_name_prefix="label") as pool:
        running: set[Future[Part]] = set()
        try:
            while True:
                # One more than can run, so that no caller waits while a part is written.
                some = islice(left, callers + 1 - len(running))
                running |= {
                    pool.submit(maker.make, unit, advance_or_stop, alone=place < side_by_side) for place, unit in some
                }
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            stopped.set()  # an interrupted run does not wait for whole units
