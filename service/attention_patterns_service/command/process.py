"""One serving process: it loads, serves, reloads on SIGHUP, and ends on SIGTERM or SIGINT."""

import ctypes
import gc
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry

from attention_patterns.programs.temporary_folders import share_folder
from attention_patterns_service.command.metrics_page import start_metrics_page
from attention_patterns_service.command.problems import refuse_problems
from attention_patterns_service.command.reload import Reloader, load
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.command.signals import (
    end_at_latest_in,
    end_with_parent,
    listen,
    next_signal,
    work_until_signal,
)
from attention_patterns_service.server.access import Open, Tokens
from attention_patterns_service.server.client_names import ClientNames
from attention_patterns_service.server.logs import logger, write_logs
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.server import AttentionServer
from attention_patterns_service.server.tls import Certificates

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LAST = 5.0  # seconds beyond the grace after which the process ends, whatever its threads do


def serve(settings: Settings, *, as_worker: bool = False, on_ready: Callable[[AttentionServer], None]) -> None:
    """Serves until SIGTERM or SIGINT, alone or as one worker of several behind one port.

    Raises:
        InvalidSettingsError: Something that the server needs cannot be had.
        BundleError: The net of the bundle cannot be run.
    """
    signals = listen(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    if as_worker:
        end_with_parent(signal.SIGTERM)
        share_folder(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    else:  # of workers the supervisor has tried it
        refuse_problems(settings)
    metrics = Metrics(CollectorRegistry())
    write_logs(level=settings.log_level, on_drop=metrics.count_dropped_line)
    _keep_memory()
    access = Tokens(settings.tokens) if settings.tokens else Open()
    server = AttentionServer(
        work_until_signal(signals, lambda: load(settings)),
        host=settings.host,
        port=settings.port,
        limits=settings.limits,
        access=access,
        client_names=ClientNames(frozenset(settings.tls_client_names)),
        credentials=credentials_of(settings, lambda success: metrics.note_reload("certificates", success=success)),
        health_address=settings.health_address,
        reflection=settings.reflection,
        shared_port=as_worker,
        metrics=metrics,
        on_death=_end_deaf,
    )
    # The supervisor serves the metrics of all workers together.
    page = None if as_worker else start_metrics_page(settings, metrics.registry)
    for warning in settings.warnings:
        logger.warning(warning)
    gc.freeze()  # all that is loaded stays: the collector need not look at it again and again
    server.start()
    reloader = Reloader(server, settings, access)
    on_ready(server)
    while next_signal(signals) is signal.SIGHUP:
        reloader.ask()
        if page:
            page.reload()
    end_at_latest_in(settings.grace + _LAST)
    server.stop(grace=settings.grace)
    reloader.stop()


def credentials_of(
    settings: Settings, on_renewal: Callable[[bool], None] = lambda _success: None
) -> grpc.ServerCredentials | None:
    """Returns the credentials of the server's port; None where it serves without TLS.

    ``on_renewal`` receives whether a certificate that was renewed can serve.

    Raises:
        SourceError: A file cannot be read, or cannot serve.
    """
    return Certificates(settings.certificate, on_renewal).credentials() if settings.certificate else None


def _end_deaf() -> None:
    """Ends a process that takes no call any more; whoever watches it starts another."""
    logger.critical("gRPC's own thread has died, under a limit of memory or threads; this process ends")
    logging.shutdown()  # waits a little for the line to be read
    os._exit(1)


def _keep_memory() -> None:
    """Has glibc keep freed memory: given back and asked for again, each message costs a page fault per 4 KB."""
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 512 << 20)
