"""Finds the processes of a server by a mark in their environment, so that all are counted and none is left."""

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = "BENCHMARK_SERVER"
_TICKS = os.sysconf("SC_CLK_TCK")
_GRACE = 10.0  # seconds to end on SIGTERM, and again on SIGKILL


class LeftRunningError(RuntimeError):
    """A process of a server that could not be ended."""


class Marked:
    """The processes that were started within ``mark_processes``, with all of their descendants."""

    def __init__(self, mark: str) -> None:
        """Finds the processes that have ``mark`` in their environment."""
        self._entry = f"{_MARK}={mark}".encode()

    def pids(self) -> list[int]:
        """Returns the ids of the processes that are alive."""
        return [
            int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit() and self._has_mark(folder)
        ]

    def _has_mark(self, folder: Path) -> bool:
        try:
            return self._entry in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or somebody else's
            return False

    def cpu(self) -> float:
        """Returns the CPU time that the living processes used, seconds."""
        return sum(map(_cpu, self.pids()))

    def end(self) -> None:
        """Ends all processes.

        Raises:
            LeftRunningError: Some did not end.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + _GRACE
            for pid in self.pids():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            while time.monotonic() < until:
                if not self.pids():
                    return
                time.sleep(0.1)
        raise LeftRunningError(f"processes {self.pids()} did not end")


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def mark_processes() -> Iterator[Marked]:
    """Marks the processes that are started inside, and ends them afterwards."""
    mark = secrets.token_hex(8)
    processes = Marked(mark)
    os.environ[_MARK] = mark
    try:
        yield processes
    finally:
        os.environ.pop(_MARK, None)
        processes.end()
