"""Calls that are repeated while the server is away or busy."""

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from attention_patterns.errors import DeadlineError, ServerError, UnreachableError

_BACKOFF = wait_random_exponential(multiplier=0.2, max=5)  # seconds; random, so that callers do not come back together
_Answer = TypeVar("_Answer")


class Retries:
    """The repetition of a call that may succeed later; every call may be repeated, since the server keeps nothing.

    A server that cannot be reached is tried for some seconds, a server that asks for patience until the deadline.
    Safe to share between threads.
    """

    def __init__(self, *, timeout: float | None, retry_seconds: float) -> None:
        """Repeats calls, all attempts within ``timeout`` seconds, and not at all where ``retry_seconds`` is 0."""
        self._timeout = timeout
        self._retry_seconds = retry_seconds
        self._retrying = Retrying(
            retry=retry_if_exception(_may_succeed_later), wait=_wait, stop=self._is_over, reraise=True
        )

    def call(self, attempt: Callable[[float | None], _Answer]) -> _Answer:
        """Returns what an attempt returns, which is given the seconds that are left; None: as many as it needs.

        Raises:
            ServerError: The last attempt failed.
        """
        started, before = time.monotonic(), None

        def attempt_in_time() -> _Answer:
            nonlocal before
            try:
                return attempt(None if self._timeout is None else max(0.0, started + self._timeout - time.monotonic()))
            except DeadlineError as error:
                raise DeadlineError(f"{error}; the attempt before: {before}" if before else str(error)) from error
            except ServerError as error:
                before = error
                raise

        return self._retrying(attempt_in_time)

    def _is_over(self, state: RetryCallState) -> bool:
        """Returns whether the next attempt would come too late."""
        spent = (state.seconds_since_start or 0.0) + state.upcoming_sleep
        if self._timeout is not None and spent >= self._timeout:
            return True
        return spent >= self._retry_seconds and (
            self._retry_seconds == 0 or isinstance(_error_of(state), UnreachableError)
        )


def _may_succeed_later(error: BaseException) -> bool:
    return isinstance(error, ServerError) and error.retry_after is not None


def _wait(state: RetryCallState) -> float:
    error = _error_of(state)
    asked = error.retry_after if isinstance(error, ServerError) else None
    return (asked or 0.0) + _BACKOFF(state)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
