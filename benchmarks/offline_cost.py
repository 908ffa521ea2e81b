"""Measures the cost of an input at each stage of a run on a cluster: ``python -m benchmarks.offline_cost``.

One core of this machine shows how many bytes a worker reads and ships for an input of 12 x 12 heads at L=128 in
float16, how long that takes, and what a part costs the driver. The table concludes from there what would limit 100
nodes of 16 cores.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import pyarrow as pa
import typer

from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.run.ray_cluster import open_cluster
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.pattern_classifier import PatternClassifier
from benchmarks.harness import HEADS, LAYERS, sample_attention
from benchmarks.tables import ResultTable, keep

LENGTH = 128  # tokens
MAPS = LAYERS * HEADS  # of an input
NODES, CORES = 100, 16
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class InputCost:
    """The cost of one input.

    Attributes:
        read: Bytes of attention that a worker reads.
        shipped: Bytes of Parquet that go to the driver.
        worker: Seconds of one core, from the file to Parquet.
        driver: Seconds that the driver takes to write its share of a part.
    """

    read: int
    shipped: float
    worker: float
    driver: float


def input_cost(*, inputs: int, rounds: int) -> InputCost:
    """Measures units of ``inputs`` inputs; returns medians over the rounds, of which the first is not counted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maker = _maker(folder, inputs)
        (unit,) = maker.source.units()
        times, parts = zip(*_time_rounds(lambda: maker.make(unit), rounds), strict=True)
        (folder / "run").mkdir()
        run = RunFolder(folder / "run")
        run.begin({})
        numbers = iter(range(rounds + 1))
        keeps, _ = zip(*_time_rounds(lambda: run.keep(replace(parts[0], number=next(numbers))), rounds), strict=True)
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
    source = DumpSource(dump_tasks([str(folder / "dump.npz")]), axes=Axes.INPUTS_FIRST)
    return PartMaker(source, PatternClassifier.load(threads=1), Memory(None))


def _time_rounds(work: Callable[[], _Done], rounds: int) -> Iterator[tuple[float, _Done]]:
    work()
    for _ in range(rounds):
        started = time.perf_counter()
        done = work()
        yield time.perf_counter() - started, done


def _time_of_ray(shipped: int, parts: int) -> float:
    """Returns the seconds of processor time that the driver takes to receive a part of so many bytes by Ray Data."""
    with open_cluster(None, 2) as ray:
        rows = ray.data.from_items([{"number": n} for n in range(parts)], override_num_blocks=parts)
        dataset = rows.map_batches(partial(_part_of, shipped), batch_size=1, batch_format="pyarrow")
        dataset.context.enable_progress_bars = False
        batches = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        next(batches)
        used = time.process_time()
        count = sum(1 for _ in batches)
        return (time.process_time() - used) / count


def _part_of(size: int, _: pa.Table) -> pa.Table:
    return pa.table({"labels": pa.array([bytes(size)], pa.large_binary())})


def main(
    inputs: Annotated[int, typer.Option(help="Inputs of a unit; 28 are 128 MiB.", min=1)] = 28,
    rounds: Annotated[int, typer.Option(help="Rounds, of which the median is taken.", min=1)] = 5,
) -> None:
    """Prints the cost of an input at each stage, and the rate that each stage would allow 100 nodes of 16 cores."""
    cost = input_cost(inputs=inputs, rounds=rounds)
    ray = _time_of_ray(round(cost.shipped * inputs), 200) / inputs
    stages = {
        f"{NODES * CORES:,} cores: read, render, measure, classify": (cost.worker, NODES * CORES),
        "driver: parts through Ray Data": (ray, 1),
        "driver: parts to the disk": (cost.driver, 1),
    }
    rows = []
    for stage, (seconds, workers) in stages.items():
        rate = workers / seconds
        read, shipped = rate * cost.read / NODES / 1e6, rate * cost.shipped / 1e6
        rows.append((stage, f"{1000 * seconds:.2f}", f"{rate * MAPS:,.0f}", f"{read:,.0f}", f"{shipped:,.1f}"))
    table = ResultTable(
        title=f"{NODES} nodes of {CORES} cores, on paper",
        shows="Computed from costs on one core: the rate that each stage could reach by itself, with "
        f"{LAYERS} x {HEADS} float16 maps of {LENGTH} tokens. A map has {cost.read // MAPS:,} bytes to read and "
        f"{cost.shipped / MAPS:,.0f} to ship.",
        columns=("stage", "ms per input", "maps/s", "read, MB/s per node", "shipped, MB/s"),
        rows=rows,
    )
    keep("offline_cost", table)


if __name__ == "__main__":
    typer.run(main)
