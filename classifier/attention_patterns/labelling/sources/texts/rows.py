"""The rows of a text file: GLUE-style TSV, CSV, JSON lines or plain text; one bad line spoils no other."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath

from attention_patterns.errors import InvalidSettingsError, SourceError

KNOWN_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("#1 String", "#2 String"),
    ("sentence",),
    ("text",),
)
_MARK = b"\xef\xbb\xbf"  # some programs begin UTF-8 files with it
_MOST_LISTED = 12  # columns in a message
_LONGEST_SHOWN = 30  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Row:
    """The texts of a row.

    Attributes:
        number: of the line in its file, from 1, or of the row in its data set, from 0.
        texts: one, or the two of a pair.
        key: the value of the id column; None where none was asked for.
    """

    number: int
    texts: tuple[str, ...]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that holds no text; ``problem`` continues a sentence that begins with the row's name."""

    number: int
    problem: str


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    Attributes:
        texts: one column, or the two of a pair; () for the first of ``KNOWN_COLUMNS`` that are there.
        key: the column of the ids, or None.
    """

    texts: tuple[str, ...] = ()
    key: str | None = None

    def __post_init__(self) -> None:
        """Refuses more than two columns."""
        if len(self.texts) > 2:
            raise InvalidSettingsError(f"--columns names {len(self.texts)} columns, expected one, or two of a pair")

    @property
    def by_position(self) -> bool:
        """Whether they are whole numbers, which count the columns of a file without a header from 0."""
        return bool(self.texts) and all(name.isdecimal() for name in self.texts)

    def found_in(self, found: Sequence[str], *, where: str) -> "Columns":
        """The same with ``texts`` named.

        Raises:
            SourceError: a column is not among those found, or is there twice.
        """
        named = [self.texts] if self.texts else [pair for pair in KNOWN_COLUMNS if set(pair) <= set(found)]
        if not named:
            raise SourceError(f"{where} has none of the known text columns, {_listed(found)}; name them by --columns")
        for name in (*named[0], *([] if self.key is None else [self.key])):
            if list(found).count(name) != 1:
                what = "twice the" if name in found else "no"
                raise SourceError(f"{where} has {what} column {name!r}, {_listed(found)}; see --columns")
        return Columns(named[0], self.key)


def _listed(found: Sequence[str]) -> str:
    shown = ", ".join(_short(name) for name in found[:_MOST_LISTED])
    return f"it has {shown}{' and others' if len(found) > _MOST_LISTED else ''}"


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."


def read_rows(content: bytes, *, name: str, columns: Columns) -> list[Row | BadRow]:
    """The rows of a file by the suffix of its name; lines without a character are left out, but counted.

    Raises:
        SourceError: nothing in the file can be read, or it has not the columns.
    """
    return _READERS[PurePosixPath(name).suffix.lower()](content.removeprefix(_MARK), name, columns)


def row_of(number: int, values: Mapping[str, object], columns: Columns) -> Row | BadRow:
    """The texts of a row of named values."""
    for column in (*columns.texts, *([] if columns.key is None else [columns.key])):
        if problem := _problem(values, column, key=column not in columns.texts):
            return BadRow(number, problem)
    key = None if columns.key is None else str(values[columns.key])
    return Row(number, tuple(str(values[column]) for column in columns.texts), key)


def _problem(values: Mapping[str, object], column: str, *, key: bool) -> str | None:
    if column not in values:
        return f"has no column {column!r}, it has {', '.join(_short(name) for name in values) or 'none'}"
    value = values[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"holds an empty {'id' if key else 'text'} in column {column!r}"
    if not isinstance(value, str) and not (key and type(value) is int):
        return f"holds {_short(value)} in column {column!r}, expected {'an id' if key else 'a text'}"
    return None if is_unicode(str(value)) else f"holds half a surrogate pair in column {column!r}, expected Unicode"


def is_unicode(text: str) -> bool:
    """Whether the text can be written: names of files and JSON may hold what is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Record:
    """The values of a line, not yet told apart by columns."""

    number: int
    values: Sequence[str]


def _lines(content: bytes) -> Iterator[tuple[int, str] | BadRow]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip(b" \r"):
            try:
                yield number, line.decode().removesuffix("\r")
            except UnicodeDecodeError as error:
                yield BadRow(number, f"is not UTF-8: {error}")


