"""The rows of a text file: GLUE-style TSV, CSV, JSON lines or plain text; a bad line spoils no other."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath

from attention_patterns.errors import InvalidSettingsError, SourceError
from attention_patterns.labelling.sources.inputs import is_unicode

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
_MOST_LISTED = 12  # columns per message
_LONGEST_SHOWN = 30  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Row:
    """The texts of a row.

    Attributes:
        number: Number of the line in its file, from 1, or of the row in its data set, from 0.
        texts: One text, or the two of a pair.
        key: Value of the id column; None where there is no such column.
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
        texts: One column, or the two of a pair; () for the first of ``KNOWN_COLUMNS`` that exist.
        key: Column of the ids, or None.
    """

    texts: tuple[str, ...] = ()
    key: str | None = None

    def __post_init__(self) -> None:
        """Checks that there are at most two columns of texts.

        Raises:
            InvalidSettingsError: There are more.
        """
        if len(self.texts) > 2:
            raise InvalidSettingsError(f"--columns names {len(self.texts)} columns, expected one, or two of a pair")

    @property
    def by_position(self) -> bool:
        """Whether the names are whole numbers, which count the columns of a file without a header from 0."""
        return bool(self.texts) and all(name.isdecimal() for name in self.texts)

    def choose(self, names: Sequence[str], *, where: str) -> "Columns":
        """Returns the columns with ``texts`` named, for a file or data set with columns of these ``names``.

        Raises:
            SourceError: A column is not among them, or is among them twice.
        """
        choices = [self.texts] if self.texts else [known for known in KNOWN_COLUMNS if set(known) <= set(names)]
        if not choices:
            raise SourceError(
                f"{where} has none of the known text columns, {_list_columns(names)}; name them by --columns"
            )
        for name in (*choices[0], *([] if self.key is None else [self.key])):
            if list(names).count(name) != 1:
                count = "twice the" if name in names else "no"
                raise SourceError(f"{where} has {count} column {name!r}, {_list_columns(names)}; see --columns")
        return Columns(choices[0], self.key)


def _list_columns(names: Sequence[str]) -> str:
    shown = ", ".join(map(_shorten, names[:_MOST_LISTED]))
    return f"it has {shown}{' and others' if len(names) > _MOST_LISTED else ''}"


def _shorten(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."


def read_rows(content: bytes, *, name: str, columns: Columns) -> list[Row | BadRow]:
    """Reads the rows of a file, by the suffix of its name; lines without a character are left out, but counted.

    Raises:
        SourceError: Nothing in the file can be read, or it lacks the columns.
    """
    return _READERS[PurePosixPath(name).suffix.lower()](content.removeprefix(_MARK), name, columns)


def row_of(number: int, values: Mapping[str, object], columns: Columns) -> Row | BadRow:
    """Returns the texts of a row of named values."""
    for column in (*columns.texts, *([] if columns.key is None else [columns.key])):
        if problem := _find_problem(values, column, key=column not in columns.texts):
            return BadRow(number, problem)
    key = None if columns.key is None else str(values[columns.key])
    return Row(number, tuple(str(values[column]) for column in columns.texts), key)


def _find_problem(values: Mapping[str, object], column: str, *, key: bool) -> str | None:
    if column not in values:
        return f"has no column {column!r}, it has {', '.join(map(_shorten, values)) or 'none'}"
    value = values[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"holds an empty {'id' if key else 'text'} in column {column!r}"
    if not isinstance(value, str) and not (key and type(value) is int):
        return f"holds {_shorten(value)} in column {column!r}, expected {'an id' if key else 'a text'}"
    return None if is_unicode(str(value)) else f"holds half a surrogate pair in column {column!r}, expected Unicode"


@dataclass(frozen=True, slots=True)
class _Record:
    """The values of a line, not yet assigned to columns."""

    number: int
    values: Sequence[str]


def _split_lines(content: bytes) -> Iterator[tuple[int, str] | BadRow]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip(b" \r"):
            try:
                yield number, line.decode().removesuffix("\r")
            except UnicodeDecodeError as error:
                yield BadRow(number, f"is not UTF-8: {error}")


def _read_plain_text(content: bytes, _name: str, _columns: Columns) -> list[Row | BadRow]:
    return [_read_plain_row(line) for line in _split_lines(content) if isinstance(line, BadRow) or line[1].strip()]


def _read_plain_row(line: tuple[int, str] | BadRow) -> Row | BadRow:
    if isinstance(line, BadRow):
        return line
    number, texts = line[0], line[1].split("\t")
    if len(texts) > 2 or not all(text.strip() for text in texts):
        held = f"{len(texts)} tab-separated texts" if len(texts) > 2 else "an empty text"
        return BadRow(number, f"holds {held}, expected one text or a pair")
    return Row(number, tuple(texts))


def _read_tsv(content: bytes, name: str, columns: Columns) -> list[Row | BadRow]:
    """Reads lines of tab-separated values, in which quotes stand for themselves, as in the files of GLUE."""
    records = (
        line if isinstance(line, BadRow) else _Record(line[0], line[1].split("\t")) for line in _split_lines(content)
    )
    return _read_table(records, name, columns)


def _read_csv(content: bytes, name: str, columns: Columns) -> list[Row | BadRow]:
    return _read_table(_csv_records(content), name, columns)


def _csv_records(content: bytes) -> Iterator[_Record | BadRow]:
    """Yields records of one or, within quotes, several lines; each has the number of its first line."""
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


def _read_table(records: Iterator[_Record | BadRow], name: str, columns: Columns) -> list[Row | BadRow]:
    """Reads the rows below a header.

    Columns given by position are those of a file without a header, and their numbers serve as their names. Each line
    must hold as many values as the first.
    """
    first = next(records, None)
    if first is None:
        raise SourceError(f"{name} is empty, expected texts")
    if isinstance(first, BadRow):
        raise SourceError(f"{name}:{first.number}, its first line, {first.problem}")
    header = first.values
    if columns.by_position:
        header, records = [str(place) for place in range(len(header))], chain([first], records)
    chosen = columns.choose(header, where=name)
    return [record if isinstance(record, BadRow) else _read_table_row(record, header, chosen) for record in records]


def _read_table_row(record: _Record, header: Sequence[str], columns: Columns) -> Row | BadRow:
    if len(record.values) != len(header):
        held = f"{len(record.values)} value{'' if len(record.values) == 1 else 's'}"
        return BadRow(record.number, f"holds {held}, expected the {len(header)} of the first line")
    return row_of(record.number, dict(zip(header, record.values, strict=True)), columns)


@dataclass(frozen=True, slots=True)
class _Object:
    """The JSON object of a line."""

    number: int
    values: Mapping[str, object]


def _read_json_lines(content: bytes, name: str, columns: Columns) -> list[Row | BadRow]:
    """Reads one object per line; the known columns that the first object has are read of all."""
    records = [line if isinstance(line, BadRow) else _read_object(*line) for line in _split_lines(content)]
    first = next((record for record in records if isinstance(record, _Object)), None)
    if first is None:
        raise SourceError(f"{name} holds no line that is a JSON object, expected JSON lines: one object per line")
    chosen = columns.choose(list(first.values), where=f"{name}:{first.number}")
    return [
        record if isinstance(record, BadRow) else row_of(record.number, record.values, chosen) for record in records
    ]


def _read_object(number: int, line: str) -> _Object | BadRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(number, f"is not JSON: {error}")
    if not isinstance(value, dict):
        return BadRow(number, f"holds {_shorten(value)}, expected a JSON object")
    return _Object(number, value)


_READERS: Mapping[str, Callable[[bytes, str, Columns], list[Row | BadRow]]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".txt": _read_plain_text,
}
TEXT_SUFFIXES = tuple(_READERS)
