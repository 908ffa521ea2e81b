"""Files on this machine and behind URLs, found and opened by fsspec: paths, folders, globs, s3://, http://, memory://."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from attention_patterns.errors import AttentionPatternsError, SourceError

_VERSIONS = ("ETag", "mtime", "LastModified", "created")  # what file systems tell of the time of a file, best first
_BLOCK = 8 * 2**20  # bytes that are asked of a remote file at a time


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file, or a folder that is read like one, such as a .zarr store.

    Attributes:
        url: an absolute path on this machine, or a URL that fsspec opens.
        name: its path in the folder given, or its file name; of a glob, its path in the last folder without wildcard.
        size: in bytes; None where the file system does not tell.
        modified: what tells one version of the file from the next: its time or ETag, "" where none is told.
    """

    url: str
    name: str
    size: int | None
    modified: str

    @property
    def suffix(self) -> str:
        """In lower case, with its dot: ".npz"."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def shown(self) -> str:
        """The URL in messages, also where a file's name is not UTF-8."""
        return _printable(self.url)

    @property
    def remote(self) -> bool:
        """Whether it is reached by a URL."""
        return "://" in self.url


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns whatever a library of formats or file systems raises into a SourceError: "<what>: <its reason>"."""
    try:
        yield
    except AttentionPatternsError:
        raise
    except Exception as error:  # each of these libraries has errors of its own
        raise SourceError(f"{what}: {str(error).strip() or type(error).__name__}") from error


def find_files(path: str, suffixes: Collection[str], *, folders: Collection[str] = ()) -> list[StoredFile]:
    """The files of a path, sorted: the file given, those in a folder in depth, or those that a glob matches.

    Args:
        path: a path, folder, glob or fsspec URL. A file that is there under the very name is never read as a glob.
        suffixes: of the files to find, in lower case, such as ".npz".
        folders: of ``suffixes`` those whose folders count as one file each, such as ".zarr".

    Raises:
        SourceError: it does not exist, cannot be listed, is a file of another kind or a folder without such files.
    """
    if "::" in path and "://" in path:
        raise SourceError(f"{path} is a chain of URLs, expected one path or URL")
    with explained(f"{path} cannot be listed"):
        system, root = url_to_fs(path)
        system.invalidate_cache()  # of listings made earlier by this process
        return _Search(path, system, root, tuple(suffixes), tuple(folders)).found()


@contextmanager
def opened(file: StoredFile) -> Iterator[BinaryIO]:
    """Opens a file to read its bytes, with seek and readinto; a remote one is fetched in blocks of 8 MiB.

    Raises:
        SourceError: it cannot be opened.
    """
    with explained(f"{file.shown} cannot be opened"):
        if file.remote:
            system, place = url_to_fs(file.url)
            stream = cast(BinaryIO, system.open(place, "rb", block_size=_BLOCK))
        else:
            stream = cast(BinaryIO, FileIO(file.url))
    with stream:
        yield stream


def default_task(path: str, suffixes: Collection[str]) -> str:
    """The name of what is found at a path: a folder's name, a file's stem, a glob's last folder without wildcard."""
    steps = PurePosixPath(_without_query(path) if "://" in path else Path(path).absolute().as_posix()).parts
    name = next((before for before, step in pairwise(steps) if _is_wild(step)), steps[-1])
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in suffixes else name


