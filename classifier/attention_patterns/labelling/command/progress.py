"""How a run tells where it is: a bar in the terminal, or a JSON object a line on standard error."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from attention_patterns.programs.json_logs import json_handler

LogFormat = Literal["text", "json"]
_EVERY = 5.0  # seconds between two lines

_logger = logging.getLogger("attention_label")


@dataclass
class _Counts:
    """How much is done; rates count this run alone, not what earlier ones did."""

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
        left = (self.total - self.inputs) * self.seconds / done if done else None
        return {
            "inputs": self.inputs,
            "inputs_in_all": self.total,
            "maps": self.maps,
            "maps_per_second": round(self.maps / self.seconds, 1),
            "remaining_seconds": None if left is None else round(left, 1),
        }


class Reporter:
    """What ``run.label`` tells of its progress to."""

    def __init__(self, total: int) -> None:
        self._counts = _Counts(total)

    def begin(self, inputs: int, maps: int) -> None:  # noqa: ARG002  maps of earlier runs are in no rate
        """Told what earlier runs did."""
        self._counts.begin(inputs)

    def advance(self, inputs: int, maps: int) -> None:
        """Told what was done since the last time."""
        self._counts.add(inputs, maps)


class _Bar(Reporter):
    def __init__(self, total: int, progress: Progress, task: TaskID) -> None:
        super().__init__(total)
        self._progress, self._task = progress, task

    def begin(self, inputs: int, maps: int) -> None:
        super().begin(inputs, maps)
        self._progress.reset(self._task, completed=inputs)

    def advance(self, inputs: int, maps: int) -> None:
        super().advance(inputs, maps)
        said = self._counts.fields
        self._progress.update(self._task, completed=said["inputs"], maps=said["maps"], rate=said["maps_per_second"])


class _Lines(Reporter):
    def __init__(self, total: int) -> None:
        super().__init__(total)
        self._told = time.monotonic()

    def begin(self, inputs: int, maps: int) -> None:
        super().begin(inputs, maps)
        _logger.info("begin", extra={"inputs": inputs, "inputs_in_all": self._counts.total})

    def advance(self, inputs: int, maps: int) -> None:
        super().advance(inputs, maps)
        if time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            _logger.info("progress", extra=self._counts.fields)


@contextmanager
def reporting(total: int, *, log_format: LogFormat, quiet: bool) -> Iterator[Reporter]:
    """Shows how far a run of ``total`` inputs is, while it runs."""
    if quiet or log_format == "json":
        yield Reporter(total) if quiet else _Lines(total)
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("inputs, {task.fields[maps]:,} maps, {task.fields[rate]:,.0f} a second"),
        TimeElapsedColumn(),
        TextColumn("of which left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=300) as progress:
        yield _Bar(total, progress, progress.add_task("label", total=total, maps=0, rate=0.0))


def log(event: str, **fields: Any) -> None:
    """Writes a line of JSON, where these are asked for."""
    _logger.info(event, extra=fields)


def log_error(error: Exception) -> None:
    """Likewise of what ended the run; also if it is quiet."""
    _logger.error("error", extra={"error": type(error).__name__, "reason": str(error)})


def write_logs(*, log_format: LogFormat, quiet: bool) -> None:
    """Sends what ``log`` is told to standard error, as JSON."""
    if log_format != "json":
        return
    _logger.handlers = [json_handler()]
    _logger.propagate = False
    _logger.setLevel(logging.ERROR if quiet else logging.INFO)
