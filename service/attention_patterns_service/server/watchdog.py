"""The watchdog: it ends calls that wait too long for their caller, and reports that gRPC's own thread has died."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

import grpc

_PERIOD = 0.5  # seconds between two rounds


class Watchdog:
    """A thread that cancels the calls which wait for their caller for longer than ``seconds``.

    They would keep their places. It also calls ``on_death`` once a thread that it guards is dead: without gRPC's own,
    the server takes no call any more, and would not notice.
    """

    def __init__(self, seconds: float, *, on_death: Callable[[], None]) -> None:
        """Takes the seconds that a call may wait; nothing happens before ``start``."""
        self._seconds = seconds
        self._on_death = on_death
        self._guarded: Sequence[Thread] = ()
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._stopped = Event()

    def start(self) -> None:
        """Starts the thread, which runs until ``stop``."""
        Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()

    def guard(self, threads: Sequence[Thread]) -> None:
        """Watches these threads, and no others, from now on."""
        self._guarded = threads

    @contextmanager
    def waiting(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Watches a call inside, while it waits for its caller."""
        self.watch(context)
        try:
            yield
        finally:
            self.forget(context)

    def watch(self, context: grpc.ServicerContext) -> None:
        """Starts to watch a call, which waits for its caller from now on."""
        self._waiting[context] = time.monotonic() + self._seconds

    def forget(self, context: grpc.ServicerContext) -> None:
        """Stops watching a call."""
        self._waiting.pop(context, None)

    def _run(self) -> None:
        while not self._stopped.wait(_PERIOD):
            if not all(thread.is_alive() for thread in self._guarded):
                self._guarded = ()
                self._on_death()
            now = time.monotonic()
            for context in [context for context, end in list(self._waiting.items()) if now > end]:
                context.cancel()
                self.forget(context)