@dataclass(frozen=True)
class _Search:
    path: str
    system: AbstractFileSystem
    root: str
    suffixes: tuple[str, ...]
    folders: tuple[str, ...]

    def found(self) -> list[StoredFile]:
        try:
            info = self.system.info(self.root)
        except FileNotFoundError as error:
            if not _is_wild(self.root):
                reason = f": {error.__cause__}" if error.__cause__ else ""
                raise SourceError(f"{self.path} does not exist{reason}") from error
            return self._some(self._matches(), "a pattern that matches nothing")
        suffix = PurePosixPath(_without_query(self.root)).suffix.lower()
        folder = info["type"] == "directory" or (suffix not in self.suffixes and self.system.isdir(self.root))
        if folder and suffix not in self.folders:
            return self._some(self._in_folder(self.root, self.root), "a folder without")
        if suffix not in self.suffixes:
            raise SourceError(f"{self.path} is a file {suffix or 'without suffix'}, expected one of {self._expected}")
        parent = self.root.rpartition("/")[0]  # of a URL, whose two slashes PurePosixPath would join
        return [self._store(self.root, parent) if folder else self._file(self.root, info, parent)]

    @property
    def _expected(self) -> str:
        return ", ".join(self.suffixes)

    def _some(self, files: dict[str, StoredFile], without: str) -> list[StoredFile]:
        if not files:
            raise SourceError(f"{self.path} is {without} {self._expected}")
        return [files[url] for url in sorted(files)]

    def _matches(self) -> dict[str, StoredFile]:
        steps = self.root.split("/")
        base = "/".join(steps[: next(n for n, step in enumerate(steps) if _is_wild(step))])
        files: dict[str, StoredFile] = {}
        for place, info in self.system.glob(self.root, detail=True).items():
            if info["type"] == "directory":
                files |= self._in_folder(place, base)
            else:
                files |= self._collected({place: info}, base)
        return files

    def _in_folder(self, folder: str, base: str) -> dict[str, StoredFile]:
        return self._collected(self.system.find(folder, detail=True), base)

    def _collected(self, found: dict[str, dict[str, Any]], base: str) -> dict[str, StoredFile]:
        """The wanted files by their URL; what lies in a folder that counts as a file is left to it."""
        files: dict[str, StoredFile] = {}
        for place, info in found.items():
            store = self._enclosing_store(place)
            if store is not None:
                if self._url(store) not in files:
                    files[self._url(store)] = self._store(store, base)
            elif PurePosixPath(place).suffix.lower() in self.suffixes:
                told = info if info["type"] == "file" else self._followed(place, info)
                if told["type"] != "directory":
                    files[self._url(place)] = self._file(place, told, base)
        return files

    def _followed(self, place: str, info: dict[str, Any]) -> dict[str, Any]:
        """What a link leads to; one that leads nowhere is a file that fails when it is read."""
        try:
            return cast(dict[str, Any], self.system.info(place))
        except FileNotFoundError:
            return info

    def _enclosing_store(self, place: str) -> str | None:
        if not self.folders:
            return None
        steps = place.split("/")
        ends = (n for n, step in enumerate(steps[:-1], 1) if PurePosixPath(step).suffix.lower() in self.folders)
        return next(("/".join(steps[:n]) for n in ends), None)

    def _file(self, place: str, info: dict[str, Any], base: str) -> StoredFile:
        version = next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")
        return StoredFile(self._url(place), _relative(place, base), info.get("size"), version)

    def _store(self, place: str, base: str) -> StoredFile:
        """A folder that counts as one file: its size is that of all in it, its version made of all of theirs."""
        files = [self._file(p, i, place) for p, i in sorted(self.system.find(place, detail=True).items())]
        versions = "\n".join(f"{file.name} {file.size} {file.modified}" for file in files)
        return StoredFile(
            url=self._url(place),
            name=_relative(place, base),
            size=sum(file.size or 0 for file in files),
            modified=sha256(versions.encode()).hexdigest()[:16],
        )

    def _url(self, place: str) -> str:
        return place if isinstance(self.system, LocalFileSystem) else str(self.system.unstrip_protocol(place))


def _relative(place: str, base: str) -> str:
    inner = _without_query(place).removeprefix(base.rstrip("/")).strip("/")
    return _printable(inner or PurePosixPath(place).name)


def _printable(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()


def _without_query(path: str) -> str:
    return path.partition("?")[0] if path.startswith(("http://", "https://")) else path


def _is_wild(path: str) -> bool:
    return any(sign in path for sign in ("*[" if path.startswith(("http://", "https://")) else "*?["))
