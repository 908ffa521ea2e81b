"""Corpora: texts of TSV, CSV, JSON lines and plain text files and of Hugging Face data sets, and pictures."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.files import FileGroup, StoredFile, explain_errors, find_files, open_file
from attention_patterns.labelling.sources.inputs import parse_input
from attention_patterns.labelling.sources.texts.dataset_rows import DatasetSpec, read_dataset
from attention_patterns.labelling.sources.texts.rows import TEXT_SUFFIXES, BadRow, Columns, Row, read_rows

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_DATASETS = "datasets:"


@dataclass(frozen=True, slots=True)
class Text:
    """One text, or the two of a pair; ``input_id`` is unique within its task: "file name:line", from 1."""

    input_id: str
    first: str
    second: str | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture for a vision transformer; ``url`` is a path or an fsspec URL."""

    input_id: str
    url: str


@dataclass(frozen=True, slots=True)
class UnreadText:
    """A line that holds no text, and the error that says why."""

    input_id: str
    error: SourceError


Item = Text | Picture | UnreadText


def text_tasks(
    arguments: Sequence[str], *, columns: Sequence[str] | None = None, id_column: str | None = None
) -> tuple[tuple[str, tuple[Item, ...]], ...]:
    """Reads corpora as tasks: names, and the texts or pictures of each in their order.

    An argument is a path, folder, glob or fsspec URL, or ``datasets:NAME[/CONFIG][:SPLIT]``: NAME on the Hugging Face
    hub or a local folder, by default the first split that exists of "validation", "validation_matched", "test" and
    "train". ``TASK=`` before it names the task, which is then a single one of all its files. Otherwise each text file
    is a task, all pictures of a folder are one, and so are all pictures given one by one or by globs. The task of a
    file has the name of the file without its suffix; where several files have that one, the name of its folder; where
    several have this too, both names. The task of a data set is NAME/CONFIG. A line that cannot be read becomes an
    ``UnreadText``.

    - .tsv: a header, then one row per line; quotes stand for themselves, as in GLUE. .csv: the same, with commas and
      ordinary quoting. A row of more or fewer values than the first line is not read.
    - .jsonl, .json: one JSON object per line.
    - .txt: one text, or a tab-separated pair, per line.
    - .png, .jpg, .jpeg, .webp, .bmp: pictures.

    Args:
        arguments: At least one argument.
        columns: One column of texts, or the two of a pair, by name. Whole numbers are positions from 0 in a .tsv or
            .csv file that has no header, whose first line is a text as well. By default the first of
            ``rows.KNOWN_COLUMNS`` that exist.
        id_column: Column of the ids, by name or position. By default an id is "file name:line", counted from 1 with
            the header, or "split[row]", counted from 0, in a data set.

    Raises:
        SourceError: A file or data set cannot be read at all or lacks the columns, two tasks have one name, or two
            rows of a task one id.
        MissingExtraError: A package that reads such data sets or URLs is not installed.
        InvalidSettingsError: More than two columns are named.
    """
    choice = Columns(tuple(columns or ()), id_column)
    corpora = _find_corpora(arguments)
    tasks = zip(_name_tasks(corpora), corpora, strict=True)
    return tuple((name, _read_items(corpus, choice)) for name, corpus in tasks)


def fingerprint(tasks: Sequence[tuple[str, Sequence[Item]]]) -> dict[str, str]:
    """Returns the hexadecimal SHA-256 of the items of each task, by its name; of a picture, only id and URL count."""
    return {name: _digest(items) for name, items in tasks}


