"""Problems that would keep a server from starting, each found by trying what the start does."""

import os
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from attention_patterns.bundle import ModelBundle
from attention_patterns.errors import AttentionPatternsError, InvalidSettingsError, ServerError
from attention_patterns.programs.extras import name_missing_extra
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.limits import OTHER_FILES
from attention_patterns_service.server.access import Tokens
from attention_patterns_service.server.traces import ENDPOINT

_FIGURES = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True)
class Trial:
    """The outcome of trying one thing that a server needs.

    Attributes:
        succeeded: Whether the server can have it.
        sentence: What was tried, or what is wrong and what was expected.
    """

    succeeded: bool
    sentence: str


def try_settings(settings: Settings) -> Iterator[Trial]:
    """Yields the outcome of trying each thing that a server with these settings needs; all are tried."""
    for attempt in _ATTEMPTS:
        try:
            sentence = attempt(settings)
        except (AttentionPatternsError, OSError) as error:
            yield Trial(succeeded=False, sentence=str(error))
        else:
            if sentence:
                yield Trial(succeeded=True, sentence=sentence)


def refuse_problems(settings: Settings) -> None:
    """Refuses settings that no server can start with.

    Raises:
        InvalidSettingsError: Something cannot be had; the message holds one line for each such thing.
    """
    problems = [trial.sentence for trial in try_settings(settings) if not trial.succeeded]
    if problems:
        raise InvalidSettingsError("\n".join(problems))


def _read_bundle(settings: Settings) -> str:
    bundle = ModelBundle.read(settings.model_dir)
    return f"model bundle of {bundle.name} {bundle.version} read"


def _bind_address(settings: Settings) -> str:
    settings.address.check_free()
    return f"{settings.address} can be bound"


def _bind_health_address(settings: Settings) -> str | None:
    if settings.health_address is None:
        return None
    settings.health_address.check_free()
    return f"health checks at {settings.health_address} can be bound"


def _bind_metrics_address(settings: Settings) -> str | None:
    if settings.metrics_address is None:
        return None
    try:
        settings.metrics_address.check_free()
    except ServerError as error:
        raise ServerError(f"the metrics page on {error}; choose another --metrics-port") from error
    return f"the metrics page on {settings.metrics_address} can be bound"


def _read_certificate(settings: Settings) -> str | None:
    if settings.certificate is None:
        return None
    settings.certificate.context()
    return "certificate and key fit, and are good now"


def _read_client_ca(settings: Settings) -> str | None:
    if settings.certificate is None or settings.certificate.client_ca is None:
        return None
    settings.certificate.check_client_ca()
    return "authority of the clients' certificates read"


def _read_tokens(settings: Settings) -> str | None:
    return _read_token_file(settings.tokens)


def _read_metrics_tokens(settings: Settings) -> str | None:
    return _read_token_file(settings.metrics_tokens)


def _read_token_file(path: Path | None) -> str | None:
    if path is None:
        return None
    Tokens(path)
    return f"token file {path} read"


def _count_open_files(settings: Settings) -> str:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = settings.limits.connections
    if files != resource.RLIM_INFINITY and files < connections + OTHER_FILES:
        raise InvalidSettingsError(
            f"the process may open {files:,} files (ulimit -n), expected at least {connections + OTHER_FILES:,} for "
            f"{connections:,} connections"
        )
    return f"open files leave room for {connections:,} connections"


def _import_traces(settings: Settings) -> str | None:  # noqa: ARG001  the environment decides
    if ENDPOINT not in os.environ:
        return None
    with name_missing_extra("traces", needed_by=ENDPOINT):
        import_module("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
        import_module("opentelemetry.sdk.trace")
    return "the packages for traces are installed"


def _write_figures(settings: Settings) -> str | None:
    """Writes where the metrics of workers meet; of a single process that is only where the environment says so."""
    folder = tempfile.gettempdir() if settings.workers > 1 else os.environ.get(_FIGURES)
    if folder is None:
        return None
    try:
        with tempfile.TemporaryFile(dir=folder):
            return f"folder {folder} of the metrics can be written"
    except OSError as error:
        raise OSError(f"folder {folder} of the metrics cannot be written: {error.strerror}") from error


_ATTEMPTS = (
    _read_bundle,
    _bind_address,
    _bind_health_address,
    _count_open_files,
    _read_certificate,
    _read_client_ca,
    _read_tokens,
    _bind_metrics_address,
    _read_metrics_tokens,
    _import_traces,
    _write_figures,
)
