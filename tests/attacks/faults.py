"""Servers that fail while they are called: ``python -m tests.attacks.faults kills`` (or ``bundles``, ``vanished``).

The exit code is 1 where a request did not come to one right end. The seed repeats the moments of the faults.
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
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from attention_patterns import PatternClassifier
from attention_patterns.bundle import BUNDLED
from attention_patterns_service.client import Client
from tests.attacks.callers import TENSORS, Campaign, right_answers
from tests.helpers.http2 import HELLO, SETTINGS_KNOWN, head
from tests.helpers.servers import Holdings, Server, until

_AFTERWARDS = 8 * len(TENSORS)  # requests once the faults are over
_SO_ATTACH_FILTER = 26  # of asm-generic/socket.h

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def strike(server, chance):
    """Kills a server and starts it again, at times while it starts; of several workers kills one."""
    if server.count > 1:  # the process above the workers starts another
        with suppress(ProcessLookupError):  # it has died of the last strike
            os.kill(chance.choice(until(server.workers)), signal.SIGKILL)
        return
    while True:
        server.kill()
        time.sleep(chance.choice((0.0, chance.uniform(0, 1))))
        server.start()
        if chance.random() > 0.2:
            break
        time.sleep(chance.uniform(0, 2))
    server.wait()


@contextmanager
def campaign(right, *options, workers, seed):
    """Yields a server and its callers; ends them all."""
    server = Server(*options, workers=workers)
    callers = Campaign(server.endpoint, right, seed=seed)
    try:
        yield server, callers
    finally:
        callers.close()
        code = server.stop()
    if code:
        raise RuntimeError(f"the server ended with exit code {code}, expected 0")


def kill_servers(requests, *, workers, seed, afterwards=_AFTERWARDS):
    """Reports what becomes of requests while servers are killed, and of those after the last start."""
    options = () if workers == 1 else ("--max-deaths=100000",)
    with campaign(right_answers(PatternClassifier.load()), *options, workers=workers, seed=seed) as (server, callers):
        meanwhile = callers.run(requests, lambda: strike(server, callers.random))
        until(lambda: workers == 1 or len(server.workers()) == workers)
        callers.settle()
        return meanwhile, callers.run(afterwards)


def write_other_bundle(folder):
    """Writes the bundled model with slightly other weights."""
    import onnx  # noqa: PLC0415  only here: the commands need it for bundles alone

    folder.mkdir()
    model = onnx.load(BUNDLED / "model.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
    onnx.save(model, folder / "model.onnx")
    content = json.loads((BUNDLED / "bundle.json").read_text(encoding="utf-8"))
    content |= {"version": "9.9.9", "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()}
    (folder / "bundle.json").write_text(json.dumps(content), encoding="utf-8")


def replace_bundles(requests, *, workers, seed, folder, afterwards=_AFTERWARDS):
    """Reports what becomes of requests while the bundle is replaced, and of those to the last; ``folder`` is empty."""
    bundles, current = (folder / "one", folder / "other"), folder / "current"
    shutil.copytree(BUNDLED, bundles[0])
    write_other_bundle(bundles[1])
    first, second = (right_answers(PatternClassifier.load(bundle)) for bundle in bundles)
    current.symlink_to(bundles[0])
    with campaign(first | second, f"--model-dir={current}", workers=workers, seed=seed) as (server, callers):

        def replace():
            before = current.resolve()
            (folder / "next").symlink_to(bundles[before == bundles[0].resolve()])
            (folder / "next").replace(current)
            server.reload()

        meanwhile = callers.run(requests, replace)
        replace()
        last = PatternClassifier.load(current).bundle.sha256
        for _ in range(8 * workers):  # connections go to any worker
            until(lambda: _served_bundle(server.endpoint) == last)
        return meanwhile, callers.run(afterwards)


def _served_bundle(endpoint):
    with Client(endpoint) as client:
        return client.model().sha256


def _print_reports(seed, *reports):
    typer.echo(f"seed {seed}")
    for when, report in zip(("meanwhile", "afterwards"), reports, strict=True):
        typer.echo(f"{when}: " + ", ".join(f"{each.name} {getattr(report, each.name)}" for each in fields(report)))
    afterwards = reports[-1]
    sound = all(report.sound for report in reports) and afterwards.answered == afterwards.requests
    raise typer.Exit(0 if sound else 1)


_Requests = Annotated[int, typer.Option(help="Tensors to send, of all callers together.", min=1)]
_Workers = Annotated[int, typer.Option(help="Processes of the server.", min=1)]
_Seed = Annotated[int | None, typer.Option(help="Seed of the moments of the faults; drawn by default.")]


@app.command()
def kills(requests: _Requests = 2000, workers: _Workers = 1, seed: _Seed = None) -> None:
    """Kills the server, or its workers, at random moments; takes four minutes."""
    seed = random.randrange(10**9) if seed is None else seed
    _print_reports(seed, *kill_servers(requests, workers=workers, seed=seed))


@app.command()
def bundles(requests: _Requests = 2000, workers: _Workers = 1, seed: _Seed = None) -> None:
    """Replaces the bundle at random moments; takes a minute."""
    seed = random.randrange(10**9) if seed is None else seed
    with tempfile.TemporaryDirectory() as folder:
        _print_reports(seed, *replace_bundles(requests, workers=workers, seed=seed, folder=Path(folder)))


@app.command()
def vanished() -> None:
    """Has clients vanish without a word, some before and some within a call; takes two minutes."""
    server = Server("--max-seconds=600", "--max-idle-seconds=600")
    begun = HELLO + SETTINGS_KNOWN
    with Client(server.endpoint) as client, ExitStack() as stack:
        client.classify(TENSORS[0])
        before = Holdings.of(server.process.pid)
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(15)]
        for connected, words in zip(clients, 5 * (b"", begun, begun + head(1, "ClassifyHeads")), strict=True):
            connected.sendall(words)
        time.sleep(1)
        for connected in clients:
            _deafen(connected)
        typer.echo(f"before {before}, with {len(clients)} clients {Holdings.of(server.process.pid)}")
        started, files = time.monotonic(), 0
        while (now := Holdings.of(server.process.pid)).files > before.files and time.monotonic() - started < 240:
            client.classify(TENSORS[0])
            if now.files != files:
                typer.echo(f"{time.monotonic() - started:.0f} s after they vanished {now}")
            files = now.files
            time.sleep(1)
        typer.echo(f"{time.monotonic() - started:.0f} s after they vanished {now}")
    raise typer.Exit(server.stop() or now.files > before.files)


def _deafen(connected):
    """Has the kernel drop all that comes, so that nothing is acknowledged any more: the other end is alone."""
    drop = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0
    program = struct.pack("HL", 1, ctypes.addressof(drop))
    connected.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


if __name__ == "__main__":
    app()
