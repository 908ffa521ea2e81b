"""TLS of the server, from files that may be renewed while it serves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from attention_patterns.errors import AuthenticationError, SourceError

_NAMES = ("x509_common_name", "x509_subject_alternative_name")  # as gRPC calls them


class Certificates:
    """Certificate, key and the clients' authority, read again for a handshake when a file has changed."""

    def __init__(self, *, cert: Path, key: Path, client_ca: Path | None) -> None:
        """Reads the files.

        Raises:
            SourceError: A file cannot be read.
        """
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._seen: tuple[bytes, ...] = ()
        self._first = self._read_configuration()

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials of the server's port."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._read_if_renewed,  # type: ignore[arg-type] # None is allowed and means: as before
            require_client_authentication=self._client_ca is not None,
        )

    def _read_if_renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the files' content where it is new; None keeps the one before, also where a file cannot be read."""
        try:
            before, configuration = self._seen, self._read_configuration()
        except SourceError:
            return None
        return configuration if self._seen != before else None

    def _read_configuration(self) -> grpc.ServerCertificateConfiguration:
        try:
            cert, key = self._cert.read_bytes(), self._key.read_bytes()
            authority = self._client_ca.read_bytes() if self._client_ca else None
        except OSError as error:
            raise SourceError(f"certificate file {error.filename} cannot be read: {error.strerror}") from error
        self._seen = (cert, key, authority or b"")
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=authority)


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
