"""The load of the server: beyond its limits a call is refused at once, so that what was accepted is served."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock

from attention_patterns.errors import DeadlineError, OverloadedError
from attention_patterns_service.limits import Limits


def _turns() -> SimpleQueue[None]:
    """Two turns a core: one request is read or answered while the other is classified.

    A queue, not a semaphore, which in Python's library is made of Python: callers who wait would wait for each other.
    """
    turns: SimpleQueue[None] = SimpleQueue()
    for _ in range(2 * len(os.sched_getaffinity(0))):
        turns.put(None)
    return turns


@dataclass
class Load:
    """What the server has to do at this moment; safe to share between threads.

    ``changed`` is told the calls and the bytes under way whenever they change.
    """

    limits: Limits
    changed: Callable[[int, int], None] = lambda _calls, _bytes: None
    calls: int = 0
    bytes: int = 0
    _lock: Lock = field(default_factory=Lock)
    _turns: SimpleQueue[None] = field(default_factory=_turns)

    def accept(self) -> None:
        """Counts a call in.

        Raises:
            OverloadedError: there are as many as the server takes.
        """
        with self._lock:
            if self.calls >= self.limits.calls:
                raise OverloadedError(f"{self.calls} calls are in flight, the server takes {self.limits.calls}")
            self.calls += 1
            self.changed(self.calls, self.bytes)

    def done(self) -> None:
        """Counts a call out."""
        with self._lock:
            self.calls -= 1
            self.changed(self.calls, self.bytes)

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Counts ``size`` bytes in and out.

        Raises:
            OverloadedError: there would be more than the server takes.
        """
        with self._lock:
            if self.bytes + size > self.limits.bytes:
                raise OverloadedError(
                    f"{self.bytes} bytes are in flight and {size} came, the server takes {self.limits.bytes}"
                )
            self.bytes += size
            self.changed(self.calls, self.bytes)
        try:
            yield
        finally:
            with self._lock:
                self.bytes -= size
                self.changed(self.calls, self.bytes)

    @contextmanager
    def at_work(self, seconds: float, spent: Callable[[str, float], None]) -> Iterator[None]:
        """Waits for a turn to be classified, ``seconds`` at most, and tells how long that took.

        Raises:
            DeadlineError: its turn did not come in time.
        """
        started = time.perf_counter()
        try:
            self._turns.get(timeout=max(0.0, seconds))
        except Empty as error:
            raise DeadlineError("the deadline passed while the request waited for its turn") from error
        finally:
            spent("wait", time.perf_counter() - started)
        try:
            yield
        finally:
            self._turns.put(None)
