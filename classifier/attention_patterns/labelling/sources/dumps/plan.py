"""Dumped attention as units of work: the files of each task, and their inputs cut and packed by the files' headers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate, pairwise

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.formats import FOLDERS, SUFFIXES, name_in_errors, open_dump
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.dumps.stored import DumpHeader
from attention_patterns.labelling.sources.files import FileGroup, StoredFile, find_files
from attention_patterns.labelling.sources.inputs import parse_input
from attention_patterns.labelling.sources.source import EXAMPLES, UNIT_MAPS, Selection, Unit, spread_evenly

UNIT_BYTES = 128 * 2**20  # of attention
_READERS, _REMOTE_READERS = 4, 16  # headers read at once: a remote one costs waiting, not work

Tasks = tuple[tuple[str, tuple[StoredFile, ...]], ...]


@dataclass(frozen=True, slots=True)
class DumpSlice:
    """Inputs of one file.

    Attributes:
        file: File that holds them.
        name: Name of the file, unique within the task.
        indices: Indices of the inputs in the file, rising; (0,) where it holds just one.
        many: Whether the file has an axis of inputs or rows.
        ids: Ids of these inputs, where the file names them.
        readable: Whether the file's header could be read when the work was planned.
    """

    file: StoredFile
    name: str
    indices: Sequence[int]
    many: bool
    ids: tuple[str, ...] | None = None
    readable: bool = True

    @property
    def input_ids(self) -> list[str]:
        """The id of each input, unique within the task."""
        if self.ids is not None:
            return list(self.ids)
        return [f"{self.name}[{n}]" for n in self.indices] if self.many else [self.name]


@dataclass(frozen=True, slots=True)
class _PlannedFile:
    """A file and its header; None where the header cannot be read, which counts as one input that is going to fail."""

    file: StoredFile
    header: DumpHeader | None

    @property
    def count(self) -> int:
        return 1 if self.header is None else self.header.count


def dump_tasks(arguments: Sequence[str]) -> Tasks:
    """Returns the files of each task.

    A folder is a task of its own, named like the folder. All files that are given one by one or by a glob are one task,
    named like the last folder that holds them all, or like a file that is alone. ``NAME=`` before an argument names the
    task; those of one name are one task, and a file that is found twice in a task is read once.

    Args:
        arguments: Files, folders, globs or fsspec URLs, or NAME=PATH to name the task of one.

    Raises:
        SourceError: A path does not exist, is a file of another kind, or a folder without dumps.
        MissingExtraError: A package that reads URLs of such a scheme is not installed.
    """
    given: dict[str | None, list[FileGroup]] = {}  # None: files without a name, one by one
    for argument in map(parse_input, arguments):
        for group in find_files(argument.path, SUFFIXES, folders=FOLDERS):
            name = argument.task or (group.task(SUFFIXES) if group.whole else None)
            given.setdefault(name, []).append(group)
    tasks: dict[str, list[FileGroup]] = {}
    for name, groups in given.items():
        together = FileGroup.join(groups)
        tasks.setdefault(name or together.task(SUFFIXES), []).append(together)
    return tuple((name, FileGroup.join(groups).files) for name, groups in tasks.items())


def count_inputs(tasks: Tasks, axes: Axes | None) -> int:
    """Returns the number of inputs in all files, by their headers; a file that cannot be read counts as one."""
    return sum(planned.count for planned in _read_headers(tasks, axes))


def plan(tasks: Tasks, selection: Selection, only: frozenset[int] | None, axes: Axes | None) -> list[Unit]:
    """Returns the units of all tasks, in their order.

    Args:
        tasks: Tasks, as ``dump_tasks`` returns them.
        selection: Layers and heads to label.
        only: Numbers of the inputs to label among all, from 0; None for all.
        axes: Order of the axes of attention that has five of them; None to find it.

    Raises:
        InvalidSettingsError: The order of the axes is not given, and that of a file cannot be known.
    """
    headers, units, first = iter(_read_headers(tasks, axes)), list[Unit](), 0
    for task, files in tasks:
        planned = [next(headers) for _ in files]
        pieces = list(_cut(planned, selection, first, only))
        first += sum(file.count for file in planned)
        examples = spread_evenly(EXAMPLES, sum(len(piece.slice.indices) for piece in pieces))
        done = 0
        for packed in _pack(pieces):
            unit = _make_unit(len(units), task, packed, done, examples)
            done += unit.inputs
            units.append(unit)
    return units


@lru_cache(maxsize=1)
def _read_headers(tasks: Tasks, axes: Axes | None) -> tuple[_PlannedFile, ...]:
    files = [file for _, files in tasks for file in files]
    readers = _REMOTE_READERS if any(file.remote for file in files) else _READERS
    with ThreadPoolExecutor(readers, thread_name_prefix="headers") as pool:
        return tuple(pool.map(partial(_read_header, axes=axes), files))


def _read_header(file: StoredFile, axes: Axes | None) -> _PlannedFile:
    try:
        with open_dump(file, axes=axes) as dump, name_in_errors(file):
            return _PlannedFile(file, dump.header())
    except SourceError:
        return _PlannedFile(file, None)  # read again in its turn, where it fails by its reason


@dataclass(frozen=True, slots=True)
class _Piece:
    """Inputs that go into one unit together."""

    slice: DumpSlice
    maps: int
    bytes: int


def _cut(
    planned: Sequence[_PlannedFile], selection: Selection, first: int, only: frozenset[int] | None
) -> Iterator[_Piece]:
    """Yields the inputs of a task's files in pieces of at most a unit; ``first`` is the number of the first input."""
    named, ids = Counter(each.file.name for each in planned), _unique_ids(planned)
    for each, own_ids in zip(planned, ids, strict=True):
        name = each.file.name if named[each.file.name] == 1 else each.file.shown
        maps, size = _cost_of_input(each, selection)
        for indices in _groups(each, maps, size):
            chosen: Sequence[int] = indices
            if only is not None:
                chosen = tuple(n for n in indices if first + n in only)
            if chosen:
                piece = DumpSlice(
                    file=each.file,
                    name=name,
                    indices=chosen,
                    many=each.header is not None and each.header.inputs is not None,
                    ids=None if own_ids is None else tuple(own_ids[n] for n in chosen),
                    readable=each.header is not None,
                )
                yield _Piece(piece, len(chosen) * maps, len(chosen) * size)
        first += each.count


