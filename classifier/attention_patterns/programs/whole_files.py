"""Files that appear under their name only when they are whole."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str, *, mode: int = 0o666, keep_owner: bool = False) -> None:
    """Writes a file under a passing name beside its own, and gives it its name once it is on the disk.

    A process that is killed, or a disk that is full, leaves the file that stood there before. A process that is killed
    may leave the hidden file with the passing name as well, which the next write of the same file replaces.

    Args:
        path: Path of the file; its folder exists.
        content: Bytes, or text that is written as UTF-8.
        mode: Permissions before the umask, whatever those of an earlier file; 0o600 for a secret.
        keep_owner: Whether the file stays that of the owner of an earlier one, who could not read it otherwise.

    Raises:
        OSError: The file cannot be written, for example because the disk is full, or cannot stay its owner's.
    """
    passing = passing_path(path)
    try:
        passing.unlink(missing_ok=True)
        descriptor = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            if keep_owner and path.exists() and (owner := path.stat().st_uid) != os.geteuid():
                os.fchown(descriptor, owner, -1)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
    finally:
        passing.unlink(missing_ok=True)


def passing_path(path: Path) -> Path:
    """Returns the path of the hidden file that holds the content of ``path`` until it is whole."""
    return path.with_name(f".{path.name}.partial")
