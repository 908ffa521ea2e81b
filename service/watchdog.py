"""Ends calls whose message does not come: who opens calls and stays silent would hold their places for ever."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import grpc

_LOOK = 0.5  # seconds between two looks


class Watchdog:
    """Cancels calls that wait for their message for longer than ``seconds``."""

    def __init__(self, seconds: float) -> None:
        """Watches once it is started."""
        self._seconds = seconds
        self._waiting: dict[int, tuple[float, grpc.ServicerContext]] = {}
        self._stopped = Event()

    def start(self) -> None:
        """Looks from time to time, on a thread of its own, until ``stop``."""
        Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopped.set()

    @contextmanager
    def waiting(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Watches a call while its message is awaited."""
        self._waiting[id(context)] = (time.monotonic() + self._seconds, context)
        try:
            yield
        finally:
            self._waiting.pop(id(context), None)

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK):
            now = time.monotonic()
            for end, context in list(self._waiting.values()):
                if now > end:
                    context.cancel()
