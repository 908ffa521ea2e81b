"""Corpora: texts of TSV, CSV, JSON lines and plain text files and of Hugging Face data sets, and pictures."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.files import StoredFile, default_task, explained, find_files, opened
from attention_patterns.labelling.sources.texts.dataset_rows import DatasetSpec, read_dataset
from attention_patterns.labelling.sources.texts.rows import TEXT_SUFFIXES, BadRow, Columns, Row, is_unicode, read_rows

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_DATASETS = "datasets:"
_NAMED = re.compile(r"(?P<name>[^/\\:=*?\[\]]+)=(?P<path>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Text:
    """One text, or the two of a pair; ``input_id`` is unique within its task: "file name:line", from 1."""

    input_id: str
    first: str
    second: str | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to run a vision transformer on; ``url`` is a path or an fsspec URL."""

    input_id: str
    url: str


@dataclass(frozen=True, slots=True)
class UnreadText:
    """A line that holds no text, and why."""

    input_id: str
    error: SourceError


Item = Text | Picture | UnreadText


def text_tasks(
    specs: Sequence[str], *, columns: Sequence[str] | None = None, id_column: str | None = None
) -> tuple[tuple[str, tuple[Item, ...]], ...]:
    """Reads corpora as tasks: names, and the texts or pictures of each in their order.

    A spec is a path, folder, glob or fsspec URL, or ``datasets:NAME[/CONFIG][:SPLIT]`` (NAME on the Hugging Face hub
    or a local folder; split "validation" by default, else "validation_matched", "test" or "train", the first that is
    there). ``TASK=`` before it names the task, which is then a single one of all its files. Otherwise each text file
    is a task, and all pictures of a spec are one. The task of a file has the name of the file without its suffix;
    where several files have that one, the name of its folder; where several have this too, both names. The task of a
    data set is NAME/CONFIG. A line that cannot be read becomes an ``UnreadText``.

    - .tsv: a header, then a row a line; quotes stand for themselves, as in GLUE. .csv: likewise, with commas and
      ordinary quoting. A row of more or fewer values than the first line is not read.
    - .jsonl, .json: a JSON object a line.
    - .txt: one text, or a tab-separated pair, a line.
    - .png, .jpg, .jpeg, .webp, .bmp: pictures.

    Args:
        specs: at least one.
        columns: one column of texts, or the two of a pair, by name. Whole numbers are positions from 0 in a .tsv or
            .csv file that has no header, and its first line is a text as well. By default the first of
            ``text_rows.KNOWN_COLUMNS`` that are there.
        id_column: the column of the ids, by name or position. By default an id is "file name:line", counted from 1
            with the header, or "split[row]", counted from 0, in a data set.

    Raises:
        SourceError: a file or data set cannot be read at all or has not the columns, two tasks have one name, or two
            rows of a task one id.
        InvalidSettingsError: more than two columns are named.
    """
    choice = Columns(tuple(columns or ()), id_column)
    corpora = [corpus for spec in specs for corpus in _corpora(spec)]
    tasks = zip(_task_names(corpora), corpora, strict=True)
    return tuple((name, _items_of(corpus, choice)) for name, corpus in tasks)


def fingerprint(tasks: Sequence[tuple[str, Sequence[Item]]]) -> dict[str, str]:
    """The sha256, hexadecimal, of the items of each task, by its name; of a picture only the id and address count."""
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
    """What becomes one task.

    Attributes:
        spec: as it was given, without a name.
        names: those it may have, the best first.
        source: its files, or a data set.
    """

    spec: str
    names: tuple[str, ...]
    source: tuple[StoredFile, ...] | DatasetSpec


