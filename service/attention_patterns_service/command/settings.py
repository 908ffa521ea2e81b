"""What ``attention-serve`` was told."""

from dataclasses import dataclass, field
from pathlib import Path

from attention_patterns.errors import InvalidSettingsError
from attention_patterns_service.limits import Limits

_LOCAL = ("127.", "localhost", "[::1]", "unix:")


@dataclass(frozen=True)
class Settings:
    """The effective configuration of a server process.

    Attributes:
        host: the interface to bind.
        port: the port; 0 takes a free one.
        model_dir: the model bundle; None is the bundled model.
        workers: processes that share the port.
        grace: seconds that calls in flight get to finish when the server stops.
        metrics_host: the interface of the metrics.
        metrics_port: the port of the metrics; None serves none.
        tls_cert: the server's certificate chain, PEM; None serves without TLS.
        tls_key: its key, PEM.
        tls_client_ca: who signs the certificates that clients must show; None asks for none.
        tokens: the file of tokens that callers must show; None asks for none.
        reflection: whether the server describes its methods.
        log_level: debug, info, warning or error.
        limits: what is taken on at a time.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    model_dir: Path | None = None
    workers: int = 1
    grace: float = 30.0
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    reflection: bool = False
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidSettingsError("--tls-cert and --tls-key belong together, expected both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise InvalidSettingsError("--tls-client-ca asks clients for certificates, expected --tls-cert with it")

    @property
    def warnings(self) -> list[str]:
        """What is dangerous about it."""
        if self.host.startswith(_LOCAL):
            return []
        open_to = f"the port on {self.host} is open to"
        found = []
        if not self.tokens and not self.tls_client_ca:
            found.append(f"{open_to} everyone who reaches it: --tokens or --tls-client-ca asks who calls")
        if not self.tls_cert:
            found.append(f"{open_to} everyone on the way, who can read what travels: --tls-cert encrypts it")
        return found
