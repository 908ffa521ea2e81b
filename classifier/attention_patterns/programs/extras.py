"""Extras: the packages that only some uses need, and the one message that answers where they are missing."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote, urlsplit

from attention_patterns.errors import MissingExtraError

_DISTRIBUTION = "attention-patterns"
_OURS = ("attention_patterns", "attention_patterns_service", "attention_patterns_training")


@contextmanager
def extra(name: str, *, needed_by: str) -> Iterator[None]:
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
        if missing in _OURS:
            raise
        raise missing_extra(name, needed_by=needed_by, package=missing) from error


def require(name: str, *packages: str, needed_by: str) -> None:
    """Checks, without importing them, that packages of an extra are installed.

    Args:
        name: Name of the extra.
        packages: Import names, such as "torch".
        needed_by: What needs them, as the user asked for it.

    Raises:
        MissingExtraError: One of them is not.
    """
    for package in packages:
        if find_spec(package) is None:
            raise missing_extra(name, needed_by=needed_by, package=package)


def missing_extra(name: str, *, needed_by: str, package: str) -> MissingExtraError:
    """Returns the error that names a missing package, its extra, and the command that installs it here."""
    return MissingExtraError(
        f"{needed_by} needs the extra '{name}' ({package} is not installed): {install_command(name)}"
    )


def install_command(name: str) -> str:
    """Returns the command that adds an extra to this copy: installed from an index, a wheel, a repository or editable.

    The command is that of the installer that put this copy here, uv or pip.
    """
    installer, origin = _installed()
    command = "uv pip install" if installer == "uv" else "python -m pip install"
    if sys.prefix == sys.base_prefix and installer == "uv":
        command += " --system"
    url, target = origin.get("url", ""), f"{_DISTRIBUTION}[{name}]"
    if origin.get("dir_info", {}).get("editable"):
        return f"{command} --editable '{unquote(urlsplit(url).path)}[{name}]'"
    if "vcs_info" in origin:
        version_control = origin["vcs_info"]
        commit = version_control.get("requested_revision") or version_control.get("commit_id", "")
        return f"{command} '{target} @ {version_control['vcs']}+{url}@{commit}'"
    if url:
        return f"{command} '{target} @ {url}'"
    return f"{command} '{target}'"


def _installed() -> tuple[str, dict[str, Any]]:
    """Returns the installer of this copy, "uv" or "pip", and its origin as PEP 610 records it; {} for an index."""
    try:
        files = distribution(_DISTRIBUTION)
    except PackageNotFoundError:  # a checkout on the path, never installed
        return "pip", {}
    installer = (files.read_text("INSTALLER") or "pip").strip()
    return installer, json.loads(files.read_text("direct_url.json") or "{}")
