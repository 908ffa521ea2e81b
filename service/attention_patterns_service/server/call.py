"""One call on its way through the server: its deadline, its figures, and the time that each stage took."""

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
    """One call on its way through the server; shared by the threads that work on it.

    Attributes:
        method: Name of the method.
        caller: Name of the caller's token; "" where the server asks for none.
        request_id: Id that the caller chose; of a stream, that of its last request.
        maps: Number of maps or images to classify.
        received: Bytes of its messages.
        sent: Bytes of its answers.
    """

    def __init__(self, context: grpc.ServicerContext, *, method: str, caller: str, seconds: float) -> None:
        """Starts the clock; each request of the call may take ``seconds``."""
        self.method = method
        self.caller = caller
        self.request_id = ""
        self.maps = self.received = self.sent = 0
        self._started = time.perf_counter()
        self._context = context
        self._seconds = seconds
        self._stages: defaultdict[str, list[float]] = defaultdict(list)

    @property
    def peer(self) -> str:
        """Address of the caller."""
        return str(self._context.peer())

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        """Metadata that came with the call, as pairs of key and value."""
        return [(key, value) for key, value in self._context.invocation_metadata()]

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.perf_counter() - self._started

    @property
    def stages(self) -> dict[str, float]:
        """Stage -> seconds, summed over the cores."""
        return {stage: sum(times) for stage, times in self._stages.items()}

    def deadline(self) -> float:
        """Returns when a request that begins now must be answered, in seconds of ``time.perf_counter``."""
        remaining = self._context.time_remaining()
        return time.perf_counter() + (self._seconds if remaining is None else min(remaining, self._seconds))

    def oversight(self, deadline: float, seen: Callable[[NDArray[np.uint8], NetAnswer], None]) -> Oversight:
        """Returns what times a classification and ends it at the deadline or with the call.

        Args:
            deadline: Seconds of ``time.perf_counter``.
            seen: Receives the images of each span of maps and the net's answer to them.
        """
        return Oversight(
            wanted=lambda: time.perf_counter() < deadline and bool(self._context.is_active()),
            spent=self.add_time,
            seen=seen,
        )

    def add_time(self, stage: str, seconds: float) -> None:
        """Adds to the time of a stage."""
        self._stages[stage].append(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add_time(name, time.perf_counter() - started)
