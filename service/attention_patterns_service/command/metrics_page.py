"""The metrics over HTTP, for Prometheus."""

from prometheus_client import CollectorRegistry, start_http_server

from attention_patterns.errors import ServerError
from attention_patterns_service.command.settings import Settings


def start_metrics_page(settings: Settings, registry: CollectorRegistry) -> None:
    """Serves the metrics of ``registry`` on a thread of its own, where the settings ask for it.

    Raises:
        ServerError: The port of the metrics cannot be bound.
    """
    if settings.metrics_port is None:
        return
    try:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        address = f"{settings.metrics_host}:{settings.metrics_port}"
        raise ServerError(
            f"the metrics page on {address} cannot be bound: {error.strerror}; choose another --metrics-port"
        ) from error
