"""Temporary folders that killed processes do not leave behind for ever.

Whoever uses a folder holds a lock on it, which the system takes back from a process that is killed. So the last one out
knows that it is the last, and whoever makes a folder knows which earlier ones nobody uses any more.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_folder(prefix: str, *, parent: Path | None = None) -> Iterator[Path]:
    """Yields a new folder that is removed at the end; removes those of the same prefix that nobody uses any more.

    Args:
        prefix: Begin of the folder's name, which no other program uses.
        parent: Folder that it lies in; by default the system's temporary folder.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    for earlier in parent.glob(f"{prefix}*"):
        _remove_if_unused(earlier)
    folder, lock = _create(parent, prefix)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def share_folder(folder: Path) -> None:
    """Uses a folder that the parent of this process made until this one ends, and removes it if that is the last."""
    parent, lock = os.getppid(), os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_SH)

    def leave() -> None:
        os.close(lock)
        _remove_if_unused(folder, wait=_is_dying(parent))  # then its other children are ending as well

    atexit.register(leave)


def _create(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # removed by another process, which found it without a lock
            continue
        fcntl.flock(lock, fcntl.LOCK_SH)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _is_dying(parent: int) -> bool:
    """Returns whether a parent is gone, or its main thread is, which may end before the others and its locks."""
    try:
        state = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z" or os.getppid() != parent


def _remove_if_unused(folder: Path, *, wait: bool = False) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone by now, or of another user, or no folder
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.fstat(lock).st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:  # somebody uses it
        pass
    finally:
        os.close(lock)
