"""TLS of the server, from files that may be renewed while it serves."""

import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from attention_patterns.errors import SourceError
from attention_patterns.programs.outside_files import read_regular_file
from attention_patterns_service.server.logs import logger

_MOST_BYTES = 1 << 20
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for


@dataclass(frozen=True)
class CertificateFiles:
    """The PEM files of a server's certificate.

    Attributes:
        cert: Certificate chain of the server.
        key: Private key of the certificate.
        client_ca: Certificates of the authorities that sign clients' certificates; None asks clients for none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Returns the content of certificate, key and authority.

        Raises:
            SourceError: A file cannot be read.
        """
        try:
            authority = read_regular_file(self.client_ca, most=_MOST_BYTES) if self.client_ca else None
            cert, key = (read_regular_file(path, most=_MOST_BYTES) for path in (self.cert, self.key))
        except OSError as error:
            raise _unreadable(error.filename, error) from error
        except ValueError as error:
            raise SourceError(f"certificate file {error}") from error
        return cert, key, authority

    def context(self) -> ssl.SSLContext:
        """Returns the context of a server with the certificate, which asks clients for none.

        Raises:
            SourceError: The files hold no certificate with its key, or its time is over or has not come.
        """
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_authority(client, self.cert, "certificate")
        try:
            server.load_cert_chain(self.cert, self.key, password=self._refuse_password)
        except OSError as error:
            if not isinstance(error, ssl.SSLError):
                raise _unreadable(self.key, error) from error
            fault = "is of another certificate than" if "MISMATCH" in str(error) else "is no PEM private key for"
            raise SourceError(f"key file {self.key} {fault} {self.cert}") from error
        self._check_time(server, client)
        return server

    def check_client_ca(self) -> None:
        """Checks that the file of the authorities, if there is one, holds one that is good now.

        Raises:
            SourceError: It does not.
        """
        if self.client_ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            _load_authority(context, self.client_ca, "authority")
            try:
                authorities = context.get_ca_certs()
                faults = [_fault_of_time(authority) for authority in authorities]
            except (ssl.SSLError, ValueError) as error:
                raise _damaged("authority", self.client_ca) from error
            if authorities and all(faults):
                raise SourceError(f"authority file {self.client_ca} {faults[0]}")

    def _refuse_password(self) -> str:
        raise SourceError(f"key file {self.key} is encrypted; expected a key without a password")

    def _check_time(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        """Shows the certificate to a client that takes it as it is, since only a client of it sees its dates."""
        client.check_hostname = False
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        asking = client.wrap_bio(to_client, to_server)
        answering = server.wrap_bio(to_server, to_client, server_side=True)
        try:
            for end in (asking, answering, asking):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        except ssl.SSLError as error:
            raise SourceError(f"certificate file {self.cert} is refused by clients: {error}") from error
        try:
            fault = _fault_of_time(asking.getpeercert() or {})
        except (ssl.SSLError, ValueError) as error:
            raise _damaged("certificate", self.cert) from error
        if fault:
            raise SourceError(f"certificate file {self.cert} {fault}")


def _load_authority(context: ssl.SSLContext, path: Path, kind: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise SourceError(f"{kind} file {path} holds no PEM certificate") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"certificate file {path} cannot be read: {error.strerror}")


def _damaged(kind: str, path: Path) -> SourceError:
    return SourceError(f"{kind} file {path} holds a certificate whose dates or names cannot be read; make another")


def _fault_of_time(certificate: dict[str, Any]) -> str:
    """Returns what is wrong with the time of a certificate, as ``ssl`` describes it; nothing where it is good now."""
    begin, end = certificate["notBefore"], certificate["notAfter"]
    if time.time() > ssl.cert_time_to_seconds(end):
        return f"was good until {end}; renew it"
    return f"is good from {begin} on; is the clock right?" if time.time() < ssl.cert_time_to_seconds(begin) else ""


class Certificates:
    """The certificate of one port, read again for a handshake when a file has changed."""

    def __init__(self, files: CertificateFiles, on_renewal: Callable[[bool], None] = lambda _success: None) -> None:
        """Reads the files; ``on_renewal`` receives whether others, which came later, can serve.

        Raises:
            SourceError: A file cannot be read or cannot serve.
        """
        self._files = files
        self._on_renewal = on_renewal
        self._content = files.read()
        self._context = files.context()
        files.check_client_ca()
        self._refused = self._content  # the last content that cannot serve, logged once

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials of a gRPC port."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            lambda: self._configuration() if self._renew() else None,  # type: ignore[arg-type,return-value] # None: as before
            require_client_authentication=self._files.client_ca is not None,
        )

    def context(self) -> ssl.SSLContext:
        """Returns the context of a port that asks clients for no certificate."""
        self._renew()
        return self._context

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        cert, key, authority = self._content
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=authority)

    def _renew(self) -> bool:
        """Returns whether the files hold another certificate now, one that can serve; else the one before stays."""
        try:
            content = self._files.read()
        except SourceError:  # it is just being replaced
            return False
        if content in (self._content, self._refused):
            return False
        try:
            self._files.check_client_ca()
            self._context = self._files.context()
        except SourceError as error:
            self._refused = content
            logger.error("certificate refused, the one before it stays", extra={"error": str(error)})
            self._on_renewal(False)
            return False
        self._content = content
        self._on_renewal(True)
        return True
