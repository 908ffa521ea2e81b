"""The names in clients' certificates, of which some may be let in and others not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_patterns.errors import AuthenticationError

_NAMES = ("x509_common_name", "x509_subject_alternative_name")  # as gRPC calls them


@dataclass(frozen=True)
class ClientNames:
    """The names, in certificates of clients, that are let in; where there are none, every certificate is."""

    allowed: frozenset[str] = frozenset()

    def check(self, names: Sequence[str]) -> None:
        """Refuses a caller whose certificate has none of the names.

        Raises:
            AuthenticationError: It has none of them.
        """
        if self.allowed and self.allowed.isdisjoint(names):
            raise AuthenticationError(
                f"the certificate is for {', '.join(names) or 'nobody'!r:.200}, who is not let in"
            )


def names_in_certificate(authentication: Mapping[str, Iterable[Any]]) -> tuple[str, ...]:
    """Returns the names in a caller's certificate, from the authentication context of its call; none without one."""
    names = [name.decode(errors="replace") for kind in _NAMES for name in authentication.get(kind, ())]
    return tuple(dict.fromkeys(filter(None, names)))
