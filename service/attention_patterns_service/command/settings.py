"""The effective configuration of a server process."""

import enum
import os
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from attention_patterns.errors import InvalidSettingsError
from attention_patterns_service.limits import DAY, Limits, check_range
from attention_patterns_service.server.address import Address
from attention_patterns_service.server.tls import CertificateFiles

DEATH_SECONDS = 60.0  # time within which ``Settings.max_deaths`` workers may not die
_WORKERS_PER_CORE = 4  # beyond that they only take memory


class LogLevel(enum.StrEnum):
    """Severity of a log record."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Settings:
    """The effective configuration of a server process.

    Attributes:
        host: Interface to bind, or "unix:PATH" for a socket file.
        port: Port to bind; 0 takes a free one.
        model_dir: Folder of the model bundle; None for the bundled model.
        load_seconds: Time in which a bundle that is read again must be loaded and run, s.
        workers: Number of processes that share the port.
        max_deaths: Number of workers' deaths within ``DEATH_SECONDS`` at which the server gives up.
        grace: Time that calls in flight get to finish when the server stops, s.
        health_port: Port that answers health checks alone, without TLS; None for no such port.
        metrics_host: Interface of the metrics page.
        metrics_port: Port of the metrics page; None serves none.
        metrics_tls: Whether the metrics page is encrypted, by the server's certificate.
        metrics_tokens: File of the tokens that readers of the metrics page must show; None asks for none.
        tls_cert: Certificate chain of the server, PEM; None serves without TLS.
        tls_key: Private key of the certificate, PEM.
        tls_client_ca: Certificate of the authority that signs clients' certificates, PEM; None asks for none.
        tls_client_names: Names, in clients' certificates, that are let in; empty for all.
        tokens: File of the tokens that callers must show; None asks for none.
        reflection: Whether the server describes its methods.
        log_level: Least severe level that is logged, one of ``LogLevel``.
        limits: Limits of requests and of calls under way.

    Raises:
        InvalidSettingsError: A value makes no sense, or two of them do not fit together.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    model_dir: Path | None = None
    load_seconds: float = 60.0
    workers: int = 1
    max_deaths: int = 10
    grace: float = 30.0
    health_port: int | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    metrics_tls: bool = False
    metrics_tokens: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_client_names: tuple[str, ...] = ()
    tokens: Path | None = None
    reflection: bool = False
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_range("--grace", self.grace, most=DAY, zero=True)
        check_range("--workers", self.workers, most=_WORKERS_PER_CORE * len(os.sched_getaffinity(0)))
        if self.log_level not in list(LogLevel):
            raise InvalidSettingsError(f"--log-level is {self.log_level!r}, expected one of {', '.join(LogLevel)}")
        self._check_addresses()
        self._check_files()

    def _check_addresses(self) -> None:
        if self.address.socket_file and self.workers > 1:
            raise InvalidSettingsError(
                f"--workers is {self.workers} with --host {self.host}, expected 1: processes cannot share a socket file"
            )
        if self.metrics_address and self.metrics_address.socket_file:
            raise InvalidSettingsError(f"--metrics-host is {self.metrics_host}, expected an interface with a port")
        options = {"--port": self.address, "--metrics-port": self.metrics_address, "--health-port": self.health_address}
        addresses = [(option, address) for option, address in options.items() if address]
        for (first, one), (second, other) in combinations(addresses, 2):
            if other.collides_with(one):
                raise InvalidSettingsError(f"{second} and {first} are both {one.port}, expected two ports")

    def _check_files(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("--tls-key", "--tls-cert") if self.tls_cert is None else ("--tls-cert", "--tls-key")
            raise InvalidSettingsError(f"{given} is given without {missing}; expected both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise InvalidSettingsError("--tls-client-ca is given without --tls-cert and --tls-key; expected all three")
        if self.tls_client_names and not self.tls_client_ca:
            raise InvalidSettingsError("--tls-client-name is given without --tls-client-ca; expected both")
        if self.metrics_tls and not self.tls_cert:
            raise InvalidSettingsError("--metrics-tls is given without --tls-cert and --tls-key; expected all three")
        for option, value in (("--metrics-tls", self.metrics_tls), ("--metrics-tokens", self.metrics_tokens)):
            if value and self.metrics_port is None:
                raise InvalidSettingsError(f"{option} is given without --metrics-port; expected both or neither")

    @property
    def address(self) -> Address:
        """Address of the server."""
        return Address(self.host, self.port)

    @property
    def health_address(self) -> Address | None:
        """Address that answers health checks alone; None where there is none."""
        host = "127.0.0.1" if self.address.socket_file else self.host
        return None if self.health_port is None else Address(host, self.health_port)

    @property
    def metrics_address(self) -> Address | None:
        """Address of the metrics page; None where there is none."""
        return None if self.metrics_port is None else Address(self.metrics_host, self.metrics_port)

    @property
    def certificate(self) -> CertificateFiles | None:
        """Files of the server's certificate; None where it serves without TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return CertificateFiles(cert=self.tls_cert, key=self.tls_key, client_ca=self.tls_client_ca)

    @property
    def warnings(self) -> list[str]:
        """Sentences on what is dangerous about this configuration."""
        open_port = not self.address.is_local
        open_page = self.metrics_address is not None and not self.metrics_address.is_local
        dangers = (
            (
                open_port and not self.tokens and not self.tls_client_ca,
                f"everyone who reaches the port on {self.host} may call: --tokens or --tls-client-ca lets in only "
                "callers that are known",
            ),
            (
                open_port and not self.tls_cert,
                f"everyone on the way to the port on {self.host} can read the calls: --tls-cert encrypts them",
            ),
            (
                open_page and not self.metrics_tokens,
                f"everyone who reaches the metrics page on {self.metrics_host} can read it: --metrics-tokens lets in "
                "only readers that are known",
            ),
            (
                open_page and self.metrics_tokens is not None and not self.metrics_tls,
                f"everyone on the way to the metrics page on {self.metrics_host} can read the token that is shown "
                "there: --metrics-tls encrypts it",
            ),
        )
        return [sentence for exists, sentence in dangers if exists]
