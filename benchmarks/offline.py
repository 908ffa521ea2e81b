"""Measures labelling dumps, from files to tables: ``python -m benchmarks.offline``.

Everything uses all cores. Each stage is measured alone, in turns with the whole run: reading the files, which are in
the page cache; checking, rendering and measuring attention that is in memory; the net on images that are in memory;
making rows and writing them as Parquet. Then the same run is repeated on one and two cores, and by one and two Ray
workers.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray
from safetensors.numpy import save_file

from attention_patterns import PatternClassifier
from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns.classification import Classification, MeasuredMaps, with_doubts
from attention_patterns.classifier import Classifier
from attention_patterns.labelling.output.part import IMAGES, Advance, Part, PartMaker
from attention_patterns.labelling.output.table import label_rows
from attention_patterns.labelling.run.ray_engine import ray_engine
from attention_patterns.labelling.run.run import Engine, in_process, label
from attention_patterns.labelling.sources.dumps.formats import open_dump
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.dumps.stored import SlabBuffer
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.sources.source import InputName, MeasuredInput, Unit
from benchmarks.harness import HEADS, LAYERS, in_turns, sample_attention
from benchmarks.tables import ResultTable, keep

LENGTH, INPUTS = 128, 560
_INPUTS_PER_PART = 28
_UNSTEADY = 4  # parts that come close together, since their makers began together
MAPS = LAYERS * HEADS
_CORES = len(os.sched_getaffinity(0))


def main(rounds: Annotated[int, typer.Option(help="Rounds, of which the median is taken.", min=1)] = 3) -> None:
    """Prints and keeps the tables."""
    classifier = PatternClassifier.load()
    classifier.warm_up()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        columns = (
            "dump",
            "read",
            "render, measure",
            "net",
            "write",
            "end to end",
            "end to end / slowest stage",
            "end to end / all stages in turn",
            "cores at work",
        )
        stages = ResultTable(
            title="Labelling dumps by stage, inputs/s",
            shows=f"Dumps of {LAYERS} x {HEADS} float16 maps of {LENGTH} tokens. Each stage is measured alone on all "
            'cores. "all stages in turn" is the rate of stages that follow each other without loss.',
            columns=columns,
            rows=[_stages(kind, place, classifier, rounds) for kind in _KINDS],  # 2.6 GB each
        )
        keep("offline_dumps", stages)
        keep("offline_scaling", _scaling(place / ".npy", classifier))


@dataclass(frozen=True)
class _Kind:
    """A format of dumps, with as many inputs per file as is usual, and the function that writes a file."""

    suffix: str
    inputs: int
    write: Callable[[Path, NDArray[Any]], None]


_KINDS = (
    _Kind(".npy", 28, np.save),
    _Kind(".npz", 1, lambda file, attention: np.savez(file, attention=attention[0])),
    _Kind(".safetensors", 28, lambda file, attention: save_file({"attention": attention}, file)),
)


def _stages(kind: _Kind, place: Path, classifier: PatternClassifier, rounds: int) -> tuple[str, ...]:
    attention = sample_attention(LENGTH).astype(np.float16)
    folder = place / kind.suffix
    folder.mkdir()
    for n in range(INPUTS // kind.inputs):
        kind.write(folder / f"{n}{kind.suffix}", np.repeat(attention[None], kind.inputs, axis=0))
    os.sync()  # or the disk would be busy with them meanwhile
    source = DumpSource(dump_tasks([str(folder)]), axes=Axes.INPUTS_FIRST)
    units, inputs = source.units(), INPUTS
    busy: list[float] = []

    def run() -> None:
        with _count_cores(busy):
            _label(PartMaker(source, classifier, Memory.from_now(None)), place / "run")

    measured = [_measure(classifier, attention) for _ in range(IMAGES // MAPS)]
    results = [with_doubts(result) for result in classifier.classify_measured(measured)]
    groups = inputs // len(measured)
    part = list(zip(measured, results, strict=True)) * (_INPUTS_PER_PART // len(measured))
    stages: dict[str, Callable[[], object]] = {
        "read": lambda: _on_all_cores(_read, units),
        "measure": lambda: _on_all_cores(lambda _: _measure(classifier, attention), range(inputs)),
        "net": lambda: _on_all_cores(lambda _: classifier.classify_measured(measured), range(groups)),
        "write": lambda: _on_all_cores(lambda _: _write(part, place), range(inputs // len(part))),
    }
    loads = in_turns({**stages, "run": run}, callers=1, seconds=0, rounds=rounds)
    rates = {name: 1000 * inputs / of_name.median for name, of_name in loads.items()}
    of_stages = [rates[name] for name in stages]
    return (
        f"{kind.suffix}, {kind.inputs} per file",
        *(f"{rate:,.0f}" for rate in rates.values()),
        f"{rates['run'] / min(of_stages):.2f}",
        f"{rates['run'] * sum(1 / rate for rate in of_stages):.2f}",
        f"{np.median(busy[1:]):.1f} of {_CORES}",
    )


@contextmanager
def _count_cores(busy: list[float]) -> Iterator[None]:
    """Adds the mean number of cores that were at work inside."""
    began, used = time.perf_counter(), time.process_time()
    yield
    busy.append((time.process_time() - used) / (time.perf_counter() - began))


def _on_all_cores(work: Callable[[Any], object], items: Sequence[Any]) -> None:
    with ThreadPoolExecutor(_CORES) as pool:
        list(pool.map(work, items))


def _read(unit: Unit) -> None:
    buffer = SlabBuffer()
    for inputs in unit.items:
        with open_dump(inputs.file) as dump:
            for n in inputs.indices:
                maps = dump.input(n if inputs.many else None).maps
                maps.check()
                maps.slab(tuple(range(LAYERS)), tuple(range(HEADS)), buffer)
                maps.finish()


def _measure(classifier: Classifier, attention: NDArray[Any]) -> MeasuredMaps:
    return classifier.measure_read(read_attention(attention, None), read_declaration(LENGTH))


def _write(part: Sequence[tuple[MeasuredMaps, Classification]], place: Path) -> None:
    inputs = [
        (MeasuredInput(InputName("task", str(n)), maps, range(LAYERS), range(HEADS)), result)
        for n, (maps, result) in enumerate(part)
    ]
    table = pa.Table.from_batches([label_rows(inputs)])
    sink: Any = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(memoryview(sink.getvalue()))
        os.fsync(file.fileno())


def _label(maker: PartMaker, run: Path, engine: Engine = in_process) -> None:
    shutil.rmtree(run, ignore_errors=True)
    result = label(maker, output=run, settings={}, engine=engine)
    if result.errors:
        raise SystemExit(f"{result.errors[0]['message']}")


def _scaling(folder: Path, classifier: PatternClassifier) -> ResultTable:
    rows = [("in-process", f"{n} cores" if n > 1 else "1 core", _on_cores(n, folder)) for n in (1, 2)]
    maker = PartMaker(DumpSource(dump_tasks([str(folder)]), axes=Axes.INPUTS_FIRST), classifier, Memory.from_now(None))
    for n in (1, 2):
        engine = ray_engine(PatternClassifier.load, address=None, max_memory=None, workers=n)
        rows.append(("Ray", f"{n} workers" if n > 1 else "1 worker", _pace(maker, folder.parent / "run", engine)))
    rate_of_one = {engine: pace.rate for engine, on, pace in rows if on.startswith("1")}
    return ResultTable(
        title="The same run by cores and by Ray workers",
        shows="The rate counts from the fourth part on; the first column of figures is the time until the first part.",
        columns=("engine", "on", "first part, s", "inputs/s", "maps/s", "times one core or worker"),
        rows=[
            (
                engine,
                on,
                f"{pace.first_part:.1f}",
                f"{pace.rate:,.1f}",
                f"{pace.rate * MAPS:,.0f}",
                f"{pace.rate / rate_of_one[engine]:.2f}",
            )
            for engine, on, pace in rows
        ],
    )


@dataclass(frozen=True)
class _Pace:
    """The pace of a run.

    Attributes:
        first_part: Seconds until the first part was made.
        rate: Inputs per second once there have been some parts.
    """

    first_part: float
    rate: float


def _pace(maker: PartMaker, run: Path, engine: Engine) -> _Pace:
    """Labels into the folder ``run``, and returns the pace."""
    made: list[tuple[float, int]] = []

    def watch(units: Sequence[Unit], maker: PartMaker, advance: Advance) -> Generator[Part, None, None]:
        for part in engine(units, maker, advance):
            made.append((time.perf_counter(), part.inputs))
            yield part

    began = time.perf_counter()
    _label(maker, run, watch)
    steady = made[_UNSTEADY - 1][0]
    rate = sum(inputs for _, inputs in made[_UNSTEADY:]) / (made[-1][0] - steady)
    return _Pace(made[0][0] - began, rate)


def _on_cores(cores: int, folder: Path) -> _Pace:
    """Returns the pace of a process that may use only so many cores."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from benchmarks.offline import print_pace; print_pace(sys.argv[1])",
            str(folder),
        ],
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
    )
    return _Pace(*map(float, done.stdout.split()))


def print_pace(folder: str) -> None:
    """Prints the pace at which this process labels the dumps of a folder."""
    classifier = PatternClassifier.load()
    classifier.warm_up()
    maker = PartMaker(DumpSource(dump_tasks([folder]), axes=Axes.INPUTS_FIRST), classifier, Memory.from_now(None))
    pace = _pace(maker, Path(folder).parent / "run", in_process)
    print(pace.first_part, pace.rate)  # noqa: T201  read by the process that compares


if __name__ == "__main__":
    typer.run(main)
