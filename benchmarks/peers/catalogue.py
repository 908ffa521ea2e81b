"""Lists the servers that are compared: how each is started and asked, and where its answer holds the probabilities."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from attention_patterns.rendering import RENDERING_VERSION
from attention_patterns_service.command.demo import running_server
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from benchmarks.peers.callers import Caller, GrpcCaller, HttpCaller
from benchmarks.peers.net import CLASSES, IMAGE
from benchmarks.peers.processes import Marked, mark_processes

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "classifier/attention_patterns/assets/model/model.onnx"
_UV = Path(sys.executable).parent / "uv"
_INSTALL_LIMIT = 900.0  # seconds


class PeerError(RuntimeError):
    """A peer cannot be installed or started, or answers wrongly."""


@dataclass(frozen=True)
class Running:
    """A server that was started: its port, its processes, and the end of its output."""

    port: int
    processes: Marked
    log: Callable[[], str] = str


@dataclass(frozen=True)
class Server:
    """A server, and how it is asked.

    Attributes:
        title: Name in the table.
        caller: Caller of its protocol.
        path: Path of its method.
        write: Images, as bytes -> request.
        read: Answer, number of images -> probabilities float32, as bytes.
        options: Options of its command, where it is ours.
    """

    title: str
    caller: Callable[[int, str, bytes], Caller]
    path: str
    write: Callable[[bytes], bytes] = bytes
    read: Callable[[bytes, int], bytes] = lambda answer, _count: answer
    options: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Version that is installed."""
        return version("attention-patterns")

    @contextmanager
    def running(self) -> Iterator[Running]:
        """Starts our own server, as ``make run`` does, and ends it afterwards."""
        with mark_processes() as processes, running_server(*self.options) as endpoint:
            yield Running(int(endpoint.rpartition(":")[2]), processes)


@dataclass(frozen=True)
class Peer(Server):
    """Another server, in an environment of its own.

    Attributes:
        name: Name of its files here, and its key.
        package: Package whose version is shown.
        environments: Folder of the environments.
    """

    name: str = ""
    package: str = ""
    environments: Path = Path("run/peers")

    @property
    def version(self) -> str:
        """Version that is pinned."""
        pins = dict(line.split("==") for line in self._pins.splitlines())
        return pins[self.package]

    @property
    def _pins(self) -> str:
        return (HERE / f"{self.name}.txt").read_text()

    def install(self) -> None:
        """Makes its environment, unless one with the same pins exists.

        Raises:
            PeerError: The environment cannot be made.
        """
        folder = self.environments / self.name
        stamp = folder / "pins.txt"
        if stamp.exists() and stamp.read_text() == self._pins:
            return
        shutil.rmtree(folder, ignore_errors=True)
        commands: tuple[list[str | Path], ...] = (
            [_UV, "venv", "--quiet", "--python", sys.executable, folder],
            [_UV, "pip", "install", "--quiet", "--python", folder, "--requirement", HERE / f"{self.name}.txt"],
        )
        for command in commands:
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_LIMIT)
            except subprocess.CalledProcessError as error:
                raise PeerError(f"cannot be installed: {_end(error.stderr)}") from error
            except (OSError, subprocess.TimeoutExpired) as error:
                raise PeerError(f"cannot be installed: {error}") from error
        stamp.write_text(self._pins)

    @contextmanager
    def running(self) -> Iterator[Running]:
        """Starts its server, in a folder of its own for whatever it writes, and ends it afterwards."""
        port = _free_port()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, mark_processes() as processes:
            environment = {
                "HOME": home,
                "TMPDIR": home,
                "MODEL": str(MODEL),
                "PORT": str(port),
                "PYTHONPATH": str(HERE),
                "ORT_DISABLE_TELEMETRY": "1",
            }
            log = Path(home) / "log"
            with log.open("w") as output:
                process = subprocess.Popen(
                    [(self.environments / self.name / "bin/python").absolute(), HERE / f"{self.name}_server.py"],
                    cwd=home,
                    env=os.environ | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            try:
                yield Running(port, processes, lambda: _end(log.read_text(errors="replace")))
            finally:
                processes.end()
                process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _end(output: str) -> str:
    lines = output.strip().splitlines()
    return " ".join(lines[-1].split())[-300:] if lines else "no output"


def _our_request(images: bytes) -> bytes:
    size = IMAGE[-1]
    request = pb.ClassifyImagesRequest(rendering_version=RENDERING_VERSION, image_size=size, images=images)
    return request.SerializeToString()


def _our_probabilities(answer: bytes, _count: int) -> bytes:
    return np.array(pb.ClassifyImagesResponse.FromString(answer).probabilities, np.float32).tobytes()


def _v2_request(images: bytes) -> bytes:
    """Returns a ModelInferRequest of the V2 protocol with one BYTES tensor, whose elements follow their sizes."""
    tensor = _field(1, b"images") + _field(2, b"BYTES") + _field(3, b"\x01")
    return _field(1, b"net") + _field(5, tensor) + _field(7, len(images).to_bytes(4, "little") + images)


def _v2_probabilities(answer: bytes, count: int) -> bytes:
    """Returns the one element of the raw contents, which are the last field of a ModelInferResponse."""
    return answer[-4 * CLASSES * count :]


def _field(number: int, payload: bytes) -> bytes:
    """Returns a field of protobuf: its number is below 16, its size takes as many groups of 7 bits as it needs."""
    size, head = len(payload), bytes((number << 3 | 2,))
    while size > 0x7F:
        head += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return head + bytes((size,)) + payload


OURS = Server(
    "attention-patterns",
    GrpcCaller,
    "/attention_patterns.v1.AttentionPatternService/ClassifyImages",
    _our_request,
    _our_probabilities,
)
OURS_ON_TWO = replace(OURS, title=f"{OURS.title}, 2 workers", options=("--workers", "2"))
PEERS = (
    Peer("grpcio, bare", GrpcCaller, "/bare/Classify", name="grpcio", package="grpcio"),
    Peer("FastAPI", HttpCaller, "/classify", name="fastapi", package="fastapi"),
    Peer("BentoML", HttpCaller, "/classify", name="bentoml", package="bentoml"),
    Peer("LitServe", HttpCaller, "/classify", name="litserve", package="litserve"),
    Peer(
        "MLServer",
        GrpcCaller,
        "/inference.GRPCInferenceService/ModelInfer",
        _v2_request,
        _v2_probabilities,
        name="mlserver",
        package="mlserver",
    ),
    Peer("Ray Serve", HttpCaller, "/classify", name="ray", package="ray"),
)
