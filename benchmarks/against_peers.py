"""Compares our server with peers that serve the same net: ``python -m benchmarks.against_peers [--peers fastapi]``.

All servers take images and answer with probabilities, on this machine in one run. A peer is installed into an
environment of its own, from pins; where one cannot run, the reason is printed. Only one server is alive at a time,
since some use the CPU while nobody calls them (Ray, LitServe). Ours runs one process per core, as its peers do; its
default, one process, has a row of its own. In each round every peer comes right after ours, and the ratios are of these
neighbours: the speed of the machine drifts from minute to minute.
"""

import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from attention_patterns.rendering import render
from attention_patterns.sample import load_sample
from benchmarks.peers.callers import Caller
from benchmarks.peers.catalogue import MODEL, OURS, OURS_ON_TWO, PEERS, Peer, PeerError, Running, Server
from benchmarks.peers.load import Figures, measure
from benchmarks.peers.net import Net
from benchmarks.tables import ResultTable, keep

BATCHES = (144, 1)
CALLERS = (8, 1)
CASES = tuple(product(BATCHES, CALLERS))
_START_LIMIT = 120.0  # seconds
_TRIAL = 1.0  # seconds under load without an error, before anything is measured

_FIGURES = ("requests/s", "p50 ms", "p99 ms", "server CPU ms", "caller CPU ms")  # CPU: of all processes, per request

_Case = tuple[int, int]
_Round = dict[_Case, Figures]


def main(
    peers: Annotated[
        list[str] | None,
        typer.Option(
            help="Peers to measure: grpcio, fastapi, bentoml, litserve, mlserver or ray; repeatable (default all)."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds, of which the median is taken.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Length of one measurement, seconds.", min=0.1)] = 3.0,
    cache: Annotated[Path, typer.Option(help="Folder of the peers' environments.")] = Path("run/peers"),
) -> None:
    """Prints requests per second and latencies of our server and its peers, and their ratios."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers are ended then too
    by_name = {peer.name: replace(peer, environments=cache) for peer in PEERS}
    if unknown := set(peers or ()) - set(by_name):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: expected some of {', '.join(by_name)}")
    chosen = [by_name[name] for name in peers or by_name]
    others = [OURS, *chosen]
    failures = _install(chosen)
    images = _images()
    net = Net(str(MODEL))
    trial = Trial(images, {batch: np.frombuffer(net(images[batch]), np.float32) for batch in BATCHES}, seconds)
    measured: defaultdict[str, list[tuple[_Round, _Round]]] = defaultdict(list)
    progress = Console(stderr=True)
    for n in range(rounds):
        for server in others:
            if server.title in failures:
                continue
            progress.print(f"round {n + 1} of {rounds}: {server.title}")
            ours = trial.run(OURS_ON_TWO)
            try:
                measured[server.title].append((ours, trial.run(server)))
            except PeerError as error:
                failures[server.title] = str(error)
    _keep(others, measured, failures, rounds=rounds)


def _images() -> dict[int, bytes]:
    """Returns, by size of the batch, images of the bundled sample, repeated as often as it takes."""
    sample = render(load_sample().attention, image_size=48)
    return {batch: np.resize(sample, (batch, *sample.shape[1:])).tobytes() for batch in BATCHES}


def _install(peers: list[Peer]) -> dict[str, str]:
    failures = {}
    for peer in peers:
        try:
            peer.install()
        except PeerError as error:
            failures[peer.title] = str(error)
    return failures


class Trial:
    """The trial that every server goes through."""

    def __init__(self, images: dict[int, bytes], expected: dict[int, np.ndarray], seconds: float) -> None:
        """Holds the images and the expected probabilities by size of the batch; a measurement takes ``seconds``."""
        self._images = images
        self._expected = expected
        self._seconds = seconds

    def run(self, server: Server) -> _Round:
        """Starts a server, checks its answers, loads it and ends it.

        Raises:
            PeerError: The server does not start, answers wrongly, or breaks off.
        """
        with server.running() as running:
            sizes = self._until_ready(server, running)
            try:
                return {
                    (batch, callers): measure(
                        self._connector(server, running, batch),
                        callers=callers,
                        seconds=self._seconds,
                        size=sizes[batch],
                        server_cpu=running.processes.cpu,
                    )
                    for batch, callers in CASES
                }
            except OSError as error:
                raise PeerError(f"broke off under load: {error}") from error

    def _connector(self, server: Server, running: Running, batch: int) -> Callable[[], Caller]:
        return partial(server.caller, running.port, server.path, server.write(self._images[batch]))

    def _until_ready(self, server: Server, running: Running) -> dict[int, int]:
        """Waits until a server answers rightly and steadily; returns the size of its answer to each batch."""
        until = time.monotonic() + _START_LIMIT
        while True:
            try:
                sizes = {batch: self._check(server, running, batch) for batch in BATCHES}
                for batch in BATCHES:
                    connect = self._connector(server, running, batch)
                    measure(connect, callers=8, seconds=_TRIAL, size=sizes[batch], server_cpu=float)
                return sizes
            except OSError as error:
                time.sleep(0.25)  # a process has no mark yet in the moment it begins
                if not running.processes.pids() or time.monotonic() > until:
                    raise PeerError(f"cannot be started: {error}; {running.log()}") from error

    def _check(self, server: Server, running: Running, batch: int) -> int:
        with self._connector(server, running, batch)() as caller:
            answer = caller()
        probabilities = np.frombuffer(server.read(answer, batch), np.float32)
        off = np.abs(probabilities - self._expected[batch]).max()
        if not off <= 1e-5:
            raise PeerError(f"answers wrongly: a probability is {off:.2g} off")
        return len(answer)


def _keep(
    others: list[Server], measured: dict[str, list[tuple[_Round, _Round]]], failures: dict[str, str], *, rounds: int
) -> None:
    rows = []
    for case in CASES:
        pairs = {name: [(ours[case], theirs[case]) for ours, theirs in both] for name, both in measured.items()}
        if all_ours := [ours for neighbours in pairs.values() for ours, _ in neighbours]:
            rows.append((f"{OURS_ON_TWO.title} {OURS.version}", *map(str, case), *_cells(all_ours), ""))
        for server in others:
            if neighbours := pairs.get(server.title):
                ratio = f"{np.median([ours.rate / theirs.rate for ours, theirs in neighbours]):.2f}"
                cells = _cells([theirs for _, theirs in neighbours])
                rows.append((f"{server.title} {server.version}", *map(str, case), *cells, ratio))
    table = ResultTable(
        title=f"Servers of the same net, median of {rounds} rounds",
        shows="Images in, probabilities out, over bare sockets. Ours runs one process per core, as its peers do; its "
        'default, one process, has lines of its own. "ours / peer" is the median ratio of requests/s in measurements '
        "next to each other.",
        columns=("server", "batch", "callers", *_FIGURES, "ours / peer"),
        rows=rows,
    )
    keep("peers", table)
    for name, reason in failures.items():
        Console(stderr=True).print(f"{name}: {reason}")


def _cells(figures: list[Figures]) -> list[str]:
    rate, median, p99, server, caller = np.median([astuple(each) for each in figures], axis=0)
    return [f"{rate:,.0f}", f"{median:.2f}", f"{p99:.2f}", f"{server:.2f}", f"{caller:.2f}"]


if __name__ == "__main__":
    typer.run(main)
