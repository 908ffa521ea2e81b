"""The labelled data set as a folder: ``maps.npz`` (map_id -> float16 [L, L]) and ``labels.csv`` (one row a map)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attention_patterns.patterns import PATTERN_NAMES

CODES = dict(zip(("V", "D", "VD", "B", "H"), PATTERN_NAMES.tolist(), strict=True))  # short for answers by hand
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


class Annotator(StrEnum):
    """Whose answers: the two blind passes, and the third look at the maps on which they differ."""

    A = "a"
    B = "b"
    THIRD = "third"


@dataclass(frozen=True)
class LabelledMaps:
    """Maps and their rows in ``labels.csv``, in the same order; ``table`` holds strings and integers, no NaN."""

    maps: tuple[NDArray[np.float16], ...]
    table: pd.DataFrame

    def part(self, split: str) -> "LabelledMaps":
        """The maps of one split: "train", "validation" or "test"."""
        rows = np.flatnonzero(self.table["split"] == split)
        return LabelledMaps(tuple(self.maps[i] for i in rows), self.table.iloc[rows].reset_index(drop=True))


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
    partial = folder / "labels.csv.partial"
    table.to_csv(partial, index=False, columns=list(COLUMNS), lineterminator="\n")
    partial.replace(folder / "labels.csv")


def read_maps(folder: Path = DATA) -> dict[str, NDArray[np.float16]]:
    """Reads ``maps.npz``: map_id -> [L, L]."""
    with np.load(folder / "maps.npz", allow_pickle=False) as archive:
        return {map_id: archive[map_id] for map_id in archive.files}


def write_maps(maps: Mapping[str, NDArray[np.float16]], folder: Path = DATA) -> None:
    """Writes ``maps.npz`` in one rename."""
    partial = folder / "maps.npz.partial"
    with partial.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **dict(maps))
    partial.replace(folder / "maps.npz")


def read_dataset(folder: Path = DATA) -> LabelledMaps:
    """Reads maps and labels."""
    table = read_labels(folder)
    maps = read_maps(folder)
    return LabelledMaps(tuple(maps[map_id] for map_id in table["map_id"]), table)


def segment_lengths(cell: str) -> list[int]:
    """The ``segments`` column as lengths: "12+9" -> [12, 9]."""
    return [int(length) for length in cell.split("+")]


def disputed(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Where both annotators answered and differ."""
    a, b = table["annotator_a"].to_numpy(), table["annotator_b"].to_numpy()
    return np.asarray((a != "") & (b != "") & (a != b))
