"""The token file: a JSON object of tokens, each known by its hash, with the caller it was given to and its end.

{"tokens": [{"name": "alice", "sha256": "...", "calls_per_second": 100, "expires": "2027-01-31T00:00:00Z"}, ...]}

A caller may have several tokens at a time, so that a new one can take over from another. The file holds no secret, and
is still for its owner alone.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attention_patterns.errors import SourceError
from attention_patterns.programs.foreign_text import visible
from attention_patterns.programs.outside_files import JsonObject
from attention_patterns.programs.whole_files import write_whole

MOST_CALLS_PER_SECOND = 1_000_000
_LONGEST_NAME = 100  # characters
_LONGEST_FILE = 1 << 20  # bytes: some 6,000 tokens
_DEFAULT_CALLS_PER_SECOND = 100
_INSTANT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Token:
    """A token, without its characters.

    Attributes:
        name: Name of the caller that it was given to, of 1 to 100 characters that are all drawn.
        sha256: SHA-256 of its characters, 64 hexadecimal digits in lower case.
        calls_per_second: Calls per second that the caller may make, from 1.
        expires: Time from which it is refused, UTC; None for a token that is good until it is removed.
    """

    name: str
    sha256: str
    calls_per_second: int
    expires: datetime | None = None

    def is_expired(self) -> bool:
        """Returns whether its end has come, by the wall clock, as people write it."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


def digest_of(secret: str) -> str:
    """Returns the hash by which a token is known."""
    return hashlib.sha256(secret.encode()).hexdigest()


def write_instant(instant: datetime) -> str:
    """Returns a time in UTC as the file holds it, such as 2027-01-31T00:00:00Z."""
    return instant.strftime(_INSTANT)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Reads the tokens of a file, perhaps none.

    Raises:
        SourceError: It cannot be read, or holds anything but tokens.
    """
    try:
        return _tokens_of(JsonObject.read(path, most=_LONGEST_FILE))
    except (OSError, ValueError) as error:
        raise SourceError(f"token file {path} cannot be read: {error}") from error


def add_token(
    path: Path,
    name: str,
    *,
    calls_per_second: int | None = None,
    expires: datetime | None = None,
    overlap: timedelta = timedelta(0),
) -> str:
    """Adds a token to a file and returns its characters, which are kept nowhere: the file holds their hash alone.

    Args:
        path: Path of the file; created if it does not exist.
        name: Name of the caller.
        calls_per_second: Calls per second of the caller, over all of its tokens; by default as before, 100 at first.
        expires: Time from which the token is refused; by default it has no end.
        overlap: Time for which earlier tokens of the caller stay good, where they do not end sooner.

    Raises:
        SourceError: The file exists and cannot be read, or the name cannot be that of a caller.
        OSError: The file cannot be written.
    """
    secret, until = secrets.token_urlsafe(32), datetime.now(UTC) + overlap

    def add(tokens: Sequence[Token]) -> list[Token]:
        earlier = [token for token in tokens if token.name == name]
        rate = calls_per_second or (earlier[0].calls_per_second if earlier else _DEFAULT_CALLS_PER_SECOND)
        kept = [
            replace(token, calls_per_second=rate, expires=min(token.expires or until, until))
            for token in earlier
            if overlap and not token.is_expired()
        ]
        new = Token(name, digest_of(secret), rate, expires)
        try:
            _token_of(JsonObject(_entry_of(new)))
        except ValueError as error:
            raise SourceError(f"the new token's {error}") from error
        return [*(token for token in tokens if token.name != name), *kept, new]

    _change(path, add)
    return secret


def remove_tokens(path: Path, name: str) -> int:
    """Removes the tokens of a caller from a file, and returns their number.

    Raises:
        SourceError: The file cannot be read, or holds no token of that name.
        OSError: The file cannot be written.
    """
    removed = list[Token]()

    def remove(tokens: Sequence[Token]) -> list[Token]:
        removed.extend(token for token in tokens if token.name == name)
        if not removed:
            names = ", ".join(dict.fromkeys(token.name for token in tokens)) or "none"
            raise SourceError(f"token file {path} holds no token of {name!r}; its names: {names}")
        return [token for token in tokens if token.name != name]

    _change(path, remove)
    return len(removed)


def _change(path: Path, change: Callable[[Sequence[Token]], Sequence[Token]]) -> None:
    path = path.resolve()  # a link stays, and leads to the new content
    with _one_at_a_time(path.parent):
        tokens = change(read_tokens(path) if path.exists() else ())
        content = json.dumps({"tokens": [_entry_of(token) for token in tokens]}, indent=2)
        write_whole(path, f"{content}\n", mode=0o600, keep_owner=True)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Has two commands that change a file of the folder at once do so one after the other, so that neither is lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _entry_of(token: Token) -> dict[str, Any]:
    entry = {"name": token.name, "sha256": token.sha256, "calls_per_second": token.calls_per_second}
    return entry | ({"expires": write_instant(token.expires)} if token.expires else {})


def _tokens_of(content: JsonObject) -> tuple[Token, ...]:
    _refuse_others(content, {"tokens"})
    tokens = list[Token]()
    for n, entry in enumerate(content.objects("tokens")):
        try:
            tokens.append(_token_of(entry))
        except ValueError as error:
            raise ValueError(f"of tokens[{n}] {error}") from error
    known, rates = dict[str, int](), dict[str, int]()
    for n, token in enumerate(tokens):
        if (first := known.setdefault(token.sha256, n)) != n:
            raise ValueError(f"tokens[{n}] has the sha256 of tokens[{first}], expected another")
        if (rate := rates.setdefault(token.name, token.calls_per_second)) != token.calls_per_second:
            both = f"{rate} and {token.calls_per_second}"
            raise ValueError(f"tokens of {token.name} have {both} calls_per_second, expected one rate")
    return tuple(tokens)


def _token_of(entry: JsonObject) -> Token:
    _refuse_others(entry, {"name", "sha256", "calls_per_second", "expires"})
    return Token(
        entry.text("name", longest=_LONGEST_NAME),
        entry.sha256("sha256"),
        entry.integer("calls_per_second", least=1, most=MOST_CALLS_PER_SECOND),
        entry.instant("expires"),
    )


def _refuse_others(entry: JsonObject, fields: set[str]) -> None:
    """Refuses fields that are not known: of a token with "expire", nobody would notice that it has no end."""
    if others := set(entry.values) - fields:
        raise ValueError(
            f"the field {visible(min(others), longest=40)!r} is not known, expected {', '.join(sorted(fields))}"
        )
