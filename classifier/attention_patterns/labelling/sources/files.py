"""Files on this machine and behind URLs, found and opened by fsspec: paths, folders, globs, s3://, http://, memory://."""

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from io import FileIO
from os.path import commonprefix
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from attention_patterns.errors import AttentionPatternsError, MissingExtraError, SourceError
from attention_patterns.programs.extras import missing_extra, missing_package

_VERSIONS = ("ETag", "mtime", "LastModified", "created")  # keys in which file systems date a file, best first
_BLOCK = 8 * 2**20  # bytes fetched of a remote file at a time
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # scheme of URLs -> extra that brings its file system


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file, or a folder that is read like one, such as a .zarr store.

    Attributes:
        url: Absolute path on this machine, or a URL that fsspec opens.
        name: Path in the folder that was given, or in the last folder that holds all files given one by one.
        size: Size in bytes; None where the file system does not know it.
        modified: Time or ETag, by which one version of the file differs from the next; "" where there is none.
        special: Path, in a folder that is read like a file, of something that is neither file nor folder; "" without.
    """

    url: str
    name: str
    size: int | None
    modified: str
    special: str = ""

    @property
    def suffix(self) -> str:
        """The suffix in lower case, with its dot: ".npz"."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def shown(self) -> str:
        """The URL as messages show it, also where a file's name is not UTF-8."""
        return _escape(self.url)

    @property
    def remote(self) -> bool:
        """Whether the file is reached by a URL."""
        return _is_remote(self.url)


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files that belong together.

    Attributes:
        folder: Path or URL of the folder that holds all of them.
        files: The files.
        whole: Whether the folder was given, and not files in it one by one or by a glob.
    """

    folder: str
    files: tuple[StoredFile, ...]
    whole: bool

    @classmethod
    def join(cls, groups: Iterable["FileGroup"]) -> "FileGroup":
        """Returns one group of all files, each once, named by their paths in the last folder that holds them all.

        So a glob means the same whether it is expanded here or by a shell. A single folder stays as it is.
        """
        first, *others = groups
        if first.whole and not others:
            return first
        files = {file.url: file for group in (first, *others) for file in group.files}
        steps = [without_query(url).split("/")[:-1] for url in files]
        folder = "/".join(commonprefix(steps))  # noqa: RUF071  of steps, not of letters
        named = (replace(file, name=_relative_name(url, folder)) for url, file in files.items())
        return cls(folder, tuple(named), whole=False)

    def task(self, suffixes: Collection[str]) -> str:
        """Returns the name of its task: the folder's, or that of a file that is alone, without one of ``suffixes``."""
        if self.whole or len(self.files) > 1:
            return _escape(PurePosixPath(self.folder).name) or self.folder or "/"
        name = PurePosixPath(self.files[0].name).name
        suffix = PurePosixPath(name).suffix
        return name.removesuffix(suffix) if suffix.lower() in suffixes else name


@contextmanager
def explain_errors(subject: str) -> Iterator[None]:
    """Turns what a library of formats or file systems raises inside into a SourceError: "<subject>: <its reason>"."""
    try:
        yield
    except AttentionPatternsError:
        raise
    except Exception as error:  # each of these libraries has errors of its own
        raise SourceError(f"{subject}: {str(error).strip() or type(error).__name__}") from error


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """Returns the file system of a path or URL, and the path in it.

    Raises:
        MissingExtraError: A package that reads URLs of this scheme is not installed.
    """
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        raise _missing_file_system(url, error) from error
    return system, path


def _missing_file_system(url: str, error: ImportError) -> MissingExtraError:
    """Returns the error for a scheme that fsspec knows and whose package is missing."""
    scheme, package = url.partition("://")[0], getattr(error.__cause__, "name", None) or str(error)
    if scheme in _EXTRAS:
        return missing_extra(_EXTRAS[scheme], needed_by=url, package=package)
    return missing_package(package, needed_by=url)


