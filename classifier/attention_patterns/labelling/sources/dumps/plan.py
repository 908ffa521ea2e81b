"""Dumped attention as units of work: whose files' headers are read, and how their inputs are put together."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.formats import FOLDERS, SUFFIXES, opened_dump, told_of
from attention_patterns.labelling.sources.dumps.stored import DumpHeader
from attention_patterns.labelling.sources.files import StoredFile, default_task, find_files
from attention_patterns.labelling.sources.source import EXAMPLES, UNIT_MAPS, Selection, Unit, spread_evenly

UNIT_BYTES = 128 * 2**20  # of attention
_READERS, _REMOTE_READERS = 4, 16  # headers asked for at once: from afar each is a wait, not work

Tasks = tuple[tuple[str, tuple[StoredFile, ...]], ...]


@dataclass(frozen=True, slots=True)
class DumpSlice:
    """Inputs of one file.

    Attributes:
        file: where they are.
        name: of the file, unique within the task.
        indices: of the inputs in the file, rising; (0,) where it holds just one.
        many: whether the file has an axis of inputs or rows.
        ids: of these inputs, where the file names them.
        readable: whether its header could be read when the work was planned.
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
class _Planned:
    """A file and what its header says; None where that cannot be read, which is one input that is going to fail."""

    file: StoredFile
    header: DumpHeader | None

    @property
    def count(self) -> int:
        return 1 if self.header is None else self.header.count


def dump_tasks(paths: Sequence[str]) -> Tasks:
    """The files of each task.

    Args:
        paths: each a file, folder, glob or fsspec URL, or NAME=PATH to name its task. Paths of one name are one task,
            and a file that is found twice in a task is read once.

    Raises:
        SourceError: a path does not exist, is a file of another kind, or a folder without dumps.
    """
    tasks: dict[str, dict[str, StoredFile]] = {}
    for path in paths:
        name, place = _named(path)
        for file in find_files(place, SUFFIXES, folders=FOLDERS):
            tasks.setdefault(name, {}).setdefault(file.url, file)
    return tuple((name, tuple(files.values())) for name, files in tasks.items())


def _named(path: str) -> tuple[str, str]:
    """A task's name and path; what stands before "=" is no name in "runs/lr=0.1", nor where "lr=0.1" is a file."""
    name, equals, place = path.partition("=")
    if equals and name and place and "/" not in name and not Path(path).exists():
        return name, place
    return default_task(path, SUFFIXES), path


def count_inputs(tasks: Tasks) -> int:
    """How many inputs the files hold, by their headers; a file that cannot be read counts as one."""
    return sum(planned.count for planned in _headers(tasks))


def plan(tasks: Tasks, selection: Selection, only: frozenset[int] | None) -> list[Unit]:
    """The units of all tasks, in their order.

    Args:
        tasks: of ``dump_tasks``.
        selection: of layers and heads.
        only: inputs by their number in the whole job, from 0; None for all.
    """
    planned, units, first = iter(_headers(tasks)), list[Unit](), 0
    for task, files in tasks:
        of_task = [next(planned) for _ in files]
        pieces = list(_pieces(of_task, selection, first, only))
        first += sum(one.count for one in of_task)
        inputs = sum(len(piece.slice.indices) for piece in pieces)
        wanted = spread_evenly(EXAMPLES, inputs)
        done = 0
        for packed in _packed(pieces):
            unit = _unit(len(units), task, packed, done, wanted)
            done += unit.inputs
            units.append(unit)
    return units


@lru_cache(maxsize=1)
def _headers(tasks: Tasks) -> tuple[_Planned, ...]:
    files = [file for _, files in tasks for file in files]
    readers = _REMOTE_READERS if any(file.remote for file in files) else _READERS
    with ThreadPoolExecutor(readers, thread_name_prefix="headers") as pool:
        return tuple(pool.map(_planned, files))


def _planned(file: StoredFile) -> _Planned:
    try:
        with opened_dump(file) as dump, told_of(file):
            return _Planned(file, dump.header())
    except SourceError:
        return _Planned(file, None)  # read again, and told, in its turn


@dataclass(frozen=True, slots=True)
class _Piece:
    """Inputs that go into one unit together."""

    slice: DumpSlice
    maps: int
    bytes: int


def _pieces(
    planned: Sequence[_Planned], selection: Selection, first: int, only: frozenset[int] | None
) -> Iterator[_Piece]:
    named, ids = Counter(one.file.name for one in planned), _ids(planned)
    for one, of_inputs in zip(planned, ids, strict=True):
        name = one.file.name if named[one.file.name] == 1 else one.file.shown
        maps, size = _cost(one, selection)
        for indices in _groups(one, maps, size):
            wanted: Sequence[int] = indices
            if only is not None:
                wanted = tuple(n for n in indices if first + n in only)
            if wanted:
                piece = DumpSlice(
                    file=one.file,
                    name=name,
                    indices=wanted,
                    many=one.header is not None and one.header.inputs is not None,
                    ids=None if of_inputs is None else tuple(of_inputs[n] for n in wanted),
                    readable=one.header is not None,
                )
                yield _Piece(piece, len(wanted) * maps, len(wanted) * size)
        first += one.count


def _ids(planned: Sequence[_Planned]) -> list[tuple[str, ...] | None]:
    """The ids that files give their inputs, behind the file's URL where two in the task are the same."""
    ids = [None if one.header is None else one.header.ids for one in planned]
    flat = [single for of_file in ids if of_file is not None for single in of_file]
    if len(set(flat)) == len(flat):
        return ids
    return [
        None if of_file is None else tuple(f"{one.file.shown}[{single}]" for single in of_file)
        for one, of_file in zip(planned, ids, strict=True)
    ]


def _cost(one: _Planned, selection: Selection) -> tuple[int, int]:
    """Maps and bytes of attention of each input of a file."""
    header = one.header
    if header is None:
        return 0, one.file.size or 0
    layers = header.layers if selection.layers is None else len(set(selection.layers))
    heads = header.heads if selection.heads is None else len(set(selection.heads))
    return layers * heads, layers * heads * header.length**2 * header.itemsize


def _groups(one: _Planned, maps: int, size: int) -> Iterator[range]:
    """The inputs of a file in pieces of at most a unit, or as they can only be read together."""
    if one.header is not None and one.header.groups:
        yield from (range(begin, end) for begin, end in pairwise(accumulate(one.header.groups, initial=0)))
        return
    most = max(1, min(UNIT_BYTES // max(size, 1), UNIT_MAPS // max(maps, 1)))
    for begin in range(0, one.count, most):
        yield range(begin, min(begin + most, one.count))


def _packed(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Neighbours put together up to a unit's size."""
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


def _unit(number: int, task: str, packed: Sequence[_Piece], done: int, examples: frozenset[int]) -> Unit:
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
