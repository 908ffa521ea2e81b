"""Speed of the compiled pass, one thread, against doing a part of its work in numpy: ``make bench``.

All are measured in turns in one run; the table gives medians. The copy of the input is the limit: no pass that reads
and writes as much can be faster. The numpy columns do only that part, so that a ratio above 1 means that the kernel
checks, renders and measures in less time than numpy takes for the part alone.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from classifier.rendering import render

LAYERS, HEADS = 12, 12
IMAGE_SIZE = 64


def sample_attention(length: int) -> NDArray[np.float32]:
    """Attention [12, 12, L, L]: softmaxes of random logits with a sink in the first column."""
    logits = 2 * np.random.default_rng(length).standard_normal((LAYERS, HEADS, length, length), np.float32)
    logits[..., 0] += 4
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)


def _numpy_pooling(maps: NDArray[Any]) -> None:
    """Maximum and mean of the cells, rows first; L must be a multiple of the image size."""
    length = maps.shape[-1]
    bands = maps.astype(np.float32, copy=False).reshape(-1, IMAGE_SIZE, length // IMAGE_SIZE, length)
    for pool in (np.max, np.mean):
        pool(pool(bands, axis=2).reshape(-1, IMAGE_SIZE, IMAGE_SIZE, length // IMAGE_SIZE), axis=3)


def _numpy_entropy(maps: NDArray[Any]) -> None:
    """Mean row entropy."""
    values = maps.astype(np.float32, copy=False)
    -(values * np.log(np.maximum(values, 1e-30))).sum(axis=-1).mean(axis=-1)


def seconds(work: Callable[[NDArray[Any]], object], maps: NDArray[Any]) -> float:
    """How long ``work`` on ``maps`` takes, once."""
    started = time.perf_counter()
    work(maps)
    return time.perf_counter() - started


def main(rounds: Annotated[int, typer.Option(help="rounds, of which the median is taken", min=1)] = 9) -> None:
    """Prints the time of the compiled pass, and how many times as long a copy and the numpy parts take."""
    table = Table(title=f"the compiled pass, one thread, {LAYERS} x {HEADS} heads, median of {rounds} rounds")
    for heading in ("L", "dtype", "kernel, ms", "copy / kernel", "numpy pooling / kernel", "numpy entropy / kernel"):
        table.add_column(heading, justify="right")
    works = (lambda maps: render(maps, image_size=IMAGE_SIZE), np.copy, _numpy_pooling, _numpy_entropy)
    for length in (128, 512):
        for dtype in (np.float32, np.float16):
            maps = sample_attention(length).astype(dtype)
            render(maps, image_size=IMAGE_SIZE)  # compiled, or loaded
            times = np.array([[seconds(work, maps) for work in works] for _ in range(rounds)])
            ratios = np.median(times[:, 1:] / times[:, :1], axis=0)
            kernel = 1000 * np.median(times[:, 0])
            table.add_row(str(length), np.dtype(dtype).name, f"{kernel:.1f}", *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
