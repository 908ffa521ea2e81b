"""Our server against peers that serve the same net: ``python -m benchmarks.against_peers [--peers fastapi]``.

Images in, probabilities out, by all servers on this machine in one run. A peer is installed into an environment of its
own, from pins; of one that cannot run the reason is told. Only one server is alive at a time, since some
use the CPU while nobody calls them (Ray, LitServe). Ours, like the peers, runs a process a core; as it is
by default, one process, it is a row of its own. In each round every peer comes right after ours, and the ratios are of
these neighbours: the machine's own speed drifts from minute to minute.
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
from benchmarks.harness import keep
from benchmarks.peers.callers import Caller
from benchmarks.peers.catalogue import MODEL, OURS, OURS_ON_TWO, PEERS, Peer, PeerError, Running, Server
from benchmarks.peers.load import Figures, measure
from benchmarks.peers.net import Net

BATCHES = (144, 1)
CALLERS = (8, 1)
CASES = tuple(product(BATCHES, CALLERS))
_STARTING = 120.0  # seconds
_SETTLED = 1.0  # seconds under load without an error, before anything is measured

_FIGURES = ("requests/s", "p50 ms", "p99 ms", "server CPU ms", "caller CPU ms")  # CPU: of all processes, a request

_Case = tuple[int, int]
_Round = dict[_Case, Figures]


def main(
    peers: Annotated[
        list[str] | None, typer.Option(help="grpcio, fastapi, bentoml, litserve, mlserver or ray; all")
    ] = None,
    rounds: Annotated[int, typer.Option(help="rounds, of which the median is taken", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="length of one measurement", min=0.1)] = 3.0,
    cache: Annotated[Path, typer.Option(help="folder of the peers' environments")] = Path("run/peers"),
) -> None:
    """Prints requests a second and latencies of our server and its peers, and their ratios."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers are ended then, too
    known = {peer.name: replace(peer, environments=cache) for peer in PEERS}
    if unknown := set(peers or ()) - set(known):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    chosen = [known[name] for name in peers or known]
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
    _keep(others, measured, failures, title=f"Images to probabilities, median of {rounds} rounds")


def _images() -> dict[int, bytes]:
    """Batch -> images of the bundled sample, repeated as often as it takes."""
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
    """What every server goes through."""

    def __init__(self, images: dict[int, bytes], expected: dict[int, np.ndarray], seconds: float) -> None:
        """``expected`` are the probabilities of ``images``, by batch; a measurement takes ``seconds``."""
        self._images = images
        self._expected = expected
        self._seconds = seconds

    def run(self, server: Server) -> _Round:
        """Starts it, has it answer, loads it and ends it.

        Raises:
            PeerError: it does not start, answers wrongly, or breaks off.
        """
        with server.running() as running:
            sizes = self._until_ready(server, running)
            try:
                return {
                    (batch, callers): measure(
                        self._connecting(server, running, batch),
                        callers=callers,
                        seconds=self._seconds,
                        size=sizes[batch],
                        server_cpu=running.processes.cpu,
                    )
                    for batch, callers in CASES
                }
            except OSError as error:
                raise PeerError(f"broke off under load: {error}") from error

    def _connecting(self, server: Server, running: Running, batch: int) -> Callable[[], Caller]:
        return partial(server.caller, running.port, server.path, server.write(self._images[batch]))

    def _until_ready(self, server: Server, running: Running) -> dict[int, int]:
        """Waits until it answers rightly and steadily; the size of its answer to each batch."""
        until = time.monotonic() + _STARTING
        while True:
            try:
                sizes = {batch: self._checked(server, running, batch) for batch in BATCHES}
                for batch in BATCHES:
                    connect = self._connecting(server, running, batch)
                    measure(connect, callers=8, seconds=_SETTLED, size=sizes[batch], server_cpu=float)
                return sizes
            except OSError as error:
                time.sleep(0.25)  # before its processes are looked at, which have no mark in the moment they begin
                if not running.processes.pids() or time.monotonic() > until:
                    raise PeerError(f"cannot be started: {error}; {running.log()}") from error

    def _checked(self, server: Server, running: Running, batch: int) -> int:
        with self._connecting(server, running, batch)() as caller:
            answer = caller()
        probabilities = np.frombuffer(server.read(answer, batch), np.float32)
        off = np.abs(probabilities - self._expected[batch]).max()
        if not off <= 1e-5:
            raise PeerError(f"answers wrongly: a probability is {off:.2g} off")
        return len(answer)


def _keep(
    others: list[Server], measured: dict[str, list[tuple[_Round, _Round]]], failures: dict[str, str], *, title: str
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
    keep("peers", title, ("server", "batch", "callers", *_FIGURES, "ours / it"), rows)
    for name, reason in failures.items():
        Console(stderr=True).print(f"{name}: {reason}")


def _cells(figures: list[Figures]) -> list[str]:
    rate, median, p99, server, caller = np.median([astuple(one) for one in figures], axis=0)
    return [f"{rate:,.0f}", f"{median:.2f}", f"{p99:.2f}", f"{server:.2f}", f"{caller:.2f}"]


if __name__ == "__main__":
    typer.run(main)
