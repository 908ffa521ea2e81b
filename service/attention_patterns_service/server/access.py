"""Who may call: bearer tokens from a file, known by their hash, each with its share of calls."""

import hmac
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pyrate_limiter import Duration, InMemoryBucket, Rate, RateItem

from attention_patterns.errors import AuthenticationError, RateLimitError, SourceError
from attention_patterns_service.server.token_file import digest_of, read_tokens, write_instant

NOBODY = ""  # the caller where no token is asked for


class Access(Protocol):
    """Decides on calls by their metadata."""

    def identify(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Returns the name of the caller.

        Raises:
            AuthenticationError: The call shows no token, or one that is not known or has expired.
        """

    def charge(self, name: str) -> None:
        """Takes one request from the share of a caller.

        Raises:
            RateLimitError: The share is used up.
        """

    def rate_of(self, caller: str) -> int | None:
        """Returns the calls per second that a caller of that name may make; None where they are not counted."""


class Open:
    """Lets everyone in."""

    def identify(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:  # noqa: ARG002
        """Returns the name of nobody in particular."""
        return NOBODY

    def charge(self, name: str) -> None:
        """Takes nothing."""

    def rate_of(self, caller: str) -> int | None:  # noqa: ARG002
        """Returns None: calls are not counted."""
        return None


class Tokens:
    """Lets in callers that show a token of a file; read again by ``reload``."""

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            SourceError: The file cannot be read, or holds no token.
        """
        self._path = path
        self._tokens = read_tokens(path)
        if not self._tokens:
            raise SourceError(f"token file {path} holds no token, expected at least one: attention-serve token add")
        self._shares: dict[tuple[str, int], Share] = {}

    def reload(self) -> None:
        """Reads the file again; where that fails the tokens stay as they are, and where it holds none nobody is let in.

        Raises:
            SourceError: The file cannot be read.
        """
        self._tokens = read_tokens(self._path)

    def identify(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Returns the name of the token that the metadata shows."""
        shown = next((value for key, value in metadata or () if key == "authorization"), None)
        kind, _, secret = shown.partition(" ") if isinstance(shown, str) else ("", "", "")
        if kind.lower() != "bearer" or not secret:
            raise AuthenticationError("the call shows no token, expected metadata 'authorization: Bearer TOKEN'")
        digest = digest_of(secret)
        # Every token is compared, and each in constant time: the time that it takes reveals nothing of the known ones.
        known = [token for token in self._tokens if hmac.compare_digest(token.sha256, digest)]
        if not known:
            raise AuthenticationError(
                f"the token with SHA-256 {digest[:8]}... is not known to the server, expected one of its token file"
            )
        token = known[0]
        if token.expires and token.is_expired():
            raise AuthenticationError(
                f"the token of {token.name} expired at {write_instant(token.expires)}; get another"
            )
        return token.name

    def charge(self, name: str) -> None:
        """Takes one request from the share of the caller of that name."""
        rate = self.rate_of(name) or 1  # of a token that was just revoked, the last one
        share = self._shares.setdefault((name, rate), Share(rate))
        if not share.take():
            raise RateLimitError(
                f"{name} may make {rate} calls per second; call again later", name="calls_per_second", limit=rate
            )

    def rate_of(self, caller: str) -> int | None:
        """Returns the calls per second that the caller of that name may make; None where it was just revoked."""
        return max((token.calls_per_second for token in self._tokens if token.name == caller), default=None)


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
