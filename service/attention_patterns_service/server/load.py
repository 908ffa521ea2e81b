"""The load of the server: a call beyond its limits is refused at once, so that the accepted ones are served."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock

from attention_patterns.errors import AbandonedError, DeadlineError, OverloadedError, RequestLimitError
from attention_patterns_service.limits import Limits

PATIENCE = 0.2  # seconds after which a request that waits for its turn asks again whether it is still wanted


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
    """The calls in flight and the memory that their messages take; safe to share between threads.

    Attributes:
        limits: Limits of the server.
        on_change: Receives the calls and the bytes in flight whenever they change.
        calls: Calls in flight.
    """

    limits: Limits
    on_change: Callable[[int, int], None] = lambda _calls, _bytes: None
    calls: int = 0
    _messages: int = 0
    _work: int = 0
    _calls_of: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)
    _turns: SimpleQueue[None] = field(default_factory=_new_turns)

    def accept(self, caller: str) -> None:
        """Counts a call in; ``caller`` is the name of its access token, "" where there is none.

        Raises:
            OverloadedError: The server has as many as it takes, of all callers or of this one.
        """
        limits = self.limits
        with self._lock:
            if self.calls >= limits.calls:
                raise OverloadedError(
                    f"{self.calls} calls are in flight, the server takes {limits.calls}",
                    name="calls",
                    limit=limits.calls,
                )
            if caller and self._calls_of[caller] >= limits.token_calls:
                raise OverloadedError(
                    f"{self._calls_of[caller]} calls of {caller} are in flight, the server takes {limits.token_calls} "
                    "of one access token",
                    name="token_calls",
                    limit=limits.token_calls,
                )
            self.calls += 1
            self._calls_of[caller] += 1
            self.on_change(self.calls, self.bytes)

    def release(self, caller: str) -> None:
        """Counts a call out."""
        with self._lock:
            self.calls -= 1
            self._calls_of[caller] -= 1
            if not self._calls_of[caller]:
                del self._calls_of[caller]
            self.on_change(self.calls, self.bytes)

    def add_bytes(self, *, messages: int = 0, work: int = 0, checked: bool = True) -> None:
        """Counts bytes in, or out where they are negative.

        Raises:
            RequestLimitError: The server never takes so many for the work on one request.
            OverloadedError: With them the server would have more bytes than it takes.
        """
        half = self.limits.bytes // 2
        if work > half:
            raise RequestLimitError(
                f"the work on the request takes {work} bytes, expected at most {half}; send it in parts"
            )
        with self._lock:
            for name, now, more in (("messages", self._messages, messages), ("work", self._work, work)):
                if checked and more > 0 and now + more > half:
                    raise OverloadedError(
                        f"{now} bytes of {name} are in flight and {more} came, the server takes {half}",
                        name="bytes",
                        limit=half,
                    )
            self._messages += messages
            self._work += work
            self.on_change(self.calls, self.bytes)

    @property
    def bytes(self) -> int:
        """Bytes in flight."""
        return self._messages + self._work

    @contextmanager
    def take_turn(
        self, deadline: float, wanted: Callable[[], bool], add_time: Callable[[str, float], None]
    ) -> Iterator[None]:
        """Waits for a turn to work, and gives it back at the end.

        Args:
            deadline: Latest moment to wait for, in seconds of ``time.perf_counter``.
            wanted: Asked now and then whether the caller still wants the answer.
            add_time: Receives the stage "wait" and the seconds waited.

        Raises:
            DeadlineError: No turn came before the deadline.
            AbandonedError: The caller does not want the answer any more.
        """
        started = time.perf_counter()
        try:
            while not self._has_turn(deadline):
                if time.perf_counter() >= deadline:
                    raise DeadlineError("the deadline passed while the request waited for its turn")
                if not wanted():
                    raise AbandonedError("the call ended while the request waited for its turn")
        finally:
            add_time("wait", time.perf_counter() - started)
        try:
            yield
        finally:
            self._turns.put(None)

    def _has_turn(self, deadline: float) -> bool:
        try:
            self._turns.get(timeout=min(PATIENCE, max(0.0, deadline - time.perf_counter())))
        except Empty:
            return False
        return True


class Holding:
    """The bytes that one message has counted into the load, until its answer is taken."""

    def __init__(self, load: Load) -> None:
        """Holds nothing yet."""
        self._load = load
        self._messages = self._work = 0

    def add(self, *, messages: int = 0, work: int = 0) -> None:
        """Counts more bytes in.

        Raises:
            RequestLimitError: The server never takes so many for the work on one request.
            OverloadedError: With them the server would have more bytes than it takes.
        """
        self._load.add_bytes(messages=messages, work=work)
        self._messages += messages
        self._work += work

    def keep(self, answer: int) -> None:
        """Counts all out but the bytes of an answer, which is not refused once it is made."""
        self._load.add_bytes(messages=answer - self._messages, work=-self._work, checked=False)
        self._messages, self._work = answer, 0
