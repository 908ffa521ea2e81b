"""What becomes of requests when servers fail: ``python -m tests.attacks.faults kills`` (or ``bundles``, ``vanished``).

Eight callers send tensors: some through the client, which sends maps or images, some through streams, whole or in
parts. Each tensor must come to one end in time: its right answer, to the bit, or an error of ours or of gRPC. The exit
code is 1 where one did not, and the seed repeats the moments of the faults.
"""

import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Annotated

import grpc
import numpy as np
import typer
from numpy.typing import NDArray

from attention_patterns import AttentionPatternsError, PatternClassifier
from attention_patterns.bundle import BUNDLED
from attention_patterns.classification import Classification
from attention_patterns_service.client import Client
from attention_patterns_service.contract.converters import classification_of
from attention_patterns_service.contract.errors import error_of
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub

TIMEOUT = 30.0  # seconds that a call may take
HANG = 4 * TIMEOUT  # seconds without any end: a caller asks for the model, sends, and does both again after a change
BATCH = 5  # tensors of a stream
_KINDS = ("never", "never", "never", "always", "always", "stream", "stream", "parts")  # of the callers
_SHAPES = ((2, 12, 24, 24), (4, 12, 64, 64), (12, 12, 64, 64), (3, 4, 128, 128))  # 0.1 to 2.4 MB
_SO_ATTACH_FILTER = 26  # of asm-generic/socket.h
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def tensors() -> list[NDArray[np.float32]]:
    """Random attention with a sink in the first column; three of a shape, so that an answer to another is noticed."""
    drawn, made = np.random.default_rng(0), []
    for shape in 3 * _SHAPES:
        weights = np.exp(drawn.normal(0, 2, shape) + 4 * (np.arange(shape[-1]) == 0))
        made.append(np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32))
    return made


TENSORS = tensors()


def bits(value: object) -> object:
    """A result as nested tuples that are equal only where every bit is."""
    if is_dataclass(value):
        return tuple(bits(getattr(value, one.name)) for one in fields(value))
    if isinstance(value, Mapping):
        return tuple((name, bits(one)) for name, one in value.items())
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return value


def right_answers(classifier: PatternClassifier) -> dict[str, list[object]]:
    """Model -> its answer to each tensor, as bits."""
    return {classifier.model: [bits(classifier.classify(one)) for one in TENSORS]}


@dataclass
class Ledger:
    """What became of each request; shared by the callers. Each should have one end."""

    ends: list[list[str]]
    spans: dict[int, tuple[float, float]] = field(default_factory=dict)
    faults: list[float] = field(default_factory=list)  # when
    last: float = field(default_factory=time.monotonic)
    _lock: Lock = field(default_factory=Lock)

    def note(self, number: int, end: str, begun: float) -> None:
        """Notes an end: "answered", "WRONG ...", or the kind of the error."""
        with self._lock:
            self.last = time.monotonic()
            self.ends[number].append(end)
            self.spans[number] = begun, self.last

    @property
    def done(self) -> int:
        """Requests that came to an end."""
        return len(self.spans)


@dataclass(frozen=True)
class Report:
    """A ledger, counted.

    Attributes:
        requests: sent.
        faults: kills or replacements meanwhile.
        struck: requests that were under way at one.
        answered: rightly.
        outlived: of them, those that were struck.
        errors: kind -> requests.
        wrong: other answers and other errors.
        lost: requests without an end.
        twice: requests with several.
        longest: seconds that a request took.
    """

    requests: int
    faults: int
    struck: int
    answered: int
    outlived: int
    errors: Mapping[str, int]
    wrong: tuple[str, ...]
    lost: int
    twice: int
    longest: float

    @classmethod
    def of(cls, ledger: Ledger) -> "Report":
        """Counts."""
        ends = Counter(end for one in ledger.ends for end in one)
        answered = ends.pop("answered", 0)
        wrong = tuple(end for end in ends if end.startswith("WRONG"))
        struck = [n for n, (begun, ended) in ledger.spans.items() if any(begun < t < ended for t in ledger.faults)]
        return cls(
            requests=len(ledger.ends),
            faults=len(ledger.faults),
            struck=len(struck),
            answered=answered,
            outlived=sum("answered" in ledger.ends[number] for number in struck),
            errors={end: count for end, count in ends.most_common() if end not in wrong},
            wrong=wrong,
            lost=sum(not one for one in ledger.ends),
            twice=sum(len(one) > 1 for one in ledger.ends),
            longest=max((ended - begun for begun, ended in ledger.spans.values()), default=0.0),
        )

    @property
    def sound(self) -> bool:
        """Whether every request came to one right end."""
        return not (self.wrong or self.lost or self.twice)


