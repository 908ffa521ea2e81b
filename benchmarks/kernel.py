"""Measures the compiled pass against copying its input: ``python -m benchmarks.kernel``.

A copy is the limit: it reads and writes every value and does nothing else. Two copies are shown: into memory that
exists (``np.copyto``), and into new memory (``np.copy``). All of them use the same number of threads, each for its
share of the layers.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated

import numpy as np
import typer

from attention_patterns.bundle import ModelBundle
from attention_patterns.rendering import render
from benchmarks.harness import HEADS, LAYERS, in_turns, sample_attention
from benchmarks.tables import ResultTable, keep


def main(rounds: Annotated[int, typer.Option(help="Rounds, of which the median is taken.", min=1)] = 7) -> None:
    """Prints the time of the compiled pass, and the time of a copy as a share of it."""
    size, cores = ModelBundle.read().image_size, len(os.sched_getaffinity(0))
    rows = []
    for length in (128, 512):
        for dtype in (np.float32, np.float16):
            for threads in sorted({1, cores}):
                maps = sample_attention(length).astype(dtype)
                shares, targets = np.array_split(maps, threads), np.array_split(np.empty_like(maps), threads)
                with ThreadPoolExecutor(threads) as pool:
                    calls: dict[str, Callable[[], object]] = {
                        "pass": lambda: list(pool.map(partial(render, image_size=size), shares)),  # noqa: B023
                        "copyto": lambda: list(pool.map(np.copyto, targets, shares)),  # noqa: B023  called in this turn
                        "copy": lambda: list(pool.map(np.copy, shares)),  # noqa: B023
                    }
                    loads = in_turns(calls, callers=1, seconds=0.3, rounds=rounds)
                seconds = loads["pass"].median / 1000
                rows.append(
                    (
                        str(length),
                        np.dtype(dtype).name,
                        str(threads),
                        f"{1000 * seconds:.1f}",
                        f"{maps.nbytes / seconds / 1e9:.1f}",
                        f"{loads['copyto'].median / loads['pass'].median:.2f}",
                        f"{loads['copy'].median / loads['pass'].median:.2f}",
                    )
                )
    table = ResultTable(
        title=f"The compiled pass over {LAYERS} x {HEADS} maps",
        shows="Time of the pass that checks, renders and measures, and the time of copying the same values as a share "
        "of it: into memory that exists (`np.copyto`) and into new memory (`np.copy`).",
        columns=("L", "dtype", "threads", "ms", "GB/s", "copyto / pass", "copy / pass"),
        rows=rows,
    )
    keep("kernel", table)


if __name__ == "__main__":
    typer.run(main)
