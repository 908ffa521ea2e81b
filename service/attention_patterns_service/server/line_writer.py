"""Lines for standard error, written by a thread of its own: whoever stops reading them stops no call."""

import io
import logging
import os
import select
import sys
import threading
from collections.abc import Callable
from queue import Full, Queue
from typing import TextIO, cast

_MOST_LINES = 4096  # that wait for their reader
_PATIENCE = 3.0  # seconds that the end of the process waits for a reader
_STANDARD_ERROR = 2


class LineWriter:
    """A bounded queue of lines before a file descriptor; a line that finds it full is dropped and counted."""

    def __init__(self, descriptor: int, *, notice: Callable[[int], str], on_drop: Callable[[], None]) -> None:
        """Starts the thread that writes.

        Args:
            descriptor: File descriptor to write to.
            notice: Gives the line that tells the reader, as soon as there is one again, how many lines were dropped.
            on_drop: Called for each line that is dropped.
        """
        self._descriptor, self._notice, self._on_drop = descriptor, notice, on_drop
        self._lines: Queue[str] = Queue(_MOST_LINES)
        self._dropped, self._lock = 0, threading.Lock()
        # A daemon, which may wait for its reader for ever; it holds no lock and no buffer that the exit would ask for.
        threading.Thread(target=self._run, name="lines", daemon=True).start()

    def put(self, line: str) -> None:
        """Has a line written, without waiting for it."""
        try:
            self._lines.put_nowait(line)
        except Full:
            self._drop()

    def drain(self) -> None:
        """Waits until all lines are written, or for three seconds where nobody reads them."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, _PATIENCE)

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1
        self._on_drop()

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            try:
                self._write(line)
                with self._lock:
                    dropped, self._dropped = self._dropped, 0
                if dropped:
                    self._write(self._notice(dropped))
            except OSError:  # the reader is gone, or the disk is full
                self._drop()
            finally:
                self._lines.task_done()

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever started this process set the descriptor so
                select.select([], [self._descriptor], [])


class _Handler(logging.Handler):
    """Hands the records of a log to a writer."""

    def __init__(self, writer: LineWriter, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self.format(record))
        except Exception:  # noqa: BLE001  as every handler: a message that does not fit its arguments ends no call
            self.handleError(record)

    def flush(self) -> None:  # also at the end of the process, by logging
        self._writer.drain()


class _Stream(io.TextIOBase):
    """Hands whatever Python itself prints on standard error to a writer: warnings, tracebacks, last sentences."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer, self._rest, self._writes = writer, "", threading.Lock()

    def write(self, text: str) -> int:
        with self._writes:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._writer.put(line)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return _STANDARD_ERROR


def take_over_standard_error(formatter: logging.Formatter, *, on_drop: Callable[[], None]) -> logging.Handler:
    """Has a ``LineWriter`` write all that Python prints on standard error from now on; returns a handler for logs."""
    if sys.stderr is None:  # it was closed before the start, and its number may be that of a connection by now
        return logging.NullHandler()

    def notice(dropped: int) -> str:
        return formatter.format(logging.makeLogRecord({"msg": "log lines dropped", "lines": dropped}))

    writer = LineWriter(_STANDARD_ERROR, notice=notice, on_drop=on_drop)
    sys.stderr.flush()
    sys.stderr = cast("TextIO", _Stream(writer))
    return _Handler(writer, formatter)
