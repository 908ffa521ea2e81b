"""Files that appear under their name only when they are whole."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str, *, mode: int = 0o666) -> None:
    """Writes a file under a passing name beside its own, and gives it its name once it is on the disk.

    A process that is killed, or a disk that is full, leaves what stood there before.

    Args:
        path: Of the file; its folder exists.
        content: Bytes, or text that is written as UTF-8.
        mode: Permissions before the umask; 0o600 for a secret, whatever stood there before.

    Raises:
        OSError: The file cannot be written; say, the disk is full.
    """
    passing = path.with_name(f".{path.name}.partial")
    try:
        passing.unlink(missing_ok=True)
        descriptor = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
    finally:
        passing.unlink(missing_ok=True)