def find_files(path: str, suffixes: Collection[str], *, folders: Collection[str] = ()) -> list[FileGroup]:
    """Returns the files of a path, sorted: the file itself, those in a folder in depth, or those that a glob matches.

    A folder is a group of its own, also one that a glob matches, as where a shell expands the glob. All other files
    are one group.

    Args:
        path: Path, folder, glob or fsspec URL. A file that exists under the very name is never read as a glob.
        suffixes: Suffixes of the files to find, in lower case, such as ".npz".
        folders: Those of ``suffixes`` whose folders count as one file each, such as ".zarr".

    Raises:
        SourceError: The path does not exist, cannot be listed, is a file of another kind or a folder without such
            files.
        MissingExtraError: A package that reads URLs of this scheme is not installed.
    """
    if "::" in path and "://" in path:
        raise SourceError(f"{path} is a chain of URLs, expected one path or URL")
    with explain_errors(f"{path} cannot be listed"):
        system, root = file_system(path)
        system.invalidate_cache()  # of listings made earlier by this process
        return _Search(path, system, root, tuple(suffixes), tuple(folders)).run()


@contextmanager
def open_file(url: str) -> Iterator[BinaryIO]:
    """Opens a file to read its bytes, with seek and readinto; a remote one is fetched in blocks of 8 MiB.

    Args:
        url: Path or URL, as that of a ``StoredFile``.

    Raises:
        SourceError: The file cannot be opened, or is no regular file.
    """
    with explain_errors(f"{_escape(url)} cannot be opened"):
        if _is_remote(url):
            system, path = file_system(url)
            stream = cast(BinaryIO, system.open(path, "rb", block_size=_BLOCK))
        else:
            _check_regular(url, os.stat(url).st_mode)  # noqa: PTH116  before opening a device does something
            stream = cast(BinaryIO, FileIO(url, opener=_open_at_once))
    with stream:
        if not _is_remote(url):
            _check_regular(url, os.fstat(stream.fileno()).st_mode)
        yield stream


def _is_remote(url: str) -> bool:
    return "://" in url


