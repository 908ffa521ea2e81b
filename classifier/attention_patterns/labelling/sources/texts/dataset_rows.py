"""The rows of a Hugging Face data set: of the hub, of its local cache, or of a folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.texts.rows import BadRow, Columns, Row, row_of

DEFAULT_SPLITS = ("validation", "validation_matched", "test", "train")


@dataclass(frozen=True)
class DatasetSpec:
    """A data set as it was asked for.

    Attributes:
        path: a folder, or a name on the hub; either may be followed by "/" and the name of a configuration.
        split: as ``datasets.load_dataset`` takes it, or "" for the first of ``DEFAULT_SPLITS`` that is there.
    """

    path: str
    split: str

    @classmethod
    def parsed(cls, text: str) -> "DatasetSpec":
        """Reads NAME[/CONFIG][:SPLIT].

        Raises:
            SourceError: it has no name.
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
    """The texts of a data set.

    Raises:
        SourceError: it is unknown, out of reach or damaged, or has not the split or the columns; or the extra
            'datasets' is not installed.
    """
    try:
        import datasets  # noqa: PLC0415  it takes seconds to import
    except ModuleNotFoundError as error:
        raise SourceError(
            f"datasets:{spec.path} needs the extra 'datasets': pip install 'attention-patterns[datasets]' ({error})"
        ) from None
    failures = (datasets.exceptions.DatasetsError, OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError)
    try:
        datasets.disable_progress_bars()
        split, table = _split(_loaded(spec), spec)
        chosen = columns.found_in(table.column_names, where=f"datasets:{spec.path}, split {split!r},")
        needed = dict.fromkeys([*chosen.texts, *([] if chosen.key is None else [chosen.key])])
        values = table.with_format(None).select_columns(list(needed))[:]
    except failures as error:
        raise SourceError(f"datasets:{spec.path} cannot be read: {str(error).strip()}") from error
    return DatasetRows(split, _rows(values, chosen))


def _rows(values: Mapping[str, list[object]], columns: Columns) -> list[Row | BadRow]:
    rows = zip(*values.values(), strict=True)
    return [row_of(number, dict(zip(values, row, strict=True)), columns) for number, row in enumerate(rows)]


def _loaded(spec: DatasetSpec) -> Any:
    """All splits by name, or the one that was asked for."""
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
        return _of_configuration(outer, last, split, error)


def _of_configuration(name: str, configuration: str, split: str | None, unknown: Exception) -> Any:
    """A data set whose path ends in a configuration, when there is none of the whole path."""
    import datasets  # noqa: PLC0415

    try:
        return datasets.load_dataset(name, configuration, split=split)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise SourceError(f"datasets:{name}/{configuration} is neither a folder nor to be had: {unknown}") from error


def _split(loaded: Any, spec: DatasetSpec) -> tuple[str, Any]:
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