class Caller:
    """Sends its share of the requests and notes what becomes of each."""

    def __init__(self, kind: str, endpoint: str, right: Mapping[str, Sequence[object]]) -> None:
        """Calls as ``kind`` says: "never" or "always" reducing, by "stream", or in "parts" by a stream."""
        self._kind, self._right = kind, right
        self._client = Client(endpoint, timeout=TIMEOUT, reduce="always" if kind == "always" else "never")
        options = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1000)]
        self._channel = grpc.insecure_channel(endpoint, options=options)
        self._stub = AttentionPatternServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def call(self, numbers: Sequence[int], ledger: Ledger, pauses: random.Random) -> None:
        """Sends the requests; after an error it rests."""
        streams = self._kind in {"stream", "parts"}
        size = BATCH if streams else 1
        for begin in range(0, len(numbers), size):
            batch, begun = numbers[begin : begin + size], time.monotonic()
            for number, end in self._streamed(batch) if streams else self._asked(batch[0]):
                ledger.note(number, end, begun)
            if not all("answered" in ledger.ends[number] for number in batch):
                time.sleep(pauses.uniform(0.1, 1))

    def wait(self) -> None:
        """Waits for a connection."""
        grpc.channel_ready_future(self._channel).result(timeout=TIMEOUT)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()
        self._channel.close()

    def _asked(self, number: int) -> Iterator[tuple[int, str]]:
        yield number, self._end(number, lambda: self._client.classify(TENSORS[number % len(TENSORS)]))

    def _streamed(self, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
        answers: defaultdict[str, list[pb.StreamClassifyHeadsResponse]] = defaultdict(list)
        asked = {number: self._pieces(number) for number in numbers}
        broken: grpc.RpcError | None = None
        try:
            requests = (pb.StreamClassifyHeadsRequest(request=one) for pieces in asked.values() for one in pieces)
            for answer in self._stub.StreamClassifyHeads(requests, timeout=TIMEOUT):
                answers[answer.request_id].append(answer)
        except grpc.RpcError as error:
            broken = error
        for number, pieces in asked.items():
            got, wanted = answers.pop(str(number), []), [one.first_layer for one in pieces]
            if [one.first_layer for one in got] == wanted:
                yield number, self._end(number, lambda got=got, number=number: _joined(got, number))  # type: ignore[misc] # mypy knows no defaults
            elif len(got) >= len(wanted):
                yield number, f"WRONG answers to layers {[one.first_layer for one in got]}"
            elif broken is not None:
                yield number, _kind_of(broken)  # without an error the request is lost
        if answers:
            yield numbers[0], f"WRONG answers to {list(answers)}"

    def _pieces(self, number: int) -> list[pb.ClassifyHeadsRequest]:
        tensor = TENSORS[number % len(TENSORS)]
        size = 1 if self._kind == "parts" else len(tensor)
        return [
            pb.ClassifyHeadsRequest(
                request_id=str(number),
                first_layer=n,
                attention=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=part.shape, data=part.tobytes()),
            )
            for n in range(0, len(tensor), size)
            for part in [tensor[n : n + size]]
        ]

    def _end(self, number: int, ask: Callable[[], Classification]) -> str:
        try:
            result = ask()
        except (AttentionPatternsError, grpc.RpcError) as error:
            return _kind_of(error)
        except Exception as error:  # noqa: BLE001  whatever else comes is a finding
            return f"WRONG {type(error).__name__}: {error}"
        right = self._right.get(result.model)
        same = right is not None and bits(result) == right[number % len(TENSORS)]
        return "answered" if same else f"WRONG answer of {result.model} to {number}"


