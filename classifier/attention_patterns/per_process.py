"""Objects that own threads or connections: one per process, made anew after a fork."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

_Object = TypeVar("_Object")
_forks = 0  # between this process and the one that loaded this module


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  the state of the process, like its id
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class PerProcess(Generic[_Object]):
    """An object that each process makes when it first needs it; safe to share between threads.

    A forked process inherits objects without their threads, and whoever waits for those waits for ever. The inherited
    object is left as it is, since closing it would wait for them as well.
    """

    def __init__(self, make: Callable[[], _Object]) -> None:
        """Calls ``make`` on first use, and again in each forked process."""
        self._make = make
        self._made: dict[int, _Object] = {}

    def get(self) -> _Object:
        """Returns the object of this process."""
        made = self.get_made()
        return self._made.setdefault(_forks, self._make()) if made is None else made

    def get_made(self) -> _Object | None:
        """Returns the object of this process, or None where it was not needed yet."""
        return self._made.get(_forks)
