"""The inputs whose maps the page shows: chosen among those whose images were kept, and read from the tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.output.table import HEAD_MEASURES, PROBABILITIES
from attention_patterns.patterns import PATTERNS
from attention_patterns.rendering import CHANNELS

MOST = 8  # examples of a stack
_SPREAD = (0, 4, 2, 6, 1, 5, 3, 7)  # an order in which the first few lie apart, too
_BATCH = 1024  # rows of images read at a time

StackKey = tuple[str | None, ...]  # task, model, part
_KEY = ["task", "model", "part", "input_id"]


@dataclass(frozen=True)
class Example:
    """One input as it was labelled; its arrays have a place for each map, in the order of the labels.

    Attributes:
        input_id: Id, as in the tables.
        length: Number of tokens.
        tokens: Tokens; None where they were not declared.
        warnings: Sentences on what may be wrong with the input.
        layers: Layer of each map, int64 [maps].
        heads: Head of each map, int64 [maps].
        patterns: Pattern of each map as an index in the order of ``Pattern``, int64 [maps].
        probabilities: Answer of the net, float64 [maps, 5].
        uncertain: Whether the answer is uncertain, bool [maps].
        evidence: HEAD_MEASURES of each map, float64 [maps, measures]; NaN where the input does not have a measure.
        shades: First channel of the images, uint8 [maps, cells, cells]; a cell is a token of an input that is shorter
            than the image.
    """

    input_id: str
    length: int
    tokens: Sequence[str] | None
    warnings: Sequence[str]
    layers: NDArray[np.int64]
    heads: NDArray[np.int64]
    patterns: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    uncertain: NDArray[np.bool_]
    evidence: NDArray[np.float64]
    shades: NDArray[np.uint8]


@dataclass(frozen=True)
class Chosen:
    """The inputs of one stack to show, at most ``MOST``.

    Attributes:
        parts: Input id -> name of its file in each table; the first few ids lie apart in the run.
        order: Input ids in the order of the run.
    """

    parts: Mapping[str, str]
    order: tuple[str, ...]


def choose(folder: RunFolder) -> dict[StackKey, Chosen]:
    """Chooses inputs of each stack, spread evenly over those whose images were kept."""
    kept: dict[StackKey, dict[str, str]] = {}
    for file in folder.table_files("maps"):
        keys = pq.read_table(file, columns=_KEY)
        plain = pa.table({name: keys[name].cast(pa.string()) for name in _KEY})
        for row in plain.group_by(_KEY, use_threads=False).aggregate([]).to_pylist():
            kept.setdefault((row["task"], row["model"], row["part"]), {})[row["input_id"]] = file.name
    return {key: _spread(inputs) for key, inputs in kept.items()}


def _spread(inputs: Mapping[str, str]) -> Chosen:
    ids = list(inputs)
    count = min(MOST, len(ids))
    even = [ids[n * len(ids) // count] for n in range(count)]
    ordered = [even[n] for n in _SPREAD if n < count]
    return Chosen(parts={input_id: inputs[input_id] for input_id in ordered}, order=tuple(even))


def read_examples(folder: RunFolder, key: StackKey, chosen: Chosen) -> Iterator[Example]:
    """Reads the chosen inputs of a stack, one file at a time, the first in ``chosen.parts`` first."""
    for name in dict.fromkeys(chosen.parts.values()):
        ids = [input_id for input_id, part in chosen.parts.items() if part == name]
        tables = {table: _read_rows(folder.path / table / name, key, ids) for table in ("labels", "inputs", "maps")}
        for input_id in ids:
            rows = {name: table.filter(pa.compute.equal(table["input_id"], input_id)) for name, table in tables.items()}
            if all(table.num_rows for table in rows.values()):
                yield _make_example(rows["inputs"].to_pylist()[0], rows["labels"], rows["maps"])


def _read_rows(file: Path, key: StackKey, ids: Sequence[str]) -> pa.Table:
    """Reads the rows of some inputs of a table, batch by batch, so that few images are in memory at once."""
    wanted = pa.array(ids, pa.string())
    opened = pq.ParquetFile(file)
    kept = []
    for batch in opened.iter_batches(batch_size=_BATCH):
        keep = pa.compute.is_in(batch["input_id"], value_set=wanted)
        for column, value in zip(("task", "model", "part"), key, strict=True):
            keep = pa.compute.and_(keep, _equal(batch[column].cast(pa.string()), value))
        kept.append(batch.filter(keep))
    return pa.Table.from_batches(kept, schema=opened.schema_arrow)


def _equal(column: pa.Array, value: str | None) -> pa.Array:
    return column.is_null() if value is None else pa.compute.equal(column, value).fill_null(False)


def _make_example(row: Mapping[str, Any], labels: pa.Table, maps: pa.Table) -> Example:
    place = {cell: n for n, cell in enumerate(zip(*_layers_and_heads(maps), strict=True))}
    layers, heads = _layers_and_heads(labels)
    order = [place[cell] for cell in zip(layers, heads, strict=True)]
    names = [str(pattern) for pattern in PATTERNS]
    return Example(
        input_id=row["input_id"],
        length=row["length"],
        tokens=row["tokens"],
        warnings=row["warnings"] or [],
        layers=np.array(layers),
        heads=np.array(heads),
        patterns=np.array([names.index(name) for name in labels["pattern"].to_pylist()]),
        probabilities=np.stack([labels[name].to_numpy() for name in PROBABILITIES], axis=1).astype(np.float64),
        uncertain=labels["uncertain"].to_numpy(),
        evidence=np.stack([labels[name].to_numpy() for name in HEAD_MEASURES], axis=1).astype(np.float64),
        shades=_read_shades(maps["image"].take(order), row["length"]),
    )


def _layers_and_heads(table: pa.Table) -> tuple[list[int], list[int]]:
    return table["layer"].to_pylist(), table["head"].to_pylist()


def _read_shades(images: pa.ChunkedArray, length: int) -> NDArray[np.uint8]:
    """Returns the first channel of images; a map of fewer tokens than pixels gives one pixel per token."""
    flat = np.stack([np.frombuffer(image.as_py(), np.uint8) for image in images])
    size = round((flat.shape[1] / CHANNELS) ** 0.5)
    first = flat.reshape(-1, CHANNELS, size, size)[:, 0]
    cells = min(length, size)
    pixels = [-(-cell * size // cells) for cell in range(cells)]  # the first of each cell
    return np.ascontiguousarray(first[:, pixels][:, :, pixels])