def _joined(answers: Sequence[pb.StreamClassifyHeadsResponse], number: int) -> Classification:
    for answer in answers:
        if answer.HasField("error"):
            raise error_of(answer.error.reason, answer.error.message, "")
    tensor = TENSORS[number % len(TENSORS)]
    return classification_of([one.response for one in answers], leading=tensor.shape[:2], length=tensor.shape[-1])


def _kind_of(error: Exception) -> str:
    if isinstance(error, grpc.Call):
        return f"stream: {error.code().name}"
    reached = "cannot be reached" in str(error)
    return f"{type(error).__name__}{': cannot be reached' if reached else ''}"


class Campaign:
    """Callers, and what is done to their server."""

    def __init__(self, endpoint: str, right: Mapping[str, Sequence[object]], *, seed: int) -> None:
        """The callers connect when they call."""
        self.random = random.Random(seed)
        self.ledger = Ledger([])
        self._callers = [Caller(kind, endpoint, right) for kind in _KINDS]

    def run(self, requests: int, fault: Callable[[], None] | None = None) -> Report:
        """Has the callers send so many requests, and lets ``fault`` happen again and again meanwhile.

        Raises:
            TimeoutError: the callers hang.
        """
        self.ledger = ledger = Ledger([[] for _ in range(requests)])
        shares = [range(n, requests, len(self._callers)) for n in range(len(self._callers))]
        pauses = [random.Random(self.random.random()) for _ in shares]
        threads = [
            Thread(target=caller.call, args=(share, ledger, pause), daemon=True)
            for caller, share, pause in zip(self._callers, shares, pauses, strict=True)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if time.monotonic() - ledger.last > HANG:
                raise TimeoutError(f"no request came to an end for {HANG:g} s, {ledger.done} of {requests} did")
            if fault:
                self._wait(self.random.randint(5, 40))
                ledger.faults.append(time.monotonic())
                fault()
            time.sleep(0.02)
        return Report.of(ledger)

    def settle(self) -> None:
        """Waits until all are connected."""
        for caller in self._callers:
            caller.wait()

    def close(self) -> None:
        """Closes the connections."""
        for caller in self._callers:
            caller.close()

    def _wait(self, count: int) -> None:
        """Until so many more requests have ended, or ten seconds, and a moment."""
        goal, end = min(self.ledger.done + count, len(self.ledger.ends)), time.monotonic() + 10
        while self.ledger.done < goal and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(self.random.uniform(0, 0.05))


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
    return port


class Server:
    """A server process that can be killed, and started again on its port."""

    def __init__(self, *options: str, workers: int = 1, port: int | None = None) -> None:
        """Starts, on a free port by default."""
        self.port = port or free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self._workers = workers
        self._options = [f"--port={self.port}", f"--workers={workers}", "--log-level=error", *options]
        self._told = tempfile.TemporaryFile("w+")  # noqa: SIM115  kept as long as the server
        self.start()
        self.wait()

    def start(self) -> None:
        """Starts, and does not wait."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "attention_patterns_service.command.cli", *self._options],
            stdout=subprocess.PIPE,
            stderr=self._told,
            text=True,
        )

    def wait(self) -> None:
        """Waits until it serves.

        Raises:
            RuntimeError: it does not start.
        """
        assert self.process.stdout
        if not self.process.stdout.readline():
            self.process.communicate()
            self._told.seek(0)
            with self._told:
                raise RuntimeError(f"the server did not start: {self._told.read()}")

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="utf-8")
        return sorted(map(int, children.split()))

    def strike(self, chance: random.Random) -> None:
        """Kills and starts again, at times while it starts; of several workers one, which is replaced by itself."""
        if self._workers > 1:
            for worker in chance.sample(self.workers(), k=1):
                os.kill(worker, signal.SIGKILL)
            return
        while True:
            self.process.kill()
            self.process.communicate()
            time.sleep(chance.choice((0.0, chance.uniform(0, 1))))
            self.start()
            if chance.random() > 0.2:
                break
            time.sleep(chance.uniform(0, 2))
        self.wait()

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.terminate()
        self.process.communicate(timeout=60)
        self._told.close()
        return self.process.returncode


@contextmanager
def campaign(
    right: Mapping[str, Sequence[object]], *options: str, workers: int, seed: int
) -> Iterator[tuple[Server, Campaign]]:
    """A server and its callers; all ended."""
    server = Server(*options, workers=workers)
    callers = Campaign(server.endpoint, right, seed=seed)
    try:
        yield server, callers
    finally:
        callers.close()
        code = server.stop()
    if code:
        raise RuntimeError(f"the server ended with exit code {code}")


def killed(requests: int, *, workers: int, seed: int) -> tuple[Report, Report]:
    """What becomes of requests while servers are killed, and after the last one was started again."""
    with campaign(right_answers(PatternClassifier.load()), workers=workers, seed=seed) as (server, callers):
        meanwhile = callers.run(requests, lambda: server.strike(callers.random))
        while workers > 1 and len(server.workers()) < workers:
            time.sleep(0.1)
        callers.settle()
        return meanwhile, callers.run(8 * len(TENSORS))


def other_bundle(folder: Path) -> None:
    """Writes the bundled model with slightly other weights."""
    import onnx  # noqa: PLC0415  only here, and not in the lean install

    folder.mkdir()
    model = onnx.load(BUNDLED / "model.onnx")
    weights = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
    onnx.save(model, folder / "model.onnx")
    content = json.loads((BUNDLED / "bundle.json").read_text(encoding="utf-8"))
    content |= {"version": "9.9.9", "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()}
    (folder / "bundle.json").write_text(json.dumps(content), encoding="utf-8")


def replaced(requests: int, *, workers: int, seed: int, folder: Path) -> tuple[Report, Report]:
    """What becomes of requests while the bundle is replaced, and what the last one answers; ``folder`` is empty."""
    bundles, current = (folder / "one", folder / "other"), folder / "current"
    shutil.copytree(BUNDLED, bundles[0])
    other_bundle(bundles[1])
    first, second = (right_answers(PatternClassifier.load(bundle)) for bundle in bundles)
    current.symlink_to(bundles[0])
    options = (f"--model-dir={current}",)
    with campaign({**first, **second}, *options, workers=workers, seed=seed) as (server, callers):

        def replace() -> None:
            there = current.resolve()
            (folder / "next").symlink_to(bundles[there == bundles[0].resolve()])
            (folder / "next").replace(current)
            server.process.send_signal(signal.SIGHUP)

        meanwhile = callers.run(requests, replace)
        replace()
        last = PatternClassifier.load(current).bundle.sha256
        for _ in range(8 * workers):  # connections go to any worker
            _await_model(server.endpoint, last)
        return meanwhile, callers.run(8 * len(TENSORS))


def _await_model(endpoint: str, sha256: str) -> None:
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        with Client(endpoint) as client:
            if client.model().sha256 == sha256:
                return
        time.sleep(0.1)
    raise TimeoutError("the last bundle is not served")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def head_block(name: str, more: Mapping[str, str] | None = None) -> bytes:
    """The header fields of a call, in HPACK without indexing."""
    path = f"/attention_patterns.v1.AttentionPatternService/{name}"
    plain = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers"}
    pairs = (plain | {"content-type": "application/grpc"} | dict(more or {})).items()
    return b"".join(b"\0" + _hpack(key) + _hpack(value) for key, value in pairs)


def head(stream: int, name: str, more: Mapping[str, str] | None = None) -> bytes:
    """The frame that begins a call."""
    return frame(1, 4, stream, head_block(name, more))


def _hpack(text: str) -> bytes:
    data, size = text.encode(), len(text.encode())
    if size < 127:
        return bytes([size]) + data
    out, size = bytearray([127]), size - 127
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size]) + data


@dataclass(frozen=True)
class Figures:
    """What a process holds: MiB of memory now and at most, threads, open files."""

    memory: int
    peak: int
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> "Figures":
        """Reads them."""
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        memory, peak, threads = (int(text.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "VmHWM", "Threads"))
        return cls(memory >> 10, peak >> 10, threads, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def _tell(seed: int, *reports: Report) -> None:
    typer.echo(f"seed {seed}")
    for when, report in zip(("meanwhile", "afterwards"), reports, strict=True):
        typer.echo(f"{when}: " + ", ".join(f"{one.name} {getattr(report, one.name)}" for one in fields(report)))
    afterwards = reports[-1]
    well = all(report.sound for report in reports) and afterwards.answered == afterwards.requests
    raise typer.Exit(0 if well else 1)


_Requests = Annotated[int, typer.Option(help="Tensors, of all callers together.", min=1)]
_Workers = Annotated[int, typer.Option(help="Processes of the server.", min=1)]
_Seed = Annotated[int | None, typer.Option(help="Repeats the moments of the faults.")]


@app.command()
def kills(requests: _Requests = 2000, workers: _Workers = 1, seed: _Seed = None) -> None:
    """Kills the server, or its workers, at random moments; four minutes."""
    seed = random.randrange(10**9) if seed is None else seed
    _tell(seed, *killed(requests, workers=workers, seed=seed))


@app.command()
def bundles(requests: _Requests = 2000, workers: _Workers = 1, seed: _Seed = None) -> None:
    """Replaces the bundle at random moments; a minute."""
    seed = random.randrange(10**9) if seed is None else seed
    with tempfile.TemporaryDirectory() as folder:
        _tell(seed, *replaced(requests, workers=workers, seed=seed, folder=Path(folder)))


@app.command()
def vanished() -> None:
    """Has clients vanish without a word, some before and some within a call; two minutes."""
    server = Server("--max-seconds=600", "--max-idle-seconds=600")
    begun = PREFACE + frame(4, 0, 0) + frame(4, 1, 0)  # settings, and that the server's are known
    with Client(server.endpoint) as client, ExitStack() as stack:
        client.classify(TENSORS[0])
        before = Figures.of(server.process.pid)
        far = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(15)]
        for one, word in zip(far, 5 * (b"", begun, begun + head(1, "ClassifyHeads")), strict=True):
            one.sendall(word)
        time.sleep(1)
        for one in far:
            _deafen(one)
        typer.echo(f"before {before}, with {len(far)} clients {Figures.of(server.process.pid)}")
        started, files = time.monotonic(), 0
        while (now := Figures.of(server.process.pid)).files > before.files and time.monotonic() - started < 240:
            client.classify(TENSORS[0])
            if now.files != files:
                typer.echo(f"{time.monotonic() - started:.0f} s after they vanished {now}")
            files = now.files
            time.sleep(1)
        typer.echo(f"{time.monotonic() - started:.0f} s after they vanished {now}")
    raise typer.Exit(server.stop() or now.files > before.files)


def _deafen(one: socket.socket) -> None:
    """Has the kernel drop all that comes for it, so that nothing is acknowledged any more: the other end is alone."""
    drop = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0
    program = struct.pack("HL", 1, ctypes.addressof(drop))
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


if __name__ == "__main__":
    app()