def _unique_ids(planned: Sequence[_PlannedFile]) -> list[tuple[str, ...] | None]:
    """Returns the ids that files give their inputs, behind the file's URL where two in the task are the same."""
    ids = [None if each.header is None else each.header.ids for each in planned]
    flat = [input_id for own in ids if own is not None for input_id in own]
    if len(set(flat)) == len(flat):
        return ids
    return [
        None if own is None else tuple(f"{each.file.shown}[{input_id}]" for input_id in own)
        for each, own in zip(planned, ids, strict=True)
    ]


def _cost_of_input(planned: _PlannedFile, selection: Selection) -> tuple[int, int]:
    """Returns the maps and the bytes of attention of each input of a file."""
    header = planned.header
    if header is None:
        return 0, planned.file.size or 0
    maps = selection.count(header.layers, header.heads)
    return maps, maps * header.length**2 * header.itemsize


def _groups(planned: _PlannedFile, maps: int, size: int) -> Iterator[range]:
    """Yields the inputs of a file in groups of at most a unit, or as they can only be read together."""
    if planned.header is not None and planned.header.groups:
        yield from (range(begin, end) for begin, end in pairwise(accumulate(planned.header.groups, initial=0)))
        return
    most = max(1, min(UNIT_BYTES // max(size, 1), UNIT_MAPS // max(maps, 1)))
    for begin in range(0, planned.count, most):
        yield range(begin, min(begin + most, planned.count))


def _pack(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Yields neighbours together, up to a unit's size."""
    packed: list[_Piece] = []
    maps = size = 0
    for piece in pieces:
        if packed and (size + piece.bytes > UNIT_BYTES or maps + max(piece.maps, 1) > UNIT_MAPS):
            yield packed
            packed, maps, size = [], 0, 0
        packed.append(piece)
        maps, size = maps + max(piece.maps, 1), size + piece.bytes
    if packed:
        yield packed


def _make_unit(number: int, task: str, packed: Sequence[_Piece], done: int, examples: frozenset[int]) -> Unit:
    """Makes a unit of a task of which ``done`` inputs are in earlier units; ``examples`` are places in the task."""
    inputs = sum(len(piece.slice.indices) for piece in packed)
    return Unit(
        number=number,
        task=task,
        inputs=inputs,
        maps=sum(piece.maps for piece in packed),
        bytes=sum(piece.bytes for piece in packed),
        items=tuple(piece.slice for piece in packed),
        examples=frozenset(place - done for place in examples if done <= place < done + inputs),
    )
