"""Labelling dumps offline, from files to tables: ``python -m benchmarks.offline``.

Everything works on all cores. The stages are measured alone, in turns with the whole: reading the files, which are in
the page cache; checking, rendering and measuring attention that is in memory; the net on images that are; making rows
and writing them as Parquet. Then the same job with one and two cores, and one and two Ray workers.
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
from attention_patterns.labelling.sources.dumps.formats import opened_dump
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.dumps.stored import SlabBuffer
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.sources.source import InputName, MeasuredInput, Unit
from benchmarks.harness import HEADS, LAYERS, in_turns, keep, sample_attention

LENGTH, INPUTS, _A_PART = 128, 560, 28
_UNSTEADY = 4  # parts that come close together, since their makers began together
MAPS = LAYERS * HEADS
_CORES = len(os.sched_getaffinity(0))


def main(rounds: Annotated[int, typer.Option(help="rounds, of which the median is taken", min=1)] = 3) -> None:
    """Prints and keeps the tables."""
    classifier = PatternClassifier.load()
    classifier.warm_up()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        rows = [_stages(kind, place, classifier, rounds) for kind in _KINDS]  # 2.6 GB each
        title = f"Labelling dumps of {LAYERS} x {HEADS} float16 maps, L = {LENGTH}: inputs/s by stage, and end to end"
        columns = (
            "dump",
            "read",
            "render, measure",
            "net",
            "write",
            "end to end",
            "/ slowest stage",
            "/ all stages in turn",
            "cores at work",
        )
        keep("offline_dumps", title, columns, rows)
        keep("offline_scaling", "The same job by cores and by Ray workers", *_scaling(place / ".npy", classifier))


@dataclass(frozen=True)
class _Kind:
    """A format of dumps, as people use it: inputs to a file, and how one is written."""

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
    source = DumpSource(dump_tasks([str(folder)]))
    units, inputs = source.units(), INPUTS
    busy: list[float] = []

    def whole() -> None:
        with _counted(busy):
            _labelled(PartMaker(source, classifier, Memory.from_now(None)), place / "run")

    measured = [_measured(classifier, attention) for _ in range(IMAGES // MAPS)]
    results = [with_doubts(result) for result in classifier.classify_measured(measured)]
    groups = inputs // len(measured)
    a_part = list(zip(measured, results, strict=True)) * (_A_PART // len(measured))
    works: dict[str, Callable[[], object]] = {
        "read": lambda: _everywhere(_read, units),
        "measure": lambda: _everywhere(lambda _: _measured(classifier, attention), range(inputs)),
        "net": lambda: _everywhere(lambda _: classifier.classify_measured(measured), range(groups)),
        "write": lambda: _everywhere(lambda _: _written(a_part, place), range(inputs // len(a_part))),
        "whole": whole,
    }
    found = in_turns(works, callers=1, seconds=0, rounds=rounds)
    rates = {name: 1000 * inputs / one.median for name, one in found.items()}
    stages = [rate for name, rate in rates.items() if name != "whole"]
    return (
        f"{kind.suffix}, {kind.inputs} a file",
        *(f"{rates[name]:,.0f}" for name in works),
        f"{rates['whole'] / min(stages):.2f}",
        f"{rates['whole'] * sum(1 / rate for rate in stages):.2f}",
        f"{np.median(busy[1:]):.1f} of {_CORES}",
    )


@contextmanager
def _counted(busy: list[float]) -> Iterator[None]:
    """How many cores were at work on the average."""
    began, used = time.perf_counter(), time.process_time()
    yield
    busy.append((time.process_time() - used) / (time.perf_counter() - began))


def _everywhere(work: Callable[[Any], object], items: Sequence[Any]) -> None:
    with ThreadPoolExecutor(_CORES) as pool:
        list(pool.map(work, items))


def _read(unit: Unit) -> None:
    buffer = SlabBuffer()
    for part in unit.items:
        with opened_dump(part.file) as dump:
            for n in part.indices:
                maps = dump.input(n if part.many else None).maps
                maps.check()
                maps.slab(tuple(range(LAYERS)), tuple(range(HEADS)), buffer)
                maps.finish()


def _measured(classifier: Classifier, attention: NDArray[Any]) -> MeasuredMaps:
    return classifier.measure_read(read_attention(attention, None), read_declaration(LENGTH))


def _written(part: Sequence[tuple[MeasuredMaps, Classification]], place: Path) -> None:
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


def _labelled(maker: PartMaker, run: Path, engine: Engine = in_process) -> None:
    shutil.rmtree(run, ignore_errors=True)
    result = label(maker, output=run, settings={}, engine=engine)
    if result.errors:
        raise SystemExit(f"{result.errors[0]['message']}")


def _scaling(folder: Path, classifier: PatternClassifier) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    rows = [("in-process", f"{n} cores" if n > 1 else "1 core", _on_cores(n, folder)) for n in (1, 2)]
    maker = PartMaker(DumpSource(dump_tasks([str(folder)])), classifier, Memory.from_now(None))
    for n in (1, 2):
        engine = ray_engine(PatternClassifier.load, address=None, max_memory=None, workers=n)
        rows.append(("Ray", f"{n} workers" if n > 1 else "1 worker", _pace(maker, folder.parent / "run", engine)))
    columns = ("engine", "on", "before the first part, s", "inputs/s", "maps/s", "times one")
    ones = {engine: pace[1] for engine, on, pace in rows if on.startswith("1")}
    return columns, [
        (engine, on, f"{start:.1f}", f"{rate:,.1f}", f"{rate * MAPS:,.0f}", f"{rate / ones[engine]:.2f}")
        for engine, on, (start, rate) in rows
    ]


def _pace(maker: PartMaker, run: Path, engine: Engine) -> tuple[float, float]:
    """Seconds until the first part is there, and inputs a second once there have been some."""
    made: list[tuple[float, int]] = []

    def watched(units: Sequence[Unit], maker: PartMaker, advance: Advance) -> Generator[Part, None, None]:
        for part in engine(units, maker, advance):
            made.append((time.perf_counter(), part.inputs))
            yield part

    began = time.perf_counter()
    _labelled(maker, run, watched)
    start, begin = made[0][0] - began, made[_UNSTEADY - 1][0]
    return start, sum(inputs for _, inputs in made[_UNSTEADY:]) / (made[-1][0] - begin)


def _on_cores(cores: int, folder: Path) -> tuple[float, float]:
    """The pace of a process that may use only so many cores."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from benchmarks.offline import paced; paced(sys.argv[1])", str(folder)],
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
    )
    start, rate = map(float, done.stdout.split())
    return start, rate


def paced(folder: str) -> None:
    """Prints the pace at which this process labels the dumps of a folder."""
    classifier = PatternClassifier.load()
    classifier.warm_up()
    maker = PartMaker(DumpSource(dump_tasks([folder])), classifier, Memory.from_now(None))
    print(*_pace(maker, Path(folder).parent / "run", in_process))  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
