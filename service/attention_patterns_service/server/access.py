"""Who may call: bearer tokens from a file, known by their hash, each with its share of calls.

``python -m attention_patterns_service.server.access TOKENS NAME`` makes a token.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from attention_patterns.errors import AuthenticationError, RateLimitError, SourceError

NOBODY = ""  # the caller where no token is asked for


class Access(Protocol):
    """Decides on a call by its metadata."""

    def admit(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """The name of the caller.

        Raises:
            AuthenticationError: the call has no token that is known.
            RateLimitError: the token's share is used up.
        """


class Open:
    """Lets everyone in."""

    def admit(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:  # noqa: ARG002
        """Nobody in particular."""
        return NOBODY


@dataclass(frozen=True)
class Token:
    """A token: whose it is, the SHA-256 of its characters in hexadecimal, and calls a second."""

    name: str
    sha256: str
    calls_per_second: int


class Tokens:
    """Lets in who shows a token of a file; read again by ``reload``."""

    def __init__(self, path: Path) -> None:
        """Reads the file, a JSON object {"tokens": [{"name", "sha256", "calls_per_second"}, ...]}.

        Raises:
            SourceError: it cannot be read.
        """
        self._path = path
        self._tokens = _read(path)
        self._rates = MovingWindowRateLimiter(MemoryStorage())

    def reload(self) -> None:
        """Reads the file again; where that fails the tokens stay as they are.

        Raises:
            SourceError: it cannot be read.
        """
        self._tokens = _read(self._path)

    def admit(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """The name of the token that the metadata shows."""
        shown = next((value for key, value in metadata or () if key == "authorization"), None)
        kind, _, secret = shown.partition(" ") if isinstance(shown, str) else ("", "", "")
        if kind.lower() != "bearer" or not secret:
            raise AuthenticationError("the call shows no token, expected metadata 'authorization: Bearer TOKEN'")
        found = hashlib.sha256(secret.encode()).hexdigest()
        # Every token is compared, and each in constant time: how long it takes tells nothing of what is known.
        known = [token for token in self._tokens if hmac.compare_digest(token.sha256, found)]
        if not known:
            raise AuthenticationError("the token is not known")
        token = known[0]
        if not self._rates.hit(RateLimitItemPerSecond(token.calls_per_second), token.name):
            raise RateLimitError(f"{token.name} may make {token.calls_per_second} calls a second")
        return token.name


def _read(path: Path) -> tuple[Token, ...]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        tokens = tuple(
            Token(str(one["name"]), str(one["sha256"]).lower(), int(one["calls_per_second"]))
            for one in content["tokens"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"token file {path} cannot be read: {type(error).__name__} {error}") from error
    for token in tokens:
        if len(token.sha256) != 64 or token.calls_per_second < 1:
            raise SourceError(
                f"token file {path}: {token.name!r} needs a sha256 of 64 digits and calls_per_second from 1"
            )
    if not tokens:
        raise SourceError(f"token file {path} holds no token, expected at least one")
    return tokens


def new_token(
    path: Annotated[Path, typer.Argument(help="The token file; made if it is not there.")],
    name: Annotated[str, typer.Argument(help="Whose it is; a token of that name is replaced.")],
    calls_per_second: Annotated[int, typer.Option(help="Its share of calls.", min=1)] = 100,
) -> None:
    """Adds a token to a file and prints it, once: the file keeps only its hash."""
    secret = secrets.token_urlsafe(32)
    kept = [token for token in (_read(path) if path.exists() else ()) if token.name != name]
    kept.append(Token(name, hashlib.sha256(secret.encode()).hexdigest(), calls_per_second))
    partial = path.with_name(path.name + ".partial")
    partial.touch(mode=0o600)
    partial.write_text(json.dumps({"tokens": [asdict(token) for token in kept]}, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    typer.echo(secret)


if __name__ == "__main__":
    typer.run(new_token)
