"""Who may call: bearer tokens from a file, known by their hash, each with its share of calls."""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from pyrate_limiter import Duration, InMemoryBucket, Rate, RateItem

from attention_patterns.errors import AuthenticationError, RateLimitError, SourceError
from attention_patterns.programs.whole_files import write_whole

NOBODY = ""  # the caller where no token is asked for


class Access(Protocol):
    """Decides on calls by their metadata."""

    def identify(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Returns the name of the caller.

        Raises:
            AuthenticationError: The call shows no token, or one that is not known.
        """

    def charge(self, name: str) -> None:
        """Takes one request from the share of a caller.

        Raises:
            RateLimitError: The share is used up.
        """


class Open:
    """Lets everyone in."""

    def identify(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:  # noqa: ARG002
        """Returns the name of nobody in particular."""
        return NOBODY

    def charge(self, name: str) -> None:
        """Takes nothing."""


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
        self._shares: dict[tuple[str, int], Share] = {}

    def reload(self) -> None:
        """Reads the file again; where that fails the tokens stay as they are.

        Raises:
            SourceError: The file cannot be read.
        """
        self._tokens = _read(self._path)

    def identify(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Returns the name of the token that the metadata shows."""
        shown = next((value for key, value in metadata or () if key == "authorization"), None)
        kind, _, secret = shown.partition(" ") if isinstance(shown, str) else ("", "", "")
        if kind.lower() != "bearer" or not secret:
            raise AuthenticationError("the call shows no token, expected metadata 'authorization: Bearer TOKEN'")
        digest = _digest(secret)
        # Every token is compared, and each in constant time: the time that it takes reveals nothing of the known ones.
        known = [token for token in self._tokens if hmac.compare_digest(token.sha256, digest)]
        if not known:
            raise AuthenticationError(
                f"the token with SHA-256 {digest[:8]}... is not known to the server, expected one of its token file"
            )
        return known[0].name

    def charge(self, name: str) -> None:
        """Takes one request from the share of the token of that name."""
        rate = max((token.calls_per_second for token in self._tokens if token.name == name), default=1)
        share = self._shares.setdefault((name, rate), Share(rate))
        if not share.take():
            raise RateLimitError(f"{name} may make {rate} calls per second; call again later")


class Share:
    """The calls that a caller may make within any second, by a clock that nobody sets."""

    def __init__(self, calls_per_second: int) -> None:
        """Begins with all of them."""
        self._bucket = InMemoryBucket([Rate(calls_per_second, Duration.SECOND)])

    def take(self) -> bool:
        """Takes one, and returns whether there was one left."""
        now = time.monotonic_ns() // 1_000_000
        self._bucket.leak(now)
        return bool(self._bucket.put(RateItem("", now)))


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
