"""Inputs as the command line gives them: PATH, or NAME=PATH to name the task."""

import re
from dataclasses import dataclass
from pathlib import Path

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.files import before_wildcard

_NAMED = re.compile(r"(?P<name>[^/\\:=*?\[\]]+)=(?P<path>.+)", re.DOTALL)


@dataclass(frozen=True)
class InputArgument:
    """One input as it was given.

    Attributes:
        task: Name of its task; None where none was given.
        path: Path, folder, glob, URL or data set.
    """

    task: str | None
    path: str


def parse_input(argument: str) -> InputArgument:
    r"""Reads PATH or NAME=PATH.

    A name holds none of ``/ \ : = * ? [ ]``, so that "s3://bucket/lr=1/x.npz" and "runs/lr=1" are paths. A file that
    exists under the whole of the argument is a path as well, and so is a pattern in a folder that exists: "lr=1/*.npz".

    Raises:
        SourceError: The argument is not UTF-8, or holds a null byte.
    """
    if not is_unicode(argument):
        raise SourceError(f"input {argument!r} is not UTF-8; rename the file, or give the folder that it is in")
    if "\0" in argument:
        raise SourceError(f"input {argument!r:.80} holds a null byte, which no path can")
    parts = _NAMED.fullmatch(argument)
    if parts is None or _exists(before_wildcard(argument)):
        return InputArgument(None, argument)
    return InputArgument(parts["name"], parts["path"])


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except OSError:  # longer than a path may be
        return False


def is_unicode(text: str) -> bool:
    """Returns whether a text can be written as UTF-8: names of files and JSON may hold bytes that are no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
