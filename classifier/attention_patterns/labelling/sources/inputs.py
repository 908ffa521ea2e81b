"""Inputs as the command line gives them: PATH, or NAME=PATH to name the task."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.files import before_wildcard, is_wild, without_query

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


def task_name(path: str, suffixes: Collection[str]) -> str:
    """Returns the default name of a path's task.

    It is a folder's name, a file's name without one of ``suffixes``, or the last folder of a glob before its wildcard.
    """
    steps = PurePosixPath(without_query(path) if "://" in path else Path(path).absolute().as_posix()).parts
    name = next((before for before, step in pairwise(steps) if is_wild(step)), steps[-1])
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in suffixes else name


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
