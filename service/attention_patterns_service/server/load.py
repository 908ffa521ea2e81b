"""The load of the server: a call beyond its limits is refused at once, so that the accepted ones are served."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock

from attention_patterns.errors import DeadlineError, OverloadedError
from attention_patterns_service.limits import Limits


def _new_turns() -> SimpleQueue[None]:
    """Returns two turns per core: one request is decoded or encoded while another is classified.

    A queue and not a semaphore, which the standard library writes in Python: callers would hold each other up in it.
    """
    turns: SimpleQueue[None] = SimpleQueue()
    for _ in range(2 * len(os.sched_getaffinity(0))):
        turns.put(None)
    return turns


@dataclass
class Load:
    """The calls in flight and the bytes of their messages; safe to share between threads.

    Attributes:
        limits: Limits of the server.
        on_change: Receives the calls and the bytes in flight whenever they change.
        calls: Calls in flight.
        bytes: Bytes in flight.
    """

    limits: Limits
    on_change: Callable[[int, int], None] = lambda _calls, _bytes: None
    calls: int = 0
    bytes: int = 0
    _lock: Lock = field(default_factory=Lock)
    _turns: SimpleQueue[None] = field(default_factory=_new_turns)

    def accept(self) -> None:
        """Counts a call in.

        Raises:
            OverloadedError: The server has as many as it takes.
        """
        with self._lock:
            if self.calls >= self.limits.calls:
                raise OverloadedError(
                    f"{self.calls} calls are in flight, the server takes {self.limits.calls}",
                    name="calls",
                    limit=self.limits.calls,
                )
            self.calls += 1
            self.on_change(self.calls, self.bytes)

    def release(self) -> None:
        """Counts a call out."""
        with self._lock:
            self.calls -= 1
            self.on_change(self.calls, self.bytes)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Counts ``size`` bytes in, and out at the end.

        Raises:
            OverloadedError: With them the server would have more bytes than it takes.
        """
        with self._lock:
            if self.bytes + size > self.limits.bytes:
                raise OverloadedError(
                    f"{self.bytes} bytes are in flight and {size} came, the server takes {self.limits.bytes}",
                    name="bytes",
                    limit=self.limits.bytes,
                )
            self.bytes += size
            self.on_change(self.calls, self.bytes)
        try:
            yield
        finally:
            with self._lock:
                self.bytes -= size
                self.on_change(self.calls, self.bytes)

    @contextmanager
    def take_turn(self, deadline: float, add_time: Callable[[str, float], None]) -> Iterator[None]:
        """Waits for a turn to classify, and gives it back at the end.

        Args:
            deadline: Latest moment to wait for, in seconds of ``time.perf_counter``.
            add_time: Receives the stage "wait" and the seconds waited.

        Raises:
            DeadlineError: No turn came before the deadline.
        """
        started = time.perf_counter()
        try:
            self._turns.get(timeout=max(0.0, deadline - started))
        except Empty as error:
            raise DeadlineError("the deadline passed while the request waited for its turn") from error
        finally:
            add_time("wait", time.perf_counter() - started)
        try:
            yield
        finally:
            self._turns.put(None)
