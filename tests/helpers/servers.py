"""Server processes, started as people start them, and the wait for what they do."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.request import urlopen

ATTENTION_SERVE = Path(sys.executable).with_name("attention-serve")


def free_port():
    """Returns a port that nobody has at this moment."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


def run(*arguments, **options):
    """Runs ``attention-serve`` to its end."""
    command = [ATTENTION_SERVE, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, **options)


def endpoint_of(line):
    """Returns the endpoint, which ends the first line that a server prints."""
    words = f"serving attention-patterns {version('attention-patterns')} on "
    assert line.startswith(words)
    return line.removeprefix(words).strip()


@contextmanager
def process_of(*options, environment=None, folder=None):
    """Yields a server process and its endpoint, that of the first line it prints."""
    command = [ATTENTION_SERVE, *map(str, options)]
    variables = os.environ | {"ATTENTION_SERVE_PORT": "0"} | (environment or {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=variables, cwd=folder, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert line, f"the server did not start: {process.stderr.read()}"
            yield process, endpoint_of(line)
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def serving(*options, **settings):
    """Yields a server process and its endpoint; ends it by SIGTERM, with exit code 0."""
    with process_of(*options, **settings) as (process, endpoint):
        yield process, endpoint
    assert process.returncode == 0


def workers_of(process):
    """Returns the process ids of a server's workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return set(map(int, children.read_text().split()))


def is_running(pid):
    """Returns whether a process runs; one that ended may stay listed until somebody asks for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=300):
    """Waits for a true value of ``condition`` and returns it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return value


def figures_of(metrics_port):
    """Returns name and labels -> value, of the figures on a metrics page."""
    with urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as page:
        return dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if line[0] != "#")


def calls_in_flight(metrics_port):
    """Returns the calls in flight that a server reports on its metrics page."""
    figures = figures_of(metrics_port).items()
    return sum(float(value) for name, value in figures if name.startswith("attention_requests_in_flight"))


@dataclass(frozen=True)
class Holdings:
    """Memory, threads and files that a process holds.

    Attributes:
        memory: Memory now, MiB.
        peak: Most memory so far, MiB.
        threads: Number of threads.
        files: Number of open files.
    """

    memory: int
    peak: int
    threads: int
    files: int

    @classmethod
    def of(cls, pid):
        """Reads them of a process."""
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        memory, peak, threads = (int(text.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "VmHWM", "Threads"))
        return cls(memory >> 10, peak >> 10, threads, len(list(Path(f"/proc/{pid}/fd").iterdir())))


class Server:
    """A server process that can be killed, and started again on its port.

    Attributes:
        process: The process, of several workers the one above them.
        port: Its port.
        endpoint: "host:port".
        count: Number of its workers.
    """

    def __init__(self, *options, workers=1, port=0):
        """Starts, by default on a free port, and waits until it serves."""
        self.port, self.count = port, workers
        self._options = [f"--workers={workers}", "--log-level=error", *options]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  kept as long as the server
        self.start()
        self.wait()

    def start(self):
        """Starts, and does not wait."""
        command = [ATTENTION_SERVE, f"--port={self.port}", *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)

    def wait(self):
        """Waits until it serves."""
        line = self.process.stdout.readline()
        if not line:
            self.process.communicate()
            self._log.seek(0)
            raise RuntimeError(f"the server did not start: {self._log.read()}")
        self.endpoint = endpoint_of(line)
        self.port = int(self.endpoint.rpartition(":")[2])

    def kill(self):
        """Ends it without a word."""
        self.process.kill()
        self.process.communicate()

    def workers(self):
        """Returns the process ids of its workers, in order."""
        return sorted(workers_of(self.process))

    def reload(self):
        """Has it read its bundle again."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        """Ends it by SIGTERM and returns its exit code."""
        self.process.terminate()
        self.process.communicate(timeout=60)
        self._log.close()
        return self.process.returncode
