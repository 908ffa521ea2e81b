"""The rows of a Hugging Face data set: from the hub, from its local cache, or from a folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.texts.rows import BadRow, Columns, Row, row_of
from attention_patterns.programs.extras import name_missing_extra

DEFAULT_SPLITS = ("validation", "validation_matched", "test", "train")


@dataclass(frozen=True)
class DatasetSpec:
    """A data set as it was given.

    Attributes:
        path: Folder, or name on the hub, either perhaps with "/" and the name of a configuration behind it.
        split: Split, as ``datasets.load_dataset`` takes it; "" for the first of ``DEFAULT_SPLITS`` that exists.
    """

    path: str
    split: str

    @classmethod
    def parse(cls, text: str) -> "DatasetSpec":
        """Reads NAME[/CONFIG][:SPLIT].

        Raises:
            SourceError: The name is missing.
        """
        path, _, split = text.partition(":")
        if not path.strip("/"):
            raise SourceError(f"datasets:{text} names no data set, expected datasets:NAME[/CONFIG][:SPLIT]")
        return cls(path.rstrip("/"), split)


@dataclass(frozen=True)
class DatasetRows:
    """The rows of a split; their numbers count from 0, as in the data set."""

    split: str
    rows: list[Row | BadRow]


def read_dataset(spec: DatasetSpec, *, columns: Columns) -> DatasetRows:
    """Reads the texts of a data set.

    Raises:
        SourceError: The data set is unknown, out of reach or damaged, or lacks the split or the columns.
        MissingExtraError: The package ``datasets`` is not installed.
    """
    with name_missing_extra("datasets", needed_by=f"datasets:{spec.path}"):
        import datasets  # noqa: PLC0415  it takes seconds to import
    failures = (datasets.exceptions.DatasetsError, OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError)
    try:
        datasets.disable_progress_bars()
        split, table = _choose_split(_load(spec), spec)
        chosen = columns.choose(table.column_names, where=f"datasets:{spec.path}, split {split!r},")
        needed = dict.fromkeys([*chosen.texts, *([] if chosen.key is None else [chosen.key])])
        values = table.with_format(None).select_columns(list(needed))[:]
    except failures as error:
        raise SourceError(f"datasets:{spec.path} cannot be read: {str(error).strip()}") from error
    return DatasetRows(split, _read_rows(values, chosen))


def _read_rows(values: Mapping[str, list[object]], columns: Columns) -> list[Row | BadRow]:
    rows = zip(*values.values(), strict=True)
    return [row_of(number, dict(zip(values, row, strict=True)), columns) for number, row in enumerate(rows)]


def _load(spec: DatasetSpec) -> Any:
    """Loads all splits by name, or the one that is wanted."""
    import datasets  # noqa: PLC0415

    folder = Path(spec.path)
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(spec.path)
    split = spec.split or None
    outer, _, last = spec.path.rpartition("/")
    if folder.is_dir() or not outer:
        return datasets.load_dataset(spec.path, split=split)
    if Path(outer).is_dir():
        return datasets.load_dataset(outer, last, split=split)
    try:
        return datasets.load_dataset(spec.path, split=split)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        return _load_configuration(outer, last, split, error)


def _load_configuration(name: str, configuration: str, split: str | None, unknown: Exception) -> Any:
    """Loads a data set whose path ends in a configuration, once the whole path turned out to be ``unknown``."""
    import datasets  # noqa: PLC0415

    try:
        return datasets.load_dataset(name, configuration, split=split)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise SourceError(
            f"datasets:{name}/{configuration} is not a folder and cannot be loaded from the hub: {unknown}"
        ) from error


def _choose_split(loaded: Any, spec: DatasetSpec) -> tuple[str, Any]:
    import datasets  # noqa: PLC0415

    if not isinstance(loaded, datasets.DatasetDict):
        return spec.split or str(loaded.split or "row"), loaded
    names = [spec.split] if spec.split else DEFAULT_SPLITS
    for name in names:
        if name in loaded:
            return name, loaded[name]
    expected = repr(spec.split) if spec.split else f"one of {', '.join(DEFAULT_SPLITS)}"
    raise SourceError(
        f"datasets:{spec.path} has the splits {', '.join(loaded)}, expected {expected}; name one: "
        f"datasets:{spec.path}:{next(iter(loaded))}"
    )
