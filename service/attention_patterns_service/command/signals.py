"""Signals as bytes of a file descriptor, so that a process waits for them and for other events in one place."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def listen(*numbers: signal.Signals) -> int:
    """Returns a file descriptor that each of these signals writes its number to, as one byte.

    A handler in Python runs in the main thread once that comes back from waiting: a signal that comes just before it
    waits, or to a thread of a library, would only be seen together with the next one. Signals that were blocked until
    now come first.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    return reading


def next_signal(descriptor: int) -> signal.Signals:
    """Waits for the next signal that ``listen``'s descriptor reports, and returns it."""
    return signal.Signals(os.read(descriptor, 1)[0])


@contextmanager
def blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Holds these signals back until the end of the context; processes started inside begin with them held back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
