"""The labelled data set as a folder: ``maps.npz`` (map_id -> float16 [L, L]) and ``labels.csv`` (one row per map)."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.programs.whole_files import write_whole

CODES = dict(zip(("V", "D", "VD", "B", "H"), PATTERN_NAMES.tolist(), strict=True))  # short names, for answers by hand
DATA = Path(__file__).parents[1] / "data"
COLUMNS = (
    "map_id",
    "pattern",
    "second",
    "annotator_a",
    "annotator_a_second",
    "annotator_b",
    "annotator_b_second",
    "source",
    "model",
    "text_id",
    "layer",
    "head",
    "length",
    "direction",
    "segments",
    "split",
    "round",
)


@dataclass(frozen=True)
class LabelledMaps:
    """Maps and their rows in ``labels.csv``, in the same order.

    Attributes:
        maps: Attention maps [L, L].
        table: Rows of strings and integers, no NaN.
    """

    maps: tuple[NDArray[np.float16], ...]
    table: pd.DataFrame

    def rows(self, rows: NDArray[np.integer]) -> "LabelledMaps":
        """Returns the maps of some rows, by number."""
        return LabelledMaps(tuple(self.maps[row] for row in rows), self.table.iloc[rows].reset_index(drop=True))

    def split(self, name: str) -> "LabelledMaps":
        """Returns the maps of one split: "train", "validation", "test" or "held-out"."""
        return self.rows(np.flatnonzero(self.table["split"] == name))

    @property
    def one_segment(self) -> NDArray[np.bool_]:
        """Whether the input of each map is known to be one segment, bool [maps]."""
        segments = self.table["segments"]
        return np.asarray((segments != "") & ~segments.str.contains("+", regex=False))


def read_labels(folder: Path = DATA) -> pd.DataFrame:
    """Reads ``labels.csv``; empty cells are empty strings."""
    table = pd.read_csv(
        folder / "labels.csv", keep_default_na=False, dtype={"map_id": str, "text_id": str, "segments": str}
    )
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"{folder / 'labels.csv'}: columns {list(table.columns)}, expected {list(COLUMNS)}")
    return table


def write_labels(table: pd.DataFrame, folder: Path = DATA) -> None:
    """Writes ``labels.csv`` in one rename, so that a reader never sees half of it."""
    write_whole(folder / "labels.csv", table.to_csv(index=False, columns=list(COLUMNS), lineterminator="\n"))


def read_maps(folder: Path = DATA) -> dict[str, NDArray[np.float16]]:
    """Reads ``maps.npz``: map_id -> [L, L]."""
    with np.load(folder / "maps.npz", allow_pickle=False) as archive:
        return {map_id: archive[map_id] for map_id in archive.files}


def write_maps(maps: Mapping[str, NDArray[np.float16]], folder: Path = DATA) -> None:
    """Writes ``maps.npz`` in one rename."""
    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, **dict(maps))
    write_whole(folder / "maps.npz", archive.getvalue())


def read_dataset(folder: Path = DATA) -> LabelledMaps:
    """Reads maps and labels."""
    table = read_labels(folder)
    maps = read_maps(folder)
    return LabelledMaps(tuple(maps[map_id] for map_id in table["map_id"]), table)


def segment_lengths(cell: str) -> list[int]:
    """Returns the lengths in a cell of the column segments: "12+9" -> [12, 9]."""
    return [int(length) for length in cell.split("+")]
