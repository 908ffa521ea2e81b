"""One request on its way through the server: its deadline, its figures, and the time that each stage took."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray

from attention_patterns.classification import NetAnswer
from attention_patterns.classifier import Oversight
from attention_patterns_service.server.load import Holding


@dataclass(frozen=True)
class Caller:
    """The other end of a call.

    Attributes:
        name: Name of its access token; "" where the server asks for none.
        peer: Its address.
        certificate: Names in its certificate; empty where the server asks for none.
    """

    name: str = ""
    peer: str = ""
    certificate: tuple[str, ...] = ()


class Call:
    """One request on its way through the server, alone or one of a stream; shared by the threads that work on it.

    Attributes:
        method: Name of the method.
        caller: The other end.
        metadata: Metadata that came with the call, as pairs of key and value.
        holding: Bytes that it holds.
        deadline: Moment by which it must be answered, in seconds of ``time.perf_counter``.
        request_id: Id that the caller chose.
        place: First layer and first head of its chunk.
        maps: Number of maps or images to classify.
        received: Bytes of its message.
        sent: Bytes of its answer.
    """

    def __init__(
        self, context: grpc.ServicerContext, *, method: str, caller: Caller, seconds: float, holding: Holding
    ) -> None:
        """Starts the clock; from its message on the request may take ``seconds``, within the call's own deadline."""
        self.method = method
        self.caller = caller
        self.holding = holding
        self.request_id = ""
        self.place = (0, 0)
        self.maps = self.received = self.sent = 0
        self._context = context
        self._started = time.perf_counter()
        remaining = context.time_remaining()  # by a clock that may be set: asked once
        self._end = math.inf if remaining is None else self._started + remaining
        self._seconds = seconds
        self.deadline = self._end
        self._stages: defaultdict[str, list[float]] = defaultdict(list)

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        """Metadata that came with the call, as pairs of key and value."""
        return [(key, value) for key, value in self._context.invocation_metadata()]

    @property
    def elapsed(self) -> float:
        """Seconds since the request began."""
        return time.perf_counter() - self._started

    @property
    def stages(self) -> dict[str, float]:
        """Stage -> seconds, summed over the cores."""
        return {stage: sum(times) for stage, times in self._stages.items()}

    def begin_work(self, message: bytes) -> None:
        """Notes that the message came: from now on the request takes the server's time."""
        self.received = len(message)
        self.deadline = min(self._end, time.perf_counter() + self._seconds)

    def oversight(self, seen: Callable[[NDArray[np.uint8], NetAnswer], None]) -> Oversight:
        """Returns what times a classification and ends it at the deadline or with the call.

        Args:
            seen: Receives the images of each span of maps and the net's answer to them.
        """
        return Oversight(
            wanted=lambda: time.perf_counter() < self.deadline and bool(self._context.is_active()),
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
