"""What the server takes on at a time: beyond it a call is refused at once, so that what was accepted is served."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock

from classifier.attention_map import AttentionMaps, Declaration
from classifier.errors import DeadlineError, OverloadedError, RequestLimitError

MIB = 1 << 20
_MEASURES_BYTES = 32  # of a token group in the answer to a map, besides its name
_MOST_MEASURES_BYTES = 16 * MIB  # in an answer: some 25 groups of each of the most maps


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        message_bytes: largest message taken.
        maps: most maps in a request.
        length: most tokens of a map, padding included.
        calls: calls accepted and not yet answered; an open stream is one.
        bytes: of messages received and not yet answered, all calls together.
        seconds: longest that a request may take, where its own deadline is not earlier.
        idle_seconds: longest that an open stream may stay silent.
    """

    message_bytes: int = 72 * MIB
    maps: int = 16_384
    length: int = 8192
    calls: int = 32
    bytes: int = 512 * MIB
    seconds: float = 60.0
    idle_seconds: float = 300.0

    def check(self, maps: AttentionMaps) -> None:
        """Refuses maps over the limits.

        Raises:
            RequestLimitError: they are too many or too long.
        """
        self.check_count(len(maps.values))
        if maps.length > self.length:
            raise RequestLimitError(f"attention is of {maps.length} tokens, expected at most {self.length}")

    def check_answer(self, maps: AttentionMaps, declaration: Declaration) -> None:
        """Refuses maps whose answer would be out of proportion: each of them names each token group that it measures.

        Raises:
            RequestLimitError: it would.
        """
        size = len(maps.values) * sum(_MEASURES_BYTES + len(group.name.encode()) for group in declaration.groups)
        if size > _MOST_MEASURES_BYTES:
            raise RequestLimitError(
                f"{len(maps.values)} maps measured for {len(declaration.groups)} token groups make an answer of {size} "
                f"bytes, expected at most {_MOST_MEASURES_BYTES}; send it in parts"
            )

    def check_count(self, count: int) -> None:
        """Refuses that many maps or images in one request if they are over the limit.

        Raises:
            RequestLimitError: they are too many.
        """
        if count > self.maps:
            raise RequestLimitError(f"the request holds {count} maps, expected at most {self.maps}; send it in parts")


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
