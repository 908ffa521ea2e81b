"""The metrics over HTTP, for Prometheus, beside the calls: few connections at a time, each for a few seconds."""

import socket
import sys
import time
from contextlib import suppress
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from threading import Condition, Thread
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from attention_patterns.errors import AttentionPatternsError, RateLimitError
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.server.access import Open, Tokens
from attention_patterns_service.server.logs import logger
from attention_patterns_service.server.tls import Certificates

_CONNECTIONS = 8  # at a time, each with a thread
_PAUSE = 0.1  # seconds after a connection that could not be taken: one that waits would be tried again at once


class _Handler(MetricsHandler):
    """One request for the metrics."""

    server: "MetricsPage"

    def setup(self) -> None:
        """Takes the registry of the page."""
        self.registry = self.server.registry
        super().setup()

    def do_GET(self) -> None:  # noqa: N802  named by http.server
        """Answers with the metrics those who may read them."""
        try:
            access = self.server.access
            access.charge(access.identify([(name.lower(), value) for name, value in self.headers.items()]))
        except AttentionPatternsError as error:
            self._refuse(error)
        else:
            self.server.keep(self.request)
            super().do_GET()

    def _refuse(self, error: AttentionPatternsError) -> None:
        limited = isinstance(error, RateLimitError)
        self.send_response(HTTPStatus.TOO_MANY_REQUESTS if limited else HTTPStatus.UNAUTHORIZED)
        self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        self.wfile.write(f"{error}\n".encode())


class MetricsPage(ThreadingMixIn, TCPServer):
    """A server of metrics over HTTP.

    Silent and slow connections keep nobody out: where there is no place left, the oldest one that has not asked makes
    way for the next.

    Attributes:
        registry: Registry of the metrics.
        access: Decides who may read them.
        seconds: Time after which a connection is cut, whatever it does; Prometheus waits as long by default.
    """

    seconds = 10.0
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        """Binds the address of the metrics.

        Raises:
            ServerError: The address cannot be bound.
            SourceError: The certificate or the token file cannot be read.
        """
        assert settings.metrics_address
        self.registry = registry
        self.access = Tokens(settings.metrics_tokens) if settings.metrics_tokens else Open()
        files = settings.certificate if settings.metrics_tls else None
        self._certificates = Certificates(files) if files else None
        self._begun: dict[socket.socket, float] = {}  # connections, oldest first
        self._kept: set[socket.socket] = set()
        self._ended = Condition()
        self.address_family, address = settings.metrics_address.resolve()[0]
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise settings.metrics_address.refusal(error) from error

    def reload(self) -> None:
        """Reads the tokens again; a broken file is refused, and those before it stay."""
        if isinstance(self.access, Tokens):
            try:
                self.access.reload()
            except AttentionPatternsError as error:
                logger.error("tokens of the metrics refused, those before them stay", extra={"error": str(error)})

    def get_request(self) -> tuple[socket.socket, Any]:
        """Takes a connection; the handshake of TLS is left to its thread."""
        try:
            connection, address = super().get_request()
        except OSError:  # no file is left
            time.sleep(_PAUSE)
            raise
        if self._certificates:
            connection = self._certificates.context().wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, once there is a place for it."""
        with self._ended:
            while len(self._begun) >= _CONNECTIONS:
                _cut(next((each for each in self._begun if each not in self._kept), None))
                self._ended.wait(_PAUSE)
                self._cut_overdue()
            self._begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def keep(self, request: Any) -> None:
        """Notes that a connection may stay until its time is over."""
        with self._ended:
            self._kept.add(request)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection and frees its place."""
        super().shutdown_request(request)
        with self._ended:
            self._begun.pop(request, None)
            self._kept.discard(request)
            self._ended.notify()

    def service_actions(self) -> None:
        """Cuts connections whose time is over; called twice a second."""
        with self._ended:
            self._cut_overdue()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Logs what failed, unless it is the connection, which the other end may break as it likes."""
        if not isinstance(sys.exception(), OSError):
            logger.exception("metrics page failed")

    def _cut_overdue(self) -> None:
        for request, begun in self._begun.items():
            if time.monotonic() - begun > self.seconds:
                _cut(request)


def _cut(connection: socket.socket | None) -> None:
    """Ends what a thread waits for at a connection; that of TLS has no say in it."""
    if connection:
        with suppress(OSError):  # the other end was faster
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def start_metrics_page(settings: Settings, registry: CollectorRegistry) -> MetricsPage | None:
    """Serves the metrics of ``registry`` on threads of its own, where the settings ask for it.

    Raises:
        ServerError: The address of the metrics cannot be bound.
        SourceError: The certificate or the token file cannot be read.
    """
    if settings.metrics_address is None:
        return None
    page = MetricsPage(settings, registry)
    Thread(target=page.serve_forever, name="metrics", daemon=True).start()
    return page
