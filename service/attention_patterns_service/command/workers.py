"""Several serving processes behind one port: each takes some of the connections, and one that dies is replaced."""

import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from attention_patterns.errors import ServerError
from attention_patterns.programs.temporary_folders import temporary_folder
from attention_patterns_service.command.handshake import Handshake
from attention_patterns_service.command.metrics_page import MetricsPage, start_metrics_page
from attention_patterns_service.command.problems import refuse_problems
from attention_patterns_service.command.settings import DEATH_SECONDS, Settings
from attention_patterns_service.command.signals import blocked, listen, next_signal
from attention_patterns_service.server.logs import logger, write_logs

_PAUSE = 1.0  # seconds before a dead worker is replaced: one that dies at its start must not spin
_KILL = 10.0  # seconds beyond the grace after which a worker that does not end is killed
_COMMAND = (sys.executable, "-P", "-m", "attention_patterns_service.command")  # -P: no code from the current folder
_STANDARD_ERROR = 2


def serve_by_workers(
    settings: Settings, options: Sequence[str], *, on_ready: Callable[[str, Sequence[int]], None]
) -> None:
    """Serves until SIGTERM or SIGINT by ``settings.workers`` processes, each with the command line ``options``.

    SIGHUP goes on to the workers. ``on_ready`` is called with the endpoint and the process ids.

    Raises:
        InvalidSettingsError: Something that the server needs cannot be had.
        ServerError: A worker cannot start, or too many have died.
    """
    signals = listen(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    refuse_problems(settings)
    write_logs(level=settings.log_level)
    # Held and never listened to here, the port stays the workers' while one is replaced.
    with settings.address.hold(shared=True) as port, temporary_folder("attention-metrics-") as metrics:
        workers = _Workers(settings, options, port=port, metrics=str(metrics))
        try:
            workers.run(signals, on_ready)
        finally:
            workers.end()


@dataclass
class _Worker:
    """One serving process.

    Attributes:
        process: The process.
        handshake: The pipe through which the process reports.
        serves: Whether the handshake is complete.
    """

    process: subprocess.Popen[bytes]
    handshake: Handshake
    serves: bool = False


class _Workers:
    """The processes behind one port, all watched at once."""

    def __init__(self, settings: Settings, options: Sequence[str], *, port: int, metrics: str) -> None:
        self._settings = settings
        self._command = [*_COMMAND, *options, f"--port={port}"]
        self._port, self._metrics = port, metrics
        self._workers: list[_Worker] = []
        self._starts = [0.0] * settings.workers  # times from which workers are to be started
        self._deaths: deque[float] = deque(maxlen=settings.max_deaths)  # the times of the last ones
        self._page: MetricsPage | None = None
        self._began = False

    def run(self, signals: int, on_ready: Callable[[str, Sequence[int]], None]) -> None:
        """Starts, watches and replaces workers until a signal ends it; ``signals`` is the descriptor that reports it.

        Raises:
            ServerError: A worker cannot start, or too many have died.
        """
        while True:
            self._start_due()
            for worker in list(self._workers):
                self._look_at(worker)
            if not self._began and all(worker.serves for worker in self._workers):
                self._began = True
                self._start_metrics_page()
                endpoint = str(replace(self._settings.address, port=self._port))
                on_ready(endpoint, [worker.process.pid for worker in self._workers])
            match self._wait(signals):
                case signal.SIGTERM | signal.SIGINT:
                    return
                case signal.SIGHUP:
                    for worker in self._workers:
                        worker.process.send_signal(signal.SIGHUP)
                    if self._page:
                        self._page.reload()

    def end(self) -> None:
        """Ends the workers, and kills those that are not done within their grace."""
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + self._settings.grace + _KILL
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.handshake.close()

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [start for start in self._starts if start <= now]
        self._starts = [start for start in self._starts if start > now]
        self._workers += [self._start_worker() for _ in due]

    def _start_worker(self) -> _Worker:
        handshake = Handshake(self._port)
        with blocked(signal.SIGHUP):  # the worker inherits this: the signal waits until it listens
            process = subprocess.Popen(
                self._command,
                env=os.environ | handshake.variables | {"PROMETHEUS_MULTIPROC_DIR": self._metrics},
                stdout=_STANDARD_ERROR,  # standard output is the supervisor's alone
                pass_fds=[handshake.writing],
            )
        handshake.close_workers_end()
        return _Worker(process, handshake)

    def _look_at(self, worker: _Worker) -> None:
        if worker.process.poll() is not None:
            self._replace(worker)
            return
        if not worker.serves:
            try:
                worker.serves = worker.handshake.is_complete()
            except ServerError as error:
                logger.error("worker refused", extra={"pid": worker.process.pid, "error": str(error)})
                worker.process.kill()
                worker.process.wait()
                self._replace(worker)
                return

    def _replace(self, worker: _Worker) -> None:
        """Notes the death of a worker, and when another is to be started.

        Raises:
            ServerError: The worker was one of the first, or too many have died.
        """
        self._workers.remove(worker)
        worker.handshake.close()
        pid, code = worker.process.pid, worker.process.returncode
        if not self._began:
            raise ServerError(f"worker {pid} did not start, {_end_of(code)}")
        logger.error("worker died", extra={"pid": pid, "exit_code": code})
        mark_process_dead(pid, path=self._metrics)
        now = time.monotonic()
        self._deaths.append(now)
        if len(self._deaths) == self._deaths.maxlen and now - self._deaths[0] <= DEATH_SECONDS:
            raise ServerError(
                f"workers died {len(self._deaths)} times within {DEATH_SECONDS:g} s, worker {pid} last, "
                f"{_end_of(code)}; mend what the log reports, or raise --max-deaths"
            )
        self._starts.append(now + _PAUSE)

    def _start_metrics_page(self) -> None:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._metrics)
        self._page = start_metrics_page(self._settings, registry)

    def _wait(self, signals: int) -> signal.Signals | None:
        """Waits for a signal, which it returns, for a handshake, or for the time to start a worker."""
        pipes = [worker.handshake.reading for worker in self._workers if worker.handshake.is_open]
        seconds = max(0.0, min(self._starts) - time.monotonic()) if self._starts else None
        ready, _, _ = select.select([signals, *pipes], [], [], seconds)
        return next_signal(signals) if signals in ready else None


def _end_of(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
