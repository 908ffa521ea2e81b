"""Speed of the compiled pass against copying its input: ``make bench``.

All are measured in turns in one run; the table gives medians. A copy is the limit: it reads and writes every value and
does nothing else. Two copies are shown: into memory that is there (``np.copyto``), and into new memory (``np.copy``).
All work on as many threads, each on its share of the layers.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from classifier.rendering import render

LAYERS, HEADS = 12, 12
IMAGE_SIZE = 48


def sample_attention(length: int) -> NDArray[np.float32]:
    """Attention [12, 12, L, L]: softmaxes of random logits with a sink in the first column."""
    logits = 2 * np.random.default_rng(length).standard_normal((LAYERS, HEADS, length, length), np.float32)
    logits[..., 0] += 4
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes, once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(rounds: Annotated[int, typer.Option(help="rounds, of which the median is taken", min=1)] = 15) -> None:
    """Prints the time of the compiled pass, and what part of it a copy takes."""
    table = Table(title=f"check, render and measure {LAYERS} x {HEADS} maps, median of {rounds} rounds")
    for heading in ("L", "dtype", "threads", "ms", "GB/s", "copyto / pass", "copy / pass"):
        table.add_column(heading, justify="right")
    for length in (128, 512):
        for dtype in (np.float32, np.float16):
            for threads in sorted({1, len(os.sched_getaffinity(0))}):
                maps = sample_attention(length).astype(dtype)
                shares = np.array_split(maps, threads)
                targets = np.array_split(np.empty_like(maps), threads)
                with ThreadPoolExecutor(threads) as pool:
                    works: list[Callable[[], object]] = [
                        lambda: list(pool.map(partial(render, image_size=IMAGE_SIZE), shares)),  # noqa: B023
                        lambda: list(pool.map(np.copyto, targets, shares)),  # noqa: B023  called in this turn
                        lambda: list(pool.map(np.copy, shares)),  # noqa: B023
                    ]
                    for work in works:
                        work()  # compiled or loaded, and memory is there
                    times = np.array([[seconds(work) for work in works] for _ in range(rounds)])
                once = float(np.median(times[:, 0]))
                ratios = np.median(times[:, 1:] / times[:, :1], axis=0)
                table.add_row(
                    str(length),
                    np.dtype(dtype).name,
                    str(threads),
                    f"{1000 * once:.1f}",
                    f"{maps.nbytes / once / 1e9:.1f}",
                    *(f"{ratio:.2f}" for ratio in ratios),
                )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
