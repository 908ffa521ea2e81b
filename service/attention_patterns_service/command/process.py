"""One serving process: it loads, serves, reloads on SIGHUP, and ends on SIGTERM or SIGINT."""

import ctypes
import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry

from attention_patterns.errors import AttentionPatternsError
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.programs.temporary_folders import share_folder
from attention_patterns_service.command.metrics_page import start_metrics_page
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.command.signals import listen, next_signal
from attention_patterns_service.server.access import Open, Tokens
from attention_patterns_service.server.logs import logger, write_logs
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.server import AttentionServer
from attention_patterns_service.server.tls import Certificates

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def serve(settings: Settings, *, as_worker: bool = False, on_ready: Callable[[AttentionServer], None]) -> None:
    """Serves until SIGTERM or SIGINT, alone or as one worker of several behind one port.

    Raises:
        BundleError: The bundle is missing, damaged, or made for another rendering.
        SourceError: A certificate or the token file cannot be read.
        ServerError: The port, or that of the metrics, cannot be bound.
    """
    signals = listen(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    if as_worker:
        _end_with_parent()
        share_folder(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    metrics = Metrics(CollectorRegistry())
    write_logs(level=settings.log_level, on_drop=metrics.count_dropped_line)
    _keep_memory()
    access = Tokens(settings.tokens) if settings.tokens else Open()
    server = AttentionServer(
        load(settings),
        host=settings.host,
        port=settings.port,
        limits=settings.limits,
        access=access,
        credentials=credentials_of(settings),
        reflection=settings.reflection,
        shared_port=as_worker,
        metrics=metrics,
    )
    if not as_worker:  # the supervisor serves the metrics of all workers together
        start_metrics_page(settings, metrics.registry)
    for warning in settings.warnings:
        logger.warning(warning)
    gc.freeze()  # all that is loaded stays: the collector need not look at it again and again
    server.start()
    on_ready(server)
    while next_signal(signals) is signal.SIGHUP:
        _reload(server, settings, access)
    server.stop(grace=settings.grace)


def load(settings: Settings) -> PatternClassifier:
    """Loads the classifier, ready for its first call.

    Workers have the cores twice over: one alone at work uses more than its share, and all of them little more.

    Raises:
        BundleError: The bundle is missing, damaged, or made for another rendering.
    """
    cores = len(os.sched_getaffinity(0))
    threads = max(1, min(cores, 2 * cores // settings.workers))
    classifier = PatternClassifier.load(settings.model_dir, threads=threads)
    classifier.warm_up()
    return classifier


def credentials_of(settings: Settings) -> grpc.ServerCredentials | None:
    """Returns the credentials of the server's port; None where it serves without TLS.

    Raises:
        SourceError: A file cannot be read.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificates(cert=settings.tls_cert, key=settings.tls_key, client_ca=settings.tls_client_ca).credentials()


def _reload(server: AttentionServer, settings: Settings, access: Open | Tokens) -> None:
    """Reads bundle and tokens again; a broken one is refused, and the one before it stays."""
    try:
        classifier = load(settings)
        server.replace(classifier)
        logger.info("model loaded", extra={"model": classifier.model, "sha256": classifier.bundle.sha256})
    except AttentionPatternsError as error:
        logger.error("model refused, the one before it stays", extra={"error": str(error)})
    if isinstance(access, Tokens):
        try:
            access.reload()
        except AttentionPatternsError as error:
            logger.error("tokens refused, those before them stay", extra={"error": str(error)})


def _end_with_parent() -> None:
    """Has Linux end this worker when its supervisor dies: it would keep the port, and nobody would watch it."""
    with suppress(OSError, AttributeError):  # another system
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _keep_memory() -> None:
    """Has glibc keep freed memory: given back and asked for again, each message costs a page fault per 4 KB."""
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 512 << 20)