def _corpora(spec: str) -> Iterator[_Corpus]:
    if not is_unicode(spec):
        raise SourceError(f"{spec!r} is not UTF-8; rename it, or name a folder it is in")
    name, path = _named(spec)
    if path.startswith(_DATASETS):
        source = DatasetSpec.parsed(path.removeprefix(_DATASETS))
        yield _Corpus(path, (name,) if name else _names_of_dataset(source), source)
        return
    files = tuple(find_files(path, (*TEXT_SUFFIXES, *PICTURE_SUFFIXES)))
    if name:
        yield _Corpus(path, (name,), files)
        return
    yield from (_Corpus(path, _names_of_file(file), (file,)) for file in files if not _is_picture(file))
    if pictures := tuple(filter(_is_picture, files)):
        yield _Corpus(path, (default_task(path, PICTURE_SUFFIXES),), pictures)


def _named(spec: str) -> tuple[str | None, str]:
    """Splits NAME=SPEC; a file whose own name holds "=" is no name and spec."""
    found = _NAMED.fullmatch(spec)
    return (None, spec) if found is None or _is_there(spec) else (found["name"], found["path"])


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long for a path, or with a null byte
        return False


def _is_picture(file: StoredFile) -> bool:
    return file.suffix in PICTURE_SUFFIXES


def _names_of_file(file: StoredFile) -> tuple[str, ...]:
    stem, folder = PurePosixPath(file.name).stem, PurePosixPath(file.shown).parent.name
    return stem, folder or stem, f"{folder}/{stem}"


def _names_of_dataset(spec: DatasetSpec) -> tuple[str, ...]:
    name = PurePosixPath(spec.path).name if spec.path.startswith(("/", ".")) else spec.path
    return (name, f"{name}:{spec.split}") if spec.split else (name,)


def _task_names(corpora: Sequence[_Corpus]) -> list[str]:
    names = _first_free([corpus.names for corpus in corpora])
    for name, count in Counter(names).items():
        if count > 1:
            one, other, *_ = (corpus.spec for corpus, own in zip(corpora, names, strict=True) if own == name)
            raise SourceError(f"{one} and {other} would both be the task {name!r}; name one of them: NAME={other}")
    return names


def _first_free(choices: Sequence[tuple[str, ...]]) -> list[str]:
    """The first of the names of each that no other would take, else its last."""
    names = [choice[0] for choice in choices]
    for place in range(1, 3):
        taken = Counter(names)
        names = [
            choice[min(place, len(choice) - 1)] if taken[name] > 1 else name
            for name, choice in zip(names, choices, strict=True)
        ]
    return names


def _items_of(corpus: _Corpus, columns: Columns) -> tuple[Item, ...]:
    """The items of a task.

    Raises:
        SourceError: there are none, or two have one id.
    """
    places: dict[str, str] = {}
    items = []
    for place, item in _placed_items(corpus, columns):
        if item.input_id in places:
            raise SourceError(f"{places[item.input_id]} and {place} have the same id, {item.input_id!r}")
        places[item.input_id] = place
        items.append(item)
    if not items:
        raise SourceError(f"{corpus.spec} holds no texts")
    return tuple(items)


def _placed_items(corpus: _Corpus, columns: Columns) -> Iterator[tuple[str, Item]]:
    """The items of a task and where they were found."""
    if isinstance(corpus.source, DatasetSpec):
        found = read_dataset(corpus.source, columns=columns)
        yield from _placed(found.rows, f"{found.split}[", "]")
        return
    for file in corpus.source:
        name = file.name if len(corpus.source) > 1 else PurePosixPath(file.name).name
        if _is_picture(file):
            yield file.shown, Picture(name, file.url)
        else:
            yield from _placed(read_rows(_content_of(file), name=name, columns=columns), f"{name}:")


def _placed(rows: Sequence[Row | BadRow], before: str, after: str = "") -> Iterator[tuple[str, Item]]:
    for row in rows:
        place = f"{before}{row.number}{after}"
        if isinstance(row, BadRow):
            yield place, UnreadText(place, SourceError(f"{place} {row.problem}"))
        else:
            yield place, Text(row.key or place, *row.texts)


def _content_of(file: StoredFile) -> bytes:
    with explained(f"texts {file.shown} cannot be read"), opened(file) as stream:
        return stream.read()
