"""Signals as bytes of a file descriptor, so that a process waits for them and for other events in one place."""

import ctypes
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any, TypeVar

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_Result = TypeVar("_Result")


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


def work_until_signal(signals: int, work: Callable[[], _Result]) -> _Result:
    """Returns the result of ``work``, which may take for ever: SIGTERM and SIGINT end the process all the same.

    SIGHUP comes again afterwards. A thread of its own works: the main one would not run a handler before a function in
    C comes back.

    Args:
        signals: Descriptor of ``listen``.
        work: Function whose errors are raised here.
    """
    outcome: list[Any] = []
    reading, writing = os.pipe()

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001  raised below, on the main thread
            outcome.append(error)
        os.close(writing)

    Thread(target=run, name="work", daemon=True).start()
    pending = False
    while reading not in (ready := select.select([signals, reading], [], [])[0]) or signals in ready:
        if signals in ready:
            pending = next_signal(signals) is signal.SIGHUP
            if not pending:
                os._exit(0)  # in order, the process would come down under the feet of a thread that is busy in C++
    os.close(reading)
    if pending:
        os.kill(os.getpid(), signal.SIGHUP)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    result: _Result = outcome[0]
    return result


def end_at_latest_in(seconds: float) -> None:
    """Has the kernel end this process after so many seconds, whatever its threads do."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def end_with_parent(number: signal.Signals) -> None:
    """Has Linux send this process a signal when its parent dies, which would keep a port that nobody watches."""
    with suppress(OSError, AttributeError):  # another system
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
