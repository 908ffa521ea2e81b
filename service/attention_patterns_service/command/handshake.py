"""The handshake by which a worker proves to its supervisor that it serves.

The supervisor hands each worker the writing end of a pipe, and in the environment, which other users cannot read, the
pipe's number and a nonce. The worker writes nonce and port into the pipe once it serves. Its standard output proves
nothing, since any library may print there.
"""

import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from attention_patterns.errors import InvalidSettingsError, ServerError

_VARIABLE = "ATTENTION_SERVE_HANDSHAKE"  # in the environment of a worker: FILE_DESCRIPTOR:NONCE


class Handshake:
    """The supervisor's side of the handshake with one worker.

    Attributes:
        reading: File descriptor to wait at for the worker's message.
        writing: File descriptor to hand to the worker.
        variables: Environment variables to hand to the worker.
        is_open: Whether anything may come yet.
    """

    def __init__(self, port: int) -> None:
        """Opens the pipe for a worker that is to serve on ``port``."""
        nonce = secrets.token_hex(16)
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.variables = {_VARIABLE: f"{self.writing}:{nonce}"}
        self.is_open = True
        self._expected, self._received = _message(nonce, port), b""

    def close_workers_end(self) -> None:
        """Closes the worker's end here, so that the pipe ends with the worker."""
        os.close(self.writing)

    def is_complete(self) -> bool:
        """Reads what has come by now, and returns whether it is the message of a worker that serves.

        Raises:
            ServerError: Something else came.
        """
        if not self.is_open:
            return False
        with suppress(BlockingIOError):
            data = os.read(self.reading, len(self._expected) + 1)
            self._received += data
            self.is_open = bool(data)  # a worker that dies before it serves only closes the pipe
        if not self._expected.startswith(self._received):
            raise ServerError("the message on the pipe is not the one that the worker was given")
        return hmac.compare_digest(self._received, self._expected)

    def close(self) -> None:
        """Closes the supervisor's end."""
        os.close(self.reading)


@dataclass(frozen=True)
class Supervisor:
    """The process above a worker, as the worker sees it."""

    descriptor: int
    nonce: str

    @classmethod
    def of_this_process(cls) -> Self | None:
        """Returns the supervisor that started this process as a worker; None where none did.

        Raises:
            InvalidSettingsError: The variable for the handshake was set by somebody else.
        """
        given = os.environ.pop(_VARIABLE, None)
        if given is None:
            return None
        descriptor, _, nonce = given.partition(":")
        if not descriptor.isdecimal() or not nonce:
            raise InvalidSettingsError(f"{_VARIABLE} is {given!r}; workers alone are given it: unset it")
        return cls(int(descriptor), nonce)

    def report(self, port: int) -> None:
        """Reports that this worker serves on ``port``.

        Raises:
            ServerError: The supervisor does not listen any more.
        """
        try:
            with os.fdopen(self.descriptor, "wb") as pipe:
                pipe.write(_message(self.nonce, port))
        except OSError as error:
            raise ServerError(f"the supervisor of this worker is gone: {error.strerror}") from error


def _message(nonce: str, port: int) -> bytes:
    return f"{nonce} {port}\n".encode()
