"""The messages of a stream as they come: one is read ahead, and silence and age have an end."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Semaphore
from typing import NoReturn

import grpc

from attention_patterns.errors import DeadlineError
from attention_patterns_service.limits import Limits


class Incoming:
    """The messages of a stream, of which the next one is read while one is answered."""

    def __init__(self, messages: Iterator[bytes], readers: ThreadPoolExecutor, limits: Limits) -> None:
        """Begins to read ``messages`` on a thread of ``readers``."""
        self._limits = limits
        self._last_good_one = time.monotonic()
        self._end = self._last_good_one + limits.stream_seconds
        self._came: SimpleQueue[bytes | None] = SimpleQueue()
        self._room, self._closed = Semaphore(1), False  # for one message
        readers.submit(self._read, messages)

    def next(self) -> bytes | None:
        """Waits for the next message and returns it; None after the last.

        Raises:
            DeadlineError: None came in time, or the stream is too old.
        """
        last = min(self._last_good_one + self._limits.idle_seconds, self._end)
        try:
            message = self._came.get(timeout=max(0.0, last - time.monotonic()))
        except Empty:
            self._end_late()
        if time.monotonic() > last:
            self._end_late()
        self._room.release()
        return message

    def note_good_one(self) -> None:
        """Notes that a message was answered: others, which cost a caller nothing, are no sign of life."""
        self._last_good_one = time.monotonic()

    def close(self) -> None:
        """Has the reader end, at the latest with the call."""
        self._closed = True
        self._room.release()

    def _end_late(self) -> NoReturn:
        limits = self._limits
        if time.monotonic() >= self._end:
            raise DeadlineError(f"the stream has been open for {limits.stream_seconds:g} s, the longest; open another")
        raise DeadlineError(f"no request that could be answered came for {limits.idle_seconds:g} s")

    def _read(self, messages: Iterator[bytes]) -> None:
        with suppress(grpc.RpcError):  # the call ended
            while self._room.acquire() and not self._closed and (message := next(messages, None)) is not None:
                self._came.put(message)
                del message  # the one that is read next may be long in coming
        self._came.put(None)