def _open_at_once(path: str, flags: int) -> int:
    """Opens a path without waiting for the other end, should it have become a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def _check_regular(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "folder")
        raise SourceError(f"{_escape(path)} is a {kind}, expected a regular file; what has no end is never read")


@dataclass(frozen=True)
class _Search:
    path: str
    system: AbstractFileSystem
    root: str
    suffixes: tuple[str, ...]
    folders: tuple[str, ...]

    def run(self) -> list[FileGroup]:
        try:
            info = self.system.info(self.root)
        except FileNotFoundError as error:
            if not is_wild(self.root):
                reason = f": {error.__cause__}" if error.__cause__ else ""
                raise SourceError(f"{self.path} does not exist{reason}") from error
            return self._require(self._match_glob(), "a pattern that matches nothing")
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise SourceError(f"{self.path} is longer than a path may be") from error
            raise
        suffix = PurePosixPath(without_query(self.root)).suffix.lower()
        folder = info["type"] == "directory" or (suffix not in self.suffixes and self.system.isdir(self.root))
        if folder and suffix not in self.folders:
            return self._require([self._search_folder(self.root)], "a folder without")
        if suffix not in self.suffixes:
            raise SourceError(f"{self.path} is a file {suffix or 'without suffix'}, expected one of {self._expected}")
        parent = self.root.rpartition("/")[0]  # of a URL, whose two slashes PurePosixPath would join
        file = self._make_store(self.root, parent) if folder else self._make_file(self.root, info, parent)
        return [FileGroup(self._url(parent), (file,), whole=False)]

    @property
    def _expected(self) -> str:
        return ", ".join(self.suffixes)

    def _require(self, groups: Sequence[FileGroup], nothing: str) -> list[FileGroup]:
        if not any(group.files for group in groups):
            raise SourceError(f"{self.path} is {nothing} {self._expected}")
        return [group for group in groups if group.files]

    def _match_glob(self) -> list[FileGroup]:
        """Returns the files in each folder that the glob matches, and those that it matches themselves."""
        base, single, folders = before_wildcard(self.root), dict[str, StoredFile](), list[str]()
        for path, info in sorted(self.system.glob(self.root, detail=True).items()):
            if any(path.startswith(f"{folder}/") for folder in folders):  # which is searched in depth
                continue
            if info["type"] != "directory":
                single |= self._collect({path: info}, base)
            elif PurePosixPath(path).suffix.lower() in self.folders:
                single |= self._collect(self.system.find(path, detail=True), base)
            else:
                folders.append(path.rstrip("/"))
        return [*map(self._search_folder, folders), self._make_group(base, single, whole=False)]

    def _make_group(self, folder: str, files: dict[str, StoredFile], *, whole: bool) -> FileGroup:
        return FileGroup(self._url(folder), tuple(files[url] for url in sorted(files)), whole)

    def _search_folder(self, folder: str) -> FileGroup:
        return self._make_group(folder, self._collect(self.system.find(folder, detail=True), folder), whole=True)

    def _collect(self, infos: dict[str, dict[str, Any]], base: str) -> dict[str, StoredFile]:
        """Returns the wanted files by their URL; what lies in a folder that counts as a file is left to it."""
        files: dict[str, StoredFile] = {}
        for path, info in infos.items():
            store = self._enclosing_store(path)
            if store is not None:
                if self._url(store) not in files:
                    files[self._url(store)] = self._make_store(store, base)
            elif PurePosixPath(path).suffix.lower() in self.suffixes:
                followed = self._follow(path, info)
                if followed["type"] != "directory":
                    files[self._url(path)] = self._make_file(path, followed, base)
        return files

    def _follow(self, path: str, info: dict[str, Any]) -> dict[str, Any]:
        """Returns the information on a link's target; a link that leads nowhere is a file that fails when read."""
        if info["type"] == "file":
            return info
        try:
            return cast(dict[str, Any], self.system.info(path))
        except FileNotFoundError:
            return info

    def _enclosing_store(self, path: str) -> str | None:
        if not self.folders:
            return None
        steps = path.split("/")
        ends = (n for n, step in enumerate(steps[:-1], 1) if PurePosixPath(step).suffix.lower() in self.folders)
        return next(("/".join(steps[:n]) for n in ends), None)

    def _make_file(self, path: str, info: dict[str, Any], base: str) -> StoredFile:
        version = next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")
        return StoredFile(self._url(path), _relative_name(path, base), info.get("size"), version)

    def _make_store(self, path: str, base: str) -> StoredFile:
        """Makes one file of a folder: its size is the sum of all files in it, its version a digest of theirs."""
        infos = {
            inner: self._follow(inner, info) for inner, info in sorted(self.system.find(path, detail=True).items())
        }
        files = {inner: self._make_file(inner, info, path) for inner, info in infos.items()}
        versions = "\n".join(f"{file.name} {file.size} {file.modified}" for file in files.values())
        return StoredFile(
            url=self._url(path),
            name=_relative_name(path, base),
            size=sum(file.size or 0 for file in files.values()),
            modified=sha256(versions.encode()).hexdigest()[:16],
            special=next((files[inner].name for inner, info in infos.items() if info["type"] == "other"), ""),
        )

    def _url(self, path: str) -> str:
        return path if isinstance(self.system, LocalFileSystem) else str(self.system.unstrip_protocol(path))


def _relative_name(path: str, base: str) -> str:
    inner = without_query(path).removeprefix(base.rstrip("/")).strip("/")
    return _escape(inner or PurePosixPath(path).name)


def _escape(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()


def without_query(url: str) -> str:
    """Returns a URL without its query, such as "?token=1"."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def is_wild(path: str) -> bool:
    """Returns whether a path or a step of it is a pattern of names; in a web address, "?" begins its query."""
    return any(sign in path for sign in ("*[" if path.startswith(("http://", "https://")) else "*?["))


def before_wildcard(path: str) -> str:
    """Returns the steps of a path before the first that is a pattern of names."""
    steps = path.split("/")
    return "/".join(steps[: next((n for n, step in enumerate(steps) if is_wild(step)), len(steps))])
