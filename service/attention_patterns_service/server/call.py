"""One call on its way through the server: its deadline, what it took, and what came of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import numpy as np
from numpy.typing import NDArray

from attention_patterns.classification import NetAnswer
from attention_patterns.classifier import Oversight


class Call:
    """What is known of one call; shared by the threads that work on it.

    Attributes:
        method: the method's name.
        request_id: as the caller chose it, of a stream that of its last request.
        maps: how many were classified.
        received: bytes of its messages.
        sent: bytes of its answers.
    """

    def __init__(self, context: grpc.ServicerContext, *, method: str, caller: str, seconds: float) -> None:
        """Starts now; ``seconds`` is how long a request may take, ``caller`` the name of its token."""
        self.method = method
        self.caller = caller
        self.request_id = ""
        self.maps = self.received = self.sent = 0
        self.started = time.perf_counter()
        self._context = context
        self._seconds = seconds
        self._stages: defaultdict[str, list[float]] = defaultdict(list)

    @property
    def peer(self) -> str:
        """The address of the caller."""
        return str(self._context.peer())

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        """What the caller sent beside its messages."""
        return [(key, value) for key, value in self._context.invocation_metadata()]

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.perf_counter() - self.started

    @property
    def stages(self) -> dict[str, float]:
        """Stage -> seconds, summed over the cores."""
        return {stage: sum(times) for stage, times in self._stages.items()}

    def oversight(self, seen: Callable[[NDArray[np.uint8], NetAnswer], None]) -> tuple[float, Oversight]:
        """Seconds that a request which begins now has, and what watches it: it ends with the call or its time."""
        remaining = self._context.time_remaining()
        seconds = self._seconds if remaining is None else min(remaining, self._seconds)
        end = time.perf_counter() + seconds
        return seconds, Oversight(
            wanted=lambda: time.perf_counter() < end and bool(self._context.is_active()),
            spent=self.spent,
            seen=seen,
        )

    def spent(self, stage: str, seconds: float) -> None:
        """Adds to the time of a stage."""
        self._stages[stage].append(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spent(name, time.perf_counter() - started)
