"""Several serving processes behind one port: each takes some of the connections, and one that dies is replaced."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from attention_patterns.errors import ServerError
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.server.logs import logger, write_logs

_PAUSE = 1.0  # seconds before a dead worker is replaced: one that dies at its start must not spin
_WATCH = 0.2  # seconds between two looks at the workers

_Worker = subprocess.Popen[str]


def serve_by_workers(
    settings: Settings, options: Sequence[str], *, on_ready: Callable[[str, Sequence[int]], None]
) -> None:
    """Serves until SIGTERM or SIGINT by ``settings.workers`` processes, each given ``options``.

    SIGHUP goes on to the workers. ``on_ready`` is told the endpoint and the process ids.

    Raises:
        ServerError: the port cannot be bound, or a worker cannot start.
    """
    stopping = Event()
    workers: list[_Worker] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    signal.signal(signal.SIGHUP, lambda *_: _signal(workers, signal.SIGHUP))
    write_logs(level=settings.log_level)
    with _reserved(settings) as port, tempfile.TemporaryDirectory(prefix="attention-metrics-") as figures:
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": figures}
        command = [
            sys.executable,
            "-m",
            "attention_patterns_service.command.cli",
            *options,
            f"--port={port}",
            "--as-worker",
        ]

        def start() -> _Worker:
            return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

        try:
            workers += [start() for _ in range(settings.workers)]
            for worker in workers:
                if not _ready(worker):
                    raise ServerError(f"worker {worker.pid} did not start, exit code {worker.wait()}")
            if settings.metrics_port is not None:
                registry = CollectorRegistry()
                MultiProcessCollector(registry, path=figures)
                start_http_server(settings.metrics_port, settings.metrics_host, registry)
            on_ready(f"{settings.host}:{port}", [worker.pid for worker in workers])
            while not stopping.wait(_WATCH):
                for place, worker in enumerate(workers):
                    if worker.poll() is not None:
                        logger.error("worker died", extra={"pid": worker.pid, "exit_code": worker.returncode})
                        mark_process_dead(worker.pid, path=figures)
                        stopping.wait(_PAUSE)
                        workers[place] = start()
        finally:
            _signal(workers, signal.SIGTERM)
            deadline = time.monotonic() + settings.grace + 10
            for worker in workers:
                _end(worker, max(0.0, deadline - time.monotonic()))


@contextmanager
def _reserved(settings: Settings) -> Iterator[int]:
    """A port that the workers share; bound and never listened to here, it stays theirs while one is replaced."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as alone:  # refused where another program listens there
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # but not for connections that end there
                alone.bind((settings.host.strip("[]"), settings.port))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind((settings.host.strip("[]"), settings.port))
        except OSError as error:
            raise ServerError(f"{settings.host}:{settings.port} cannot be bound: {error.strerror}") from error
        yield holder.getsockname()[1]


def _ready(worker: _Worker) -> bool:
    """Waits until a worker says that it serves; False where it ended instead."""
    return bool(worker.stdout and worker.stdout.readline())


def _signal(workers: Sequence[_Worker], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


def _end(worker: _Worker, seconds: float) -> None:
    try:
        worker.wait(seconds)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    if worker.stdout:
        worker.stdout.close()
