"""Turns at running a model: several threads at once, each with a replica."""

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import LifoQueue
from typing import Any

CALLERS = 2  # that may run a model at once: one runs it while the other's images are read by the net


def make_replicas(model: Any) -> list[Any]:
    """Returns a torch module and copies that share its weights, each with hooks and passing state of its own."""
    weights = {id(values): values for values in model.parameters()}
    try:
        return [model, *(copy.deepcopy(model, dict(weights)) for _ in range(CALLERS - 1))]
    except (copy.Error, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError):
        return [model]  # some hold what cannot be copied: callers take turns then


class Turns:
    """The replicas of a model, handed out to one thread each. Safe to share between threads."""

    def __init__(self, replicas: Sequence[Any]) -> None:
        """Takes replicas of a model, each of which one thread may run at a time; the first is handed out first."""
        self._free: LifoQueue[Any] = LifoQueue()
        for replica in reversed(replicas):
            self._free.put(replica)
        self._counting = threading.Lock()
        self._callers = 0

    @property
    def callers(self) -> int:
        """The number of threads that are at work with the model now, between turns too."""
        return self._callers

    @contextmanager
    def caller(self) -> Iterator[None]:
        """Counts the calling thread while inside."""
        with self._counting:
            self._callers += 1
        try:
            yield
        finally:
            with self._counting:
                self._callers -= 1

    @contextmanager
    def turn(self) -> Iterator[Any]:
        """Waits for a replica, which is the caller's while inside."""
        replica = self._free.get()
        try:
            yield replica
        finally:
            self._free.put(replica)
