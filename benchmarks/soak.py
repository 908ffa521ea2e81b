"""Measures start and memory of the server, and whether memory grows: ``python -m benchmarks.soak``."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
import typer

from attention_patterns_service.client import Client
from attention_patterns_service.command.demo import server_process
from benchmarks.harness import sample_attention
from benchmarks.overload import resident
from benchmarks.tables import ResultTable, keep


def main(
    calls: Annotated[int, typer.Option(help="Calls of one map each.", min=1000)] = 100_000,
    starts: Annotated[int, typer.Option(help="Starts, of which the median is taken.", min=1)] = 5,
) -> None:
    """Prints the time until the server answers, its memory when idle, and its memory after many calls."""
    times = []
    for _ in range(starts):
        begun = time.perf_counter()
        with server_process():
            times.append(time.perf_counter() - begun)
    with server_process() as (process, endpoint), Client(endpoint) as client:
        idle = resident(process.pid)
        maps = [sample_attention(length)[0, 0].astype(np.float16) for length in (32, 64, 100, 128)]
        memory = []
        with ThreadPoolExecutor(8) as pool:
            for _ in range(10):
                for result in pool.map(client.classify, (maps[n % 4] for n in range(calls // 10))):
                    assert result.length
                memory.append(resident(process.pid))
    rows = [
        ("cold start to ready, s", f"{np.median(times):.2f}"),
        ("memory when idle, MiB", f"{idle:.0f}"),
        (
            f"memory after {calls // 10:,}, {calls // 2:,} and {calls:,} calls, MiB",
            f"{memory[0]:.0f}, {memory[4]:.0f} and {memory[-1]:.0f}",
        ),
    ]
    table = ResultTable(
        title="Start and memory of the server",
        shows="Time until it answers, and its memory while 8 callers send one map per call.",
        columns=("figure", "value"),
        rows=rows,
    )
    keep("soak", table)


if __name__ == "__main__":
    typer.run(main)
