"""What an input costs each stage of a run on a cluster: ``python -m benchmarks.offline_cost``.

Measured on one core of this machine: what a worker reads and ships for an input of 12 x 12 heads at L=128 in float16,
how long it takes, and how fast the driver keeps parts. The last lines are on paper: what limits 100 nodes of 16 cores.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer
from rich.console import Console

from benchmarks.harness import HEADS, LAYERS, sample_attention
from classifier.labelling.dumps.plan import dump_tasks
from classifier.labelling.dumps.source import DumpSource
from classifier.labelling.folder import RunFolder
from classifier.labelling.memory import Memory
from classifier.labelling.part import PartMaker
from classifier.pattern_classifier import PatternClassifier

LENGTH = 128  # tokens
MAPS = LAYERS * HEADS  # of an input
NODES, CORES = 100, 16
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class InputCost:
    """What an input costs.

    Attributes:
        read: bytes of attention that a worker reads.
        shipped: bytes of Parquet that go to the driver.
        worker: seconds of one core, from the file to Parquet.
        driver: seconds in which the driver keeps its share of a part.
    """

    read: int
    shipped: float
    worker: float
    driver: float

    def limits(self, workers: int) -> dict[str, float]:
        """Maps a second that each stage could do: 1 / seconds, times how many do it."""
        return {"workers": workers * MAPS / self.worker, "driver": MAPS / self.driver}


def input_cost(*, inputs: int, rounds: int) -> InputCost:
    """Measures units of ``inputs`` inputs; medians over rounds, of which the first is not counted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maker = _maker(folder, inputs)
        (unit,) = maker.source.units()
        times, parts = zip(*_timed(lambda: maker.make(unit), rounds), strict=True)
        (folder / "run").mkdir()
        run = RunFolder(folder / "run")
        run.begin({})
        numbers = iter(range(rounds + 1))
        keeps, _ = zip(*_timed(lambda: run.keep(replace(parts[0], number=next(numbers))), rounds), strict=True)
    return InputCost(
        read=MAPS * LENGTH * LENGTH * 2,
        shipped=sum(map(len, parts[0].tables.values())) / inputs,
        worker=float(np.median(times)) / inputs,
        driver=float(np.median(keeps)) / inputs,
    )


def _maker(folder: Path, inputs: int) -> PartMaker:
    attention = np.stack([np.roll(sample_attention(LENGTH), n, axis=1) for n in range(inputs)]).astype(np.float16)
    tokens = np.array([["[CLS]", *(f"token{n}" for n in range(LENGTH - 2)), "[SEP]"]] * inputs)
    np.savez(folder / "dump.npz", attention=attention, tokens=tokens)
    source = DumpSource(dump_tasks([str(folder / "dump.npz")]))
    return PartMaker(source, PatternClassifier.load(threads=1), Memory(None))


def _timed(work: Callable[[], _Done], rounds: int) -> Iterator[tuple[float, _Done]]:
    work()
    for _ in range(rounds):
        started = time.perf_counter()
        done = work()
        yield time.perf_counter() - started, done


def main(
    inputs: Annotated[int, typer.Option(help="in a unit; 28 are 128 MiB", min=1)] = 28,
    rounds: Annotated[int, typer.Option(help="of which the median is taken", min=1)] = 5,
) -> None:
    """Prints what an input costs, and what limits 100 nodes of 16 cores."""
    cost, console = input_cost(inputs=inputs, rounds=rounds), Console(highlight=False, width=120)
    console.print(f"an input: {LAYERS} x {HEADS} heads, L={LENGTH}, float16; {MAPS} maps")
    console.print(f"worker reads {cost.read / MAPS:,.0f} bytes a map, ships {cost.shipped / MAPS:,.0f}")
    console.print(f"worker takes {cost.worker * 1e3:.1f} ms an input, the driver {cost.driver * 1e3:.2f} ms")
    console.print(f"{NODES} nodes x {CORES} cores, each stage by itself:")
    for stage, rate in cost.limits(NODES * CORES).items():
        read, shipped = rate / MAPS * cost.read / NODES / 1e6, rate / MAPS * cost.shipped / 1e6
        console.print(
            f"  {stage}: {rate:,.0f} maps a second; {read:,.0f} MB/s read a node, {shipped:,.0f} MB/s shipped"
        )


if __name__ == "__main__":
    typer.run(main)
