"""The run folder: parts that appear whole or not at all, the manifest that records them, and the request.

run.json        the request: settings, sources and versions; written once
manifest.jsonl  one line per finished part, added after its tables
labels/ inputs/ maps/   part-00000.parquet and so on, by the number of the unit
errors.jsonl, summary.json, heads.parquet   made anew from these whenever a run ends
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attention_patterns.errors import InvalidSettingsError, SourceError
from attention_patterns.labelling.output.part import Part
from attention_patterns.programs.whole_files import passing_path, write_whole

TABLES = ("labels", "inputs", "maps")
_OURS = (
    "run.json",
    *TABLES,
    "manifest.jsonl",
    "errors.jsonl",
    "summary.json",
    "heads.parquet",
    "report.html",
    "figures",
)
_LOCK, _RESERVE = ".lock", ".reserve"
_LEAVINGS = {_LOCK, _RESERVE, *(passing_path(Path(name)).name for name in _OURS)}  # of a run killed at its beginning
_RESERVE_BYTES = 8 * 2**20  # for the errors and the summary of a run that filled the disk
_MOST_DIFFERENCES = 3  # between two requests, in a message


@dataclass(frozen=True)
class PartRecord:
    """A finished part as the manifest records it; its attributes are those of ``Part``."""

    number: int
    inputs: int
    maps: int
    warned: int
    errors: tuple[Mapping[str, str | None], ...]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, on a local disk."""

    path: Path

    def table_files(self, table: str) -> list[Path]:
        """Returns the files of "labels", "inputs" or "maps" that the manifest knows, in the order of the parts."""
        files = (self._file(table, record.number) for record in self.records())
        return [file for file in files if file.exists()]

    def read_request(self) -> dict[str, Any]:
        """Reads what the run was asked for: settings, sources, number of units, versions.

        Raises:
            SourceError: This is not a run folder.
        """
        try:
            return dict(json.loads((self.path / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise SourceError(
                f"'{self.path}' is not a run folder: run.json cannot be read ({error}); expected a folder that "
                "attention-label run wrote"
            ) from error

    def records(self) -> list[PartRecord]:
        """Reads the records of the finished parts, by number."""
        try:
            lines = (self.path / "manifest.jsonl").read_bytes().split(b"\n")[:-1]  # a line counts once it is ended
        except FileNotFoundError:
            return []
        rows = (json.loads(line) for line in lines)
        records = {row["number"]: PartRecord(**row | {"errors": tuple(row["errors"])}) for row in rows}
        return [records[number] for number in sorted(records)]

    def errors(self) -> list[Mapping[str, str | None]]:
        """Reads the failures so far, as lines of the errors file: those in finished parts and those of lost parts."""
        lines = [_to_line(error) for record in self.records() for error in record.errors]
        with contextlib.suppress(FileNotFoundError):
            lines += (self.path / "errors.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in dict.fromkeys(lines)]

    def begin(self, request: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Makes the folder ready for a new run, or for the same request, of which some parts may be done.

        Args:
            request: Content of run.json.
            overwrite: Whether to remove a run that the folder holds.

        Raises:
            InvalidSettingsError: The folder holds the run of another request, or something else.
        """
        run_file = self.path / "run.json"
        if overwrite:
            self._clear()
        if run_file.exists():
            self._check_same(request)
        else:
            if any(entry.name not in _LEAVINGS for entry in self.path.iterdir()):
                raise _not_a_run(self.path)
            write_whole(run_file, json.dumps(request, indent=1))
        for table in TABLES:
            (self.path / table).mkdir(exist_ok=True)
        self._remove_torn()
        self._mend_manifest()
        (self.path / "errors.jsonl").unlink(missing_ok=True)
        with contextlib.suppress(OSError), (self.path / _RESERVE).open("wb") as reserve:
            os.posix_fallocate(reserve.fileno(), 0, _RESERVE_BYTES)

    def write_errors(self, errors: Sequence[Mapping[str, str | None]]) -> None:
        """Writes the errors file, or removes it where there are no errors.

        On a full disk it takes the room that ``begin`` reserved.

        Raises:
            OSError: That room was not enough.
        """
        (self.path / _RESERVE).unlink(missing_ok=True)
        if errors:
            write_whole(self.path / "errors.jsonl", "".join(map(_to_line, errors)))
        else:
            (self.path / "errors.jsonl").unlink(missing_ok=True)

    def forget_request(self) -> None:
        """Removes the request of a run of which no part was made, so that the next may ask for something else."""
        if not self.records():
            self._clear()

    def _clear(self) -> None:
        """Removes what a run makes; run.json first, so that no run continues in a half-cleared folder."""
        for name in _OURS:
            entry = self.path / name
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _check_same(self, request: Mapping[str, Any]) -> None:
        before, now = self.read_request(), json.loads(json.dumps(request))
        differences = list(_differences(before, now))
        if differences:
            left = len(differences) - _MOST_DIFFERENCES
            shown = "; ".join(differences[:_MOST_DIFFERENCES]) + (f" and {left} more" if left > 0 else "")
            raise InvalidSettingsError(
                f"output '{self.path}' holds the run of another request: {shown}. Give another folder, or --overwrite "
                "to begin anew"
            )

    def _remove_torn(self) -> None:
        """Removes the files that were being written when an earlier run was killed."""
        for name in _OURS:
            passing_path(self.path / name).unlink(missing_ok=True)
        for table in TABLES:
            for torn in (self.path / table).glob(".*"):
                torn.unlink()

    def _mend_manifest(self) -> None:
        """Cuts off an unfinished last line."""
        with (self.path / "manifest.jsonl").open("a+b") as manifest:
            manifest.seek(0)
            manifest.truncate(manifest.read().rfind(b"\n") + 1)

    def keep(self, part: Part) -> PartRecord:
        """Writes a part: its tables, each under a passing name until it is whole, and then its line in the manifest.

        Raises:
            OSError: A file cannot be written, for example because the disk is full; nothing of the part is left.
        """
        try:
            for table in TABLES:
                if table in part.tables:
                    write_whole(self._file(table, part.number), part.tables[table])
                else:
                    self._file(table, part.number).unlink(missing_ok=True)
            record = PartRecord(part.number, part.inputs, part.maps, part.warned, part.errors)
            self._record(record)
        except OSError:
            for table in TABLES:
                self._file(table, part.number).unlink(missing_ok=True)
            raise
        return record

    def _record(self, record: PartRecord) -> None:
        line = _to_line(asdict(record)).encode()
        with (self.path / "manifest.jsonl").open("ab", buffering=0) as manifest:
            end = manifest.tell()
            try:
                if manifest.write(line) != len(line):
                    raise OSError(f"{manifest.name}: the disk is full")
                os.fsync(manifest.fileno())
            except OSError:
                manifest.truncate(end)
                raise

    def forget(self, numbers: Sequence[int]) -> None:
        """Removes parts from the manifest, so that they are made again."""
        kept = [_to_line(asdict(record)) for record in self.records() if record.number not in set(numbers)]
        write_whole(self.path / "manifest.jsonl", "".join(kept))

    def _file(self, table: str, number: int) -> Path:
        return self.path / table / f"part-{number:05}.parquet"


@contextmanager
def lock_folder(path: Path) -> Iterator[RunFolder]:
    """Gives the run folder at ``path``, made if need be, and keeps other runs from writing to it meanwhile.

    Raises:
        InvalidSettingsError: Another run is writing to the folder, it holds something else, or it cannot be made.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / _LOCK).exists():
        raise _not_a_run(path)  # before a file of ours is left in it
    try:
        path.mkdir(exist_ok=True)
        lock = (path / _LOCK).open("w")
    except OSError as error:
        raise InvalidSettingsError(f"output folder '{path}' cannot be made: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidSettingsError(
                f"another run is writing to output '{path}'; wait until it ends, or give another folder"
            ) from None
        yield RunFolder(path)


def _to_line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"


def _not_a_run(path: Path) -> InvalidSettingsError:
    return InvalidSettingsError(f"output '{path}' exists and is not a run folder; give a new or an empty folder")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], group: str = "") -> Iterator[str]:
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{group}{name} ")
        elif old != new:
            yield f"{group}{name} was {_shorten(old)}, now {_shorten(new)}"


def _shorten(value: object) -> str:
    return "not given" if value is None else f"{json.dumps(value):.60}"
