"""Extras: the packages that only some uses need, and the one message that answers where they are missing."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote, urlsplit

from attention_patterns.errors import MissingExtraError

_DISTRIBUTION = "attention-patterns"
_PACKAGE = Path(__file__).resolve().parents[1]
_OURS = ("attention_patterns", "attention_patterns_service", "attention_patterns_training")


@contextmanager
def name_missing_extra(name: str, *, needed_by: str) -> Iterator[None]:
    """Turns the failed import of another's package inside into an error that names the extra it comes with.

    Args:
        name: Name of the extra, such as "models".
        needed_by: What needs it, as the user asked for it, such as "--model".

    Raises:
        MissingExtraError: A package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing in _OURS:
            raise
        raise missing_extra(name, needed_by=needed_by, package=missing) from error


def require(name: str, *packages: str, needed_by: str) -> None:
    """Checks, without importing them, that packages of an extra are installed.

    Args:
        name: Name of the extra.
        packages: Import names, such as "torch".
        needed_by: What needs them, as the user asked for it.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise missing_extra(name, needed_by=needed_by, package=package)


def missing_extra(name: str, *, needed_by: str, package: str) -> MissingExtraError:
    """Returns the error that names a missing package, its extra, and the command that installs it here."""
    return MissingExtraError(
        f"{needed_by} needs the extra '{name}' ({package} is not installed): {install_command(name)}"
    )


def missing_package(package: str, *, needed_by: str) -> MissingExtraError:
    """Returns the error that names a missing package that comes with no extra, and the command that installs it."""
    command = f"{_installer(_read_record().installer)} {quote(package)}"
    return MissingExtraError(f"{needed_by} needs {package}, which is not installed: {command}")


def install_command(name: str) -> str:
    """Returns the command that adds an extra to this copy, from an index, a file or a repository, or to a checkout.

    The command is that of the installer that put this copy here, uv or pip, and names the Python of this process where
    the plain command would reach another one.
    """
    record = _read_record()
    url, target = record.origin.get("url", ""), f"{_DISTRIBUTION}[{name}]"
    if record.origin.get("dir_info", {}).get("editable"):
        return f"{_installer(record.installer)} --editable {quote(f'{unquote(urlsplit(url).path)}[{name}]')}"
    if "vcs_info" in record.origin:
        control = record.origin["vcs_info"]
        url = f"{control['vcs']}+{url}@{control.get('requested_revision') or control['commit_id']}"
    if subdirectory := record.origin.get("subdirectory"):
        url += f"#subdirectory={subdirectory}"
    return f"{_installer(record.installer)} {quote(f'{target} @ {url}' if url else target)}"


@dataclass(frozen=True)
class _InstallRecord:
    """The record of how this copy was installed.

    Attributes:
        installer: Name of the program, such as "pip".
        origin: Where the copy came from, as PEP 610 records it; empty for an index.
    """

    installer: str
    origin: dict[str, Any]


def _read_record() -> _InstallRecord:
    try:
        files = distribution(_DISTRIBUTION)
    except PackageNotFoundError:
        return _InstallRecord("pip", _origin_of_checkout())
    installer = (files.read_text("INSTALLER") or "pip").strip()
    other = Path(str(files.locate_file(_PACKAGE.name)))
    if other.exists() and not other.samefile(_PACKAGE):  # another copy is installed, and a checkout on the path runs
        return _InstallRecord(installer, _origin_of_checkout())
    return _InstallRecord(installer, json.loads(files.read_text("direct_url.json") or "{}"))


def _origin_of_checkout() -> dict[str, Any]:
    """Returns the origin that an editable installation of this checkout would have; empty where it is none."""
    root = _PACKAGE.parents[1]
    return {"url": root.as_uri(), "dir_info": {"editable": True}} if (root / "pyproject.toml").is_file() else {}


def _installer(name: str) -> str:
    """Returns the command that installs packages for the Python of this process."""
    if name == "uv":
        active = os.environ.get("VIRTUAL_ENV") == sys.prefix  # the environment that uv installs into by itself
        return "uv pip install" if active else f"uv pip install --python {quote(sys.executable)}"
    python = "python" if shutil.which("python") == sys.executable else quote(sys.executable)
    return f"{python} -m pip install"
