"""The progress of a run on standard error: a bar in the terminal, or one JSON object per line."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from attention_patterns.labelling.command.printing import first_sentences
from attention_patterns.labelling.output.tally import Tally
from attention_patterns.programs.foreign_text import visible
from attention_patterns.programs.json_logs import json_handler
from attention_patterns.programs.terminal import SafeConsole

LogFormat = Literal["text", "json"]
_INTERVAL = 5.0  # seconds between two lines of progress

_logger = logging.getLogger("attention_label")


@dataclass
class _Counts:
    """The inputs and maps done so far; rates count this run alone, not the parts that earlier runs finished."""

    total: int
    inputs: int = 0
    maps: int = 0
    before: int = 0
    started: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, inputs: int) -> None:
        self.inputs = self.before = inputs
        self.started = time.monotonic()

    def add(self, inputs: int, maps: int) -> None:
        with self.lock:
            self.inputs += inputs
            self.maps += maps

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-6)

    @property
    def fields(self) -> dict[str, Any]:
        done = self.inputs - self.before
        remaining = (self.total - self.inputs) * self.seconds / done if done else None
        return {
            "inputs": self.inputs,
            "inputs_in_all": self.total,
            "maps": self.maps,
            "maps_per_second": round(self.maps / self.seconds, 1),
            "remaining_seconds": None if remaining is None else round(remaining, 1),
        }


class Reporter:
    """The receiver of a run's progress, which counts and shows nothing."""

    def __init__(self, total: int) -> None:
        self._counts = _Counts(total)

    def begin(self, inputs: int, maps: int) -> None:  # noqa: ARG002  maps of earlier runs are in no rate
        """Takes the inputs and maps that earlier runs did."""
        self._counts.begin(inputs)

    def advance(self, inputs: int, maps: int) -> None:
        """Takes the inputs and maps that were done since the last call."""
        self._counts.add(inputs, maps)

    def fail(self, errors: Sequence[Mapping[str, str | None]]) -> None:
        """Takes failures, as lines of the errors file."""


class _FailuresBelow(Progress):
    """A bar with the failures so far below it."""

    failures: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(visible(sentence), no_wrap=True, overflow="ellipsis") for sentence in self.failures)


class _Bar(Reporter):
    def __init__(self, total: int, progress: _FailuresBelow, task: TaskID) -> None:
        super().__init__(total)
        self._progress, self._task = progress, task
        self._failures = Tally()

    def begin(self, inputs: int, maps: int) -> None:
        super().begin(inputs, maps)
        self._progress.reset(self._task, completed=inputs)

    def advance(self, inputs: int, maps: int) -> None:
        super().advance(inputs, maps)
        counts = self._counts.fields
        self._progress.update(
            self._task, completed=counts["inputs"], maps=counts["maps"], rate=counts["maps_per_second"]
        )

    def fail(self, errors: Sequence[Mapping[str, str | None]]) -> None:
        if errors:
            self._failures.add_errors(errors)
            self._progress.failures = first_sentences(self._failures)
            self._progress.refresh()


class _Lines(Reporter):
    def __init__(self, total: int) -> None:
        super().__init__(total)
        self._last_line = time.monotonic()

    def begin(self, inputs: int, maps: int) -> None:
        super().begin(inputs, maps)
        _logger.info("begin", extra={"inputs": inputs, "inputs_in_all": self._counts.total})

    def advance(self, inputs: int, maps: int) -> None:
        super().advance(inputs, maps)
        if time.monotonic() - self._last_line >= _INTERVAL:
            self._last_line = time.monotonic()
            _logger.info("progress", extra=self._counts.fields)


@contextmanager
def report_progress(total: int, *, log_format: LogFormat, quiet: bool) -> Iterator[Reporter]:
    """Shows the progress of a run over ``total`` inputs while it is at work; gives the reporter that takes it."""
    if quiet or log_format == "json":
        yield Reporter(total) if quiet else _Lines(total)
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("inputs, {task.fields[maps]:,} maps, {task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        TextColumn("elapsed"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with _FailuresBelow(*columns, console=SafeConsole(stderr=True), speed_estimate_period=300) as progress:
        try:
            yield _Bar(total, progress, progress.add_task("label", total=total, maps=0, rate=0.0))
        finally:
            progress.failures = ()  # those of earlier runs too are printed with the result


def log_event(event: str, **fields: Any) -> None:
    """Logs an event with its fields; it appears where JSON is asked for and the run is not quiet."""
    _logger.info(event, extra=fields)


def log_error(error: Exception) -> None:
    """Logs the error that ended the run; it appears where JSON is asked for, also if the run is quiet."""
    _logger.error("error", extra={"error": type(error).__name__, "reason": str(error)})


def configure_logs(*, log_format: LogFormat, quiet: bool) -> None:
    """Sends events and errors to standard error as JSON, where this is asked for."""
    if log_format != "json":
        return
    _logger.handlers = [json_handler()]
    _logger.propagate = False
    _logger.setLevel(logging.ERROR if quiet else logging.INFO)
