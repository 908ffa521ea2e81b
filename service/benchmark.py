"""Speed of serving against the same work in one process: ``make bench``.

Both are measured in one run, in turns over several rounds; the table gives medians and their ratio, which stays put
where the machine's own speed drifts.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from classifier import PatternClassifier
from classifier.benchmark import HEADS, LAYERS, sample_attention
from service.client import Client
from service.demo import running_server

CALLERS = (1, 4)


def maps_per_second(
    classify: Callable[[NDArray[Any]], object], maps: NDArray[Any], *, callers: int, seconds: float
) -> float:
    """Rate of ``callers`` threads that call ``classify`` on ``maps`` for at least ``seconds``."""
    until = time.perf_counter() + seconds

    def call(_: int) -> int:
        calls = 0
        while not calls or time.perf_counter() < until:
            classify(maps)
            calls += 1
        return calls

    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        calls = sum(pool.map(call, range(callers)))
    return calls * LAYERS * HEADS / (time.perf_counter() - started)


def main(
    rounds: Annotated[int, typer.Option(help="rounds, of which the median is taken", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="length of one measurement", min=0.1)] = 1.5,
) -> None:
    """Prints maps a second in-process and through gRPC, and their ratio."""
    table = Table(title=f"{LAYERS} x {HEADS} heads, maps/s, median of {rounds} rounds")
    for heading in ("L", "dtype", "callers", "in-process", "gRPC", "ratio"):
        table.add_column(heading, justify="right")
    classifier = PatternClassifier.load()
    with running_server() as endpoint, Client(endpoint) as client:
        for length in (64, 128, 512):
            for dtype in (np.float32, np.float16):
                maps = sample_attention(length).astype(dtype)
                for callers in CALLERS:
                    classifier.classify(maps), client.classify(maps)
                    rates = np.array(
                        [
                            [
                                maps_per_second(door.classify, maps, callers=callers, seconds=seconds)
                                for door in (classifier, client)
                            ]
                            for _ in range(rounds)
                        ]
                    )
                    here, served = np.median(rates, axis=0)
                    ratio = np.median(rates[:, 1] / rates[:, 0])
                    table.add_row(
                        str(length),
                        np.dtype(dtype).name,
                        str(callers),
                        f"{here:,.0f}",
                        f"{served:,.0f}",
                        f"{ratio:.2f}",
                    )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
