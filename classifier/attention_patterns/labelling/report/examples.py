"""The inputs whose maps the report shows: chosen among those whose images were kept, and read from the tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.output.table import PROBABILITIES
from attention_patterns.patterns import PATTERNS
from attention_patterns.rendering import CHANNELS

MOST = 8  # examples of a stack
EVIDENCE = ("visible_mass", "stripe_mass", "line_mass")
_SPREAD = (0, 4, 2, 6, 1, 5, 3, 7)  # the first few of them lie apart, too
_BATCH = 1024  # rows of images read at a time

StackKey = tuple[str | None, ...]  # task, model, part
_KEY = ["task", "model", "part", "input_id"]


@dataclass(frozen=True)
class Example:
    """One input, as it was labelled; arrays have a place for each map, in the order of the labels.

    Attributes:
        input_id: as in the tables.
        length: tokens.
        tokens: None where they were not declared.
        warnings: sentences on what may be wrong with it.
        layers: int64 [maps].
        heads: int64 [maps].
        patterns: in the order of ``Pattern``, int64 [maps].
        probabilities: float64 [maps, 5].
        uncertain: bool [maps].
        evidence: EVIDENCE, float64 [maps, 3].
        shades: the first channel of the images, uint8 [maps, cells, cells], cells without the blowing up of short maps.
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
    """Inputs of one stack to show, at most ``MOST``, best first.

    Attributes:
        parts: input id -> the name of its file in each table.
        order: of all the inputs, so that they can be shown as they stood.
    """

    parts: Mapping[str, str]
    order: tuple[str, ...]


def choose(folder: RunFolder) -> dict[StackKey, Chosen]:
    """Stack -> inputs whose images were kept, spread evenly over them."""
    found: dict[StackKey, dict[str, str]] = {}
    for file in folder.table_files("maps"):
        keys = pq.read_table(file, columns=_KEY)
        plain = pa.table({name: keys[name].cast(pa.string()) for name in _KEY})
        for row in plain.group_by(_KEY, use_threads=False).aggregate([]).to_pylist():
            found.setdefault((row["task"], row["model"], row["part"]), {})[row["input_id"]] = file.name
    return {key: _spread(inputs) for key, inputs in found.items()}


def _spread(inputs: Mapping[str, str]) -> Chosen:
    ids = list(inputs)
    count = min(MOST, len(ids))
    even = [ids[n * len(ids) // count] for n in range(count)]
    ordered = [even[n] for n in _SPREAD if n < count]
    return Chosen(parts={one: inputs[one] for one in ordered}, order=tuple(even))


def read_examples(folder: RunFolder, key: StackKey, chosen: Chosen) -> Iterator[Example]:
    """Reads the chosen inputs of a stack, one file at a time; best first."""
    for name in dict.fromkeys(chosen.parts.values()):
        ids = [one for one, part in chosen.parts.items() if part == name]
        read = {table: _rows(folder.path / table / name, key, ids) for table in ("labels", "inputs", "maps")}
        for one in ids:
            of_one = {table: rows.filter(pa.compute.equal(rows["input_id"], one)) for table, rows in read.items()}
            if all(rows.num_rows for rows in of_one.values()):
                yield _example(of_one["inputs"].to_pylist()[0], of_one["labels"], of_one["maps"])


def _rows(file: Path, key: StackKey, ids: Sequence[str]) -> pa.Table:
    """The rows of some inputs of a table; images are never all in memory."""
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


def _example(said: Mapping[str, object], labels: pa.Table, maps: pa.Table) -> Example:
    place = {at: n for n, at in enumerate(zip(*_places(maps), strict=True))}
    layers, heads = _places(labels)
    order = [place[at] for at in zip(layers, heads, strict=True)]
    names = [str(pattern) for pattern in PATTERNS]
    length = int(str(said["length"]))
    return Example(
        input_id=str(said["input_id"]),
        length=length,
        tokens=said["tokens"],  # type: ignore[arg-type]  # as the table's schema says
        warnings=said["warnings"] or [],  # type: ignore[arg-type]  # likewise
        layers=np.array(layers),
        heads=np.array(heads),
        patterns=np.array([names.index(name) for name in labels["pattern"].to_pylist()]),
        probabilities=np.stack([labels[name].to_numpy() for name in PROBABILITIES], axis=1).astype(np.float64),
        uncertain=labels["uncertain"].to_numpy(),
        evidence=np.stack([labels[name].to_numpy() for name in EVIDENCE], axis=1).astype(np.float64),
        shades=_shades(maps["image"].take(order), length),
    )


def _places(table: pa.Table) -> tuple[list[int], list[int]]:
    return table["layer"].to_pylist(), table["head"].to_pylist()


def _shades(images: pa.ChunkedArray, length: int) -> NDArray[np.uint8]:
    """The first channel, of which a map of fewer tokens than pixels gives one pixel a token."""
    flat = np.stack([np.frombuffer(one.as_py(), np.uint8) for one in images])
    size = round((flat.shape[1] / CHANNELS) ** 0.5)
    first = flat.reshape(-1, CHANNELS, size, size)[:, 0]
    cells = min(length, size)
    pixels = [-(-cell * size // cells) for cell in range(cells)]  # the first of each cell
    return np.ascontiguousarray(first[:, pixels][:, :, pixels])
