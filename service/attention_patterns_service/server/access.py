"""Who may call: bearer tokens from a file, known by their hash, each with its share of calls."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from attention_patterns.errors import AuthenticationError, RateLimitError, SourceError
from attention_patterns.programs.whole_files import write_whole

NOBODY = ""  # the caller where no token is asked for


class Access(Protocol):
    """Decides on a call by its metadata."""

    def admit(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Returns the name of the caller.

        Raises:
            AuthenticationError: The call shows no token, or one that is not known.
            RateLimitError: The token's share is used up.
        """

    def rate_of(self, caller: str) -> int | None:
        """Returns the calls per second that a caller of that name may make; None where they are not counted."""


class Open:
    """Lets everyone in."""

    def admit(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:  # noqa: ARG002
        """Returns the name of nobody in particular."""
        return NOBODY

    def rate_of(self, caller: str) -> int | None:  # noqa: ARG002
        """Returns None: calls are not counted."""
        return None


@dataclass(frozen=True)
class Token:
    """A token, without its characters.

    Attributes:
        name: Name of the caller that it was given to.
        sha256: SHA-256 of its characters, hexadecimal.
        calls_per_second: Calls per second that the caller may make, from 1.
    """

    name: str
    sha256: str
    calls_per_second: int


class Tokens:
    """Lets in callers that show a token of a file; read again by ``reload``."""

    def __init__(self, path: Path) -> None:
        """Reads the file, a JSON object {"tokens": [{"name", "sha256", "calls_per_second"}, ...]}.

        Raises:
            SourceError: The file cannot be read.
        """
        self._path = path
        self._tokens = _read(path)
        self._rates = MovingWindowRateLimiter(MemoryStorage())

    def reload(self) -> None:
        """Reads the file again; where that fails the tokens stay as they are.

        Raises:
            SourceError: The file cannot be read.
        """
        self._tokens = _read(self._path)

    def admit(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Returns the name of the token that the metadata shows."""
        shown = next((value for key, value in metadata or () if key == "authorization"), None)
        kind, _, secret = shown.partition(" ") if isinstance(shown, str) else ("", "", "")
        if kind.lower() != "bearer" or not secret:
            raise AuthenticationError("the call shows no token, expected metadata 'authorization: Bearer TOKEN'")
        digest = _digest(secret)
        # Every token is compared, and each in constant time: the time that it takes reveals nothing of the known ones.
        known = [token for token in self._tokens if hmac.compare_digest(token.sha256, digest)]
        if not known:
            raise AuthenticationError("the token is not known to the server, expected one of its token file")
        token = known[0]
        if not self._rates.hit(RateLimitItemPerSecond(token.calls_per_second), token.name):
            raise RateLimitError(
                f"{token.name} may make {token.calls_per_second} calls per second; call again later",
                name="calls_per_second",
                limit=token.calls_per_second,
            )
        return token.name

    def rate_of(self, caller: str) -> int | None:
        """Returns the calls per second that the token of that name may make; None where it was just revoked."""
        return next((token.calls_per_second for token in self._tokens if token.name == caller), None)


def add_token(path: Path, name: str, *, calls_per_second: int) -> str:
    """Adds a token to a file, in place of an earlier one of its name, and returns its characters.

    They are kept nowhere: the file holds their hash alone, and is readable by its owner alone.

    Raises:
        SourceError: The file exists and cannot be read.
        OSError: The file cannot be written.
    """
    secret = secrets.token_urlsafe(32)
    tokens = [token for token in (_read(path) if path.exists() else ()) if token.name != name]
    tokens.append(Token(name, _digest(secret), calls_per_second))
    write_whole(path, json.dumps({"tokens": [asdict(token) for token in tokens]}, indent=2) + "\n", mode=0o600)
    return secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(path: Path) -> tuple[Token, ...]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        tokens = tuple(
            Token(str(entry["name"]), str(entry["sha256"]).lower(), int(entry["calls_per_second"]))
            for entry in content["tokens"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"token file {path} cannot be read: {type(error).__name__} {error}") from error
    for token in tokens:
        if len(token.sha256) != 64 or token.calls_per_second < 1:
            raise SourceError(
                f"token file {path}: {token.name!r} has a sha256 of {len(token.sha256)} digits and "
                f"{token.calls_per_second} calls_per_second, expected 64 digits and at least 1 call"
            )
    if not tokens:
        raise SourceError(f"token file {path} holds no token, expected at least one: attention-serve token add")
    return tokens