def _digest(items: Sequence[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([type(item).__name__, *_content(item)]).encode() + b"\n")
    return digest.hexdigest()


def _content(item: Item) -> tuple[str | None, ...]:
    match item:
        case Text():
            return item.input_id, item.first, item.second
        case Picture():
            return item.input_id, item.url
        case UnreadText():
            return item.input_id, str(item.error)


@dataclass(frozen=True)
class _Corpus:
    """The texts or pictures of one task.

    Attributes:
        path: Path or data set as it was given, without the task's name.
        names: Names that the task may have, the best first.
        content: Files, or a data set.
    """

    path: str
    names: tuple[str, ...]
    content: tuple[StoredFile, ...] | DatasetSpec


def _find_corpora(arguments: Sequence[str]) -> list[_Corpus]:
    corpora, one_by_one = list[_Corpus](), list[FileGroup]()
    for argument in map(parse_input, arguments):
        path, name = argument.path, argument.task
        if path.startswith(_DATASETS):
            dataset = DatasetSpec.parse(path.removeprefix(_DATASETS))
            corpora.append(_Corpus(path, (name,) if name else _names_of_dataset(dataset), dataset))
            continue
        groups = find_files(path, (*TEXT_SUFFIXES, *PICTURE_SUFFIXES))
        if name:
            corpora.append(_Corpus(path, (name,), FileGroup.join(groups).files))
            continue
        texts = (file for group in groups for file in group.files if not _is_picture(file))
        corpora += [_Corpus(path, _names_of_file(file), (file,)) for file in texts]
        pictures = [replace(group, files=tuple(filter(_is_picture, group.files))) for group in groups]
        corpora += [_make_pictures(path, group) for group in pictures if group.files and group.whole]
        one_by_one += [group for group in pictures if group.files and not group.whole]
    if one_by_one:
        together = FileGroup.join(one_by_one)
        corpora.append(_make_pictures(together.folder, together))
    return corpora


def _make_pictures(path: str, pictures: FileGroup) -> _Corpus:
    return _Corpus(path, (pictures.task(PICTURE_SUFFIXES),), pictures.files)


def _is_picture(file: StoredFile) -> bool:
    return file.suffix in PICTURE_SUFFIXES


def _names_of_file(file: StoredFile) -> tuple[str, ...]:
    stem, folder = PurePosixPath(file.name).stem, PurePosixPath(file.shown).parent.name
    return stem, folder or stem, f"{folder}/{stem}"


def _names_of_dataset(spec: DatasetSpec) -> tuple[str, ...]:
    name = PurePosixPath(spec.path).name if spec.path.startswith(("/", ".")) else spec.path
    return (name, f"{name}:{spec.split}") if spec.split else (name,)


def _name_tasks(corpora: Sequence[_Corpus]) -> list[str]:
    names = _choose_unique([corpus.names for corpus in corpora])
    for name, count in Counter(names).items():
        if count > 1:
            first, other, *_ = (corpus.path for corpus, own in zip(corpora, names, strict=True) if own == name)
            raise SourceError(f"{first} and {other} would both be the task {name!r}; name one of them: NAME={other}")
    return names


def _choose_unique(choices: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns of each choice of names the first that no other would take, or else the last."""
    names = [choice[0] for choice in choices]
    for place in range(1, 3):
        taken = Counter(names)
        names = [
            choice[min(place, len(choice) - 1)] if taken[name] > 1 else name
            for name, choice in zip(names, choices, strict=True)
        ]
    return names


def _read_items(corpus: _Corpus, columns: Columns) -> tuple[Item, ...]:
    """Reads the items of a task.

    Raises:
        SourceError: The corpus holds none, or two of them have one id.
    """
    places: dict[str, str] = {}
    items = []
    for place, item in _read_places(corpus, columns):
        if item.input_id in places:
            raise SourceError(f"{places[item.input_id]} and {place} have the same id, {item.input_id!r}")
        places[item.input_id] = place
        items.append(item)
    if not items:
        raise SourceError(f"{corpus.path} holds no texts")
    return tuple(items)


def _read_places(corpus: _Corpus, columns: Columns) -> Iterator[tuple[str, Item]]:
    """Yields the items of a task, each behind the place it comes from: "file name:line", "split[row]" or a URL."""
    if isinstance(corpus.content, DatasetSpec):
        dataset = read_dataset(corpus.content, columns=columns)
        yield from _place_rows(dataset.rows, f"{dataset.split}[", "]")
        return
    for file in corpus.content:
        name = file.name if len(corpus.content) > 1 else PurePosixPath(file.name).name
        if _is_picture(file):
            yield file.shown, Picture(name, file.url)
        else:
            yield from _place_rows(read_rows(_read_file(file), name=name, columns=columns), f"{name}:")


def _place_rows(rows: Sequence[Row | BadRow], before: str, after: str = "") -> Iterator[tuple[str, Item]]:
    for row in rows:
        place = f"{before}{row.number}{after}"
        if isinstance(row, BadRow):
            yield place, UnreadText(place, SourceError(f"{place} {row.problem}"))
        else:
            yield place, Text(row.key or place, *row.texts)


def _read_file(file: StoredFile) -> bytes:
    with explain_errors(f"texts {file.shown} cannot be read"), open_file(file.url) as stream:
        return stream.read()
