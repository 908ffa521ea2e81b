"""The effective configuration of a server process."""

from dataclasses import dataclass, field
from pathlib import Path

from attention_patterns.errors import InvalidSettingsError
from attention_patterns_service.limits import Limits

DEATH_SECONDS = 60.0  # time within which ``Settings.max_deaths`` workers may not die
_LOCAL = ("127.", "localhost", "[::1]", "unix:")


@dataclass(frozen=True)
class Settings:
    """The effective configuration of a server process.

    Attributes:
        host: Interface to bind.
        port: Port to bind; 0 takes a free one.
        model_dir: Folder of the model bundle; None for the bundled model.
        load_seconds: Time in which a bundle that is read again must be loaded and run, s.
        workers: Number of processes that share the port.
        max_deaths: Number of workers' deaths within ``DEATH_SECONDS`` at which the server gives up.
        grace: Time that calls in flight get to finish when the server stops, s.
        health_port: Port that answers health checks alone, without TLS; None for no such port.
        metrics_host: Interface of the metrics page.
        metrics_port: Port of the metrics page; None serves none.
        tls_cert: Certificate chain of the server, PEM; None serves without TLS.
        tls_key: Private key of the certificate, PEM.
        tls_client_ca: Certificate of the authority that signs clients' certificates, PEM; None asks for none.
        tls_client_names: Names, in clients' certificates, that are let in; empty for all.
        tokens: File of the tokens that callers must show; None asks for none.
        reflection: Whether the server describes its methods.
        log_level: Least severe level that is logged: debug, info, warning or error.
        limits: Limits of requests and of calls under way.
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
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_client_names: tuple[str, ...] = ()
    tokens: Path | None = None
    reflection: bool = False
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("--tls-key", "--tls-cert") if self.tls_cert is None else ("--tls-cert", "--tls-key")
            raise InvalidSettingsError(f"{given} is given without {missing}; expected both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise InvalidSettingsError("--tls-client-ca is given without --tls-cert and --tls-key; expected all three")

        if self.tls_client_names and not self.tls_client_ca:
            raise InvalidSettingsError("--tls-client-name is given without --tls-client-ca; expected both")

    @property
    def warnings(self) -> list[str]:
        """Sentences on what is dangerous about this configuration."""
        if self.host.startswith(_LOCAL):
            return []
        sentences = []
        if not self.tokens and not self.tls_client_ca:
            sentences.append(
                f"everyone who reaches the port on {self.host} may call: --tokens or --tls-client-ca lets in only "
                "callers that are known"
            )
        if not self.tls_cert:
            sentences.append(
                f"everyone on the way to the port on {self.host} can read the calls: --tls-cert encrypts them"
            )
        return sentences
