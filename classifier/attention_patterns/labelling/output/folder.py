"""The run folder: parts that appear whole or not at all, the manifest that records them, and what was asked for.

run.json        the job, its sources and versions; written once
manifest.jsonl  one line a part that is there, added after it is
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

TABLES = ("labels", "inputs", "maps")
_OURS = (
    *TABLES,
    "run.json",
    "manifest.jsonl",
    "errors.jsonl",
    "summary.json",
    "heads.parquet",
    "report.html",
    "figures",
)
_LOCK, _RESERVE = ".lock", ".reserve"
_RESERVE_BYTES = 8 * 2**20  # for the errors and the summary of a run that filled the disk
_SHOWN = 3  # of the differences between two jobs


@dataclass(frozen=True)
class PartRecord:
    """A part that is there; attributes as those of ``Part``."""

    number: int
    inputs: int
    maps: int
    warned: int
    errors: tuple[Mapping[str, str | None], ...]


@dataclass(frozen=True)
class RunFolder:
    """A run's folder on a local disk."""

    path: Path

    def table_files(self, table: str) -> list[Path]:
        """The parts of "labels", "inputs" or "maps" that the manifest knows, in order."""
        files = (self._part(table, record.number) for record in self.records())
        return [file for file in files if file.exists()]

    def job(self) -> dict[str, Any]:
        """What was asked for.

        Raises:
            SourceError: this is no folder of a run.
        """
        try:
            return dict(json.loads((self.path / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.path} is no folder of a run: run.json cannot be read ({error})") from error

    def records(self) -> list[PartRecord]:
        """The parts that are there, by number."""
        try:
            lines = (self.path / "manifest.jsonl").read_bytes().split(b"\n")[:-1]  # a line is there when it is ended
        except FileNotFoundError:
            return []
        found = (json.loads(line) for line in lines)
        records = {record["number"]: PartRecord(**record | {"errors": tuple(record["errors"])}) for record in found}
        return [records[number] for number in sorted(records)]

    def errors(self) -> list[Mapping[str, str | None]]:
        """What failed so far, as lines of the errors file: in parts that are there, and of parts that are not."""
        lines = [_line(error) for record in self.records() for error in record.errors]
        with contextlib.suppress(FileNotFoundError):
            lines += (self.path / "errors.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in dict.fromkeys(lines)]

    def begin(self, job: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Makes the folder, or finds in it the same job, of which some parts may be done.

        Raises:
            InvalidSettingsError: the folder holds another job's run, or something else.
        """
        if overwrite:
            self._clear()
        if (self.path / "run.json").exists():
            self._check_same(job)
        elif any(one.name not in (_LOCK, _RESERVE) for one in self.path.iterdir()):
            raise _no_run(self.path)
        for table in TABLES:
            (self.path / table).mkdir(parents=True, exist_ok=True)
            for torn in (self.path / table).glob(".*"):
                torn.unlink()
        if not (self.path / "run.json").exists():
            write_whole(self.path / "run.json", json.dumps(job, indent=1).encode())
        self._mend_manifest()
        (self.path / "errors.jsonl").unlink(missing_ok=True)
        with contextlib.suppress(OSError), (self.path / _RESERVE).open("wb") as reserve:
            os.posix_fallocate(reserve.fileno(), 0, _RESERVE_BYTES)

    def write_errors(self, errors: Sequence[Mapping[str, str | None]]) -> None:
        """Writes the errors file, on a full disk into the room that was kept for it; without errors there is none.

        Raises:
            OSError: even that was not enough.
        """
        (self.path / _RESERVE).unlink(missing_ok=True)
        if errors:
            write_whole(self.path / "errors.jsonl", "".join(map(_line, errors)).encode())
        else:
            (self.path / "errors.jsonl").unlink(missing_ok=True)

    def _clear(self) -> None:
        """Removes what a run makes, and nothing else; the job goes first, so that a half-cleared folder is no run."""
        if self.path.is_file():
            raise InvalidSettingsError(f"output {self.path} is a file, expected a folder or a new name")
        for name in ("run.json", *_OURS):
            found = self.path / name
            if found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)

    def _check_same(self, job: Mapping[str, Any]) -> None:
        before, now = self.job(), json.loads(json.dumps(job))
        different = list(_differences(before, now))
        if different:
            more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
            raise InvalidSettingsError(
                f"output {self.path} holds a run of another job: {'; '.join(different[:_SHOWN])}{more}. Choose another "
                "name, or --overwrite"
            )

    def _mend_manifest(self) -> None:
        """Cuts off a last line that was not finished."""
        with (self.path / "manifest.jsonl").open("a+b") as manifest:
            manifest.seek(0)
            manifest.truncate(manifest.read().rfind(b"\n") + 1)

    def keep(self, part: Part) -> PartRecord:
        """Writes a part: its tables, each under a passing name until it is whole, and then its line in the manifest.

        Raises:
            OSError: say, the disk is full; nothing of the part is left then.
        """
        try:
            for table in TABLES:
                if table in part.tables:
                    write_whole(self._part(table, part.number), part.tables[table])
                else:
                    self._part(table, part.number).unlink(missing_ok=True)
            record = PartRecord(part.number, part.inputs, part.maps, part.warned, part.errors)
            self._record(record)
        except OSError:
            for table in TABLES:
                self._part(table, part.number).unlink(missing_ok=True)
            raise
        return record

    def _record(self, record: PartRecord) -> None:
        line = _line(asdict(record)).encode()
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
        """Takes parts out of the manifest, so that they are made again."""
        kept = [_line(asdict(record)) for record in self.records() if record.number not in set(numbers)]
        write_whole(self.path / "manifest.jsonl", "".join(kept).encode())

    def _part(self, table: str, number: int) -> Path:
        return self.path / table / f"part-{number:05}.parquet"


@contextmanager
def locked(path: Path) -> Iterator[RunFolder]:
    """The run folder at ``path``, which no other run writes to meanwhile.

    Raises:
        InvalidSettingsError: one does, or the folder cannot be made.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / _LOCK).exists():
        raise _no_run(path)  # and no file of ours is left in it
    try:
        path.mkdir(exist_ok=True)
        lock = (path / _LOCK).open("w")
    except OSError as error:
        raise InvalidSettingsError(f"output folder {path} cannot be made: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidSettingsError(
                f"another run is writing to {path}; wait for it, or choose another name"
            ) from None
        yield RunFolder(path)


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _no_run(path: Path) -> InvalidSettingsError:
    return InvalidSettingsError(f"output {path} is there and is no folder of a run; choose another name")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears under its name only when it is whole and on the disk.

    Raises:
        OSError: say, the disk is full.
    """
    passing = path.with_name(f".{path.name}")
    try:
        with passing.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
    finally:
        passing.unlink(missing_ok=True)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> Iterator[str]:
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{of}{name} ")
        elif old != new:
            yield f"{of}{name} was {_told(old)}, now {_told(new)}"


def _told(value: object) -> str:
    return "not there" if value is None else f"{json.dumps(value):.60}"
