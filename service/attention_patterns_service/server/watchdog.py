"""Ends calls whose message does not come or whose answer is not taken: they would hold their places for ever."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import grpc

_LOOK = 0.5  # seconds between two looks


class Watchdog:
    """Cancels calls that wait for their caller for longer than ``seconds``."""

    def __init__(self, seconds: float) -> None:
        """Watches once it is started."""
        self._seconds = seconds
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._stopped = Event()

    def start(self) -> None:
        """Looks from time to time, on a thread of its own, until ``stop``."""
        Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopped.set()

    @contextmanager
    def waiting(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Watches a call while it waits for its caller."""
        self.watch(context)
        try:
            yield
        finally:
            self.forget(context)

    def watch(self, context: grpc.ServicerContext) -> None:
        """Watches a call, which waits for its caller from now on."""
        self._waiting[context] = time.monotonic() + self._seconds

    def forget(self, context: grpc.ServicerContext) -> None:
        """Watches it no more."""
        self._waiting.pop(context, None)

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK):
            now = time.monotonic()
            for context in [context for context, end in list(self._waiting.items()) if now > end]:
                context.cancel()
                self.forget(context)