def _plain_text(content: bytes, _name: str, _columns: Columns) -> list[Row | BadRow]:
    return [_plain_row(line) for line in _lines(content) if isinstance(line, BadRow) or line[1].strip()]


def _plain_row(line: tuple[int, str] | BadRow) -> Row | BadRow:
    if isinstance(line, BadRow):
        return line
    number, texts = line[0], line[1].split("\t")
    if len(texts) > 2 or not all(text.strip() for text in texts):
        found = f"{len(texts)} tab-separated texts" if len(texts) > 2 else "an empty text"
        return BadRow(number, f"holds {found}, expected one text or a pair")
    return Row(number, tuple(texts))


def _tsv(content: bytes, name: str, columns: Columns) -> list[Row | BadRow]:
    """Quotes stand for themselves, as in the files of GLUE."""
    records = (line if isinstance(line, BadRow) else _Record(line[0], line[1].split("\t")) for line in _lines(content))
    return _table(records, name, columns)


def _csv(content: bytes, name: str, columns: Columns) -> list[Row | BadRow]:
    return _table(_csv_records(content), name, columns)


def _csv_records(content: bytes) -> Iterator[_Record | BadRow]:
    """Records of one or, within quotes, several lines; each has the number of its first."""
    lines = [f"{line}\n" for line in content.decode(errors="surrogateescape").split("\n")]
    reader = csv.reader(lines, strict=True)
    while (first := reader.line_num + 1) <= len(lines):
        try:
            values = next(reader)
        except csv.Error as error:
            many = f" with the lines up to {reader.line_num}" if reader.line_num > first else ""
            yield BadRow(first, f"cannot be read as CSV{many}: {error}")
            continue
        if not all(map(is_unicode, values)):
            yield BadRow(first, "is not UTF-8")
        elif len(values) > 1 or "".join(values).strip():
            yield _Record(first, values)


def _table(records: Iterator[_Record | BadRow], name: str, columns: Columns) -> list[Row | BadRow]:
    """The rows below a header; where columns are told by position there is none, and they have their numbers as names.

    The first line says how many values each line must hold.
    """
    first = next(records, None)
    if first is None:
        raise SourceError(f"{name} is empty, expected texts")
    if isinstance(first, BadRow):
        raise SourceError(f"{name}:{first.number}, its first line, {first.problem}")
    header = first.values
    if columns.by_position:
        header, records = [str(place) for place in range(len(header))], chain([first], records)
    chosen = columns.found_in(header, where=name)
    return [one if isinstance(one, BadRow) else _table_row(one, header, chosen) for one in records]


def _table_row(record: _Record, header: Sequence[str], columns: Columns) -> Row | BadRow:
    if len(record.values) != len(header):
        found = f"{len(record.values)} value{'' if len(record.values) == 1 else 's'}"
        return BadRow(record.number, f"holds {found}, expected the {len(header)} of the first line")
    return row_of(record.number, dict(zip(header, record.values, strict=True)), columns)


@dataclass(frozen=True, slots=True)
class _Object:
    """The JSON object of a line."""

    number: int
    values: Mapping[str, object]


def _json_lines(content: bytes, name: str, columns: Columns) -> list[Row | BadRow]:
    """The first object says which of the known columns are read."""
    records = [line if isinstance(line, BadRow) else _json_record(*line) for line in _lines(content)]
    first = next((one for one in records if isinstance(one, _Object)), None)
    if first is None:
        raise SourceError(f"{name} holds no line that is a JSON object, expected JSON lines: an object a line")
    chosen = columns.found_in(list(first.values), where=f"{name}:{first.number}")
    return [one if isinstance(one, BadRow) else row_of(one.number, one.values, chosen) for one in records]


def _json_record(number: int, line: str) -> _Object | BadRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(number, f"is not JSON: {error}")
    if not isinstance(value, dict):
        return BadRow(number, f"holds {_short(value)}, expected a JSON object")
    return _Object(number, value)


_READERS: Mapping[str, Callable[[bytes, str, Columns], list[Row | BadRow]]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".txt": _plain_text,
}
TEXT_SUFFIXES = tuple(_READERS)
