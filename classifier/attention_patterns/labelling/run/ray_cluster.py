"""A Ray cluster to work on: one that runs, which is joined, or one on this machine, which ends with the work."""

import logging
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

from attention_patterns.errors import InvalidSettingsError, ServerError, SourceError

_CONNECT = 10  # seconds
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^\s:/]+):(?P<port>\d{1,5})")
_CLOSED = {  # read when Ray is imported
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as on those, it listens on the loopback only
}
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what it tells of workers that died
    "RAY_USAGE_STATS_ENABLED": "0",  # this tool sends nothing
}


def check_settings(address: str | None, workers: int | None) -> None:
    """Checks what can be told before Ray is loaded, which takes seconds; see ``cluster`` for both.

    Raises:
        SourceError: Ray is not installed.
        InvalidSettingsError: ``address`` is no address, or there are no workers.
    """
    if find_spec("ray") is None:
        raise SourceError("--engine ray needs the extra 'ray': pip install 'attention-patterns[ray]'")
    if address not in (None, "auto") and not _ADDRESS.fullmatch(address or ""):
        instead = "; ray:// is not read, since Ray Data cannot work through it" if "ray://" in str(address) else ""
        raise InvalidSettingsError(f"--ray-address is {address!r}, expected HOST:PORT of the cluster or auto{instead}")
    if workers is not None and workers < 1:
        raise InvalidSettingsError(f"{workers} Ray workers are asked for, expected 1 or more")


@contextmanager
def cluster(address: str | None, workers: int | None) -> Iterator[Any]:
    """The module ``ray``, connected.

    A cluster that is started here is closed to others, and ended at the end. One that is joined is left at the end,
    and one that the process was in before is not even left.

    Args:
        address: "HOST:PORT" of a cluster that this machine is a node of, or "auto" for the one that runs here; None
            starts one.
        workers: cores of the one that is started; all by default.

    Raises:
        SourceError: Ray is not installed as a whole.
        ServerError: no cluster answers, or none can be started.
    """
    ray = _imported(starting=address is None)
    with ExitStack() as stack:
        stack.enter_context(_hushed())
        if not ray.is_initialized():  # else it is the caller's
            folder = stack.enter_context(TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
            stack.callback(ray.shutdown)  # before its folder is removed
            if address is None:
                _start(ray, workers or len(os.sched_getaffinity(0)), folder)
            else:
                _join(ray, address)
        yield ray


def _imported(*, starting: bool) -> Any:
    environment = _QUIET | (_CLOSED if starting and "ray" not in sys.modules else {})
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: PLC0415  an extra
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise SourceError(
            f"--engine ray needs the extra 'ray', which cannot be loaded ({error}): pip install "
            "'attention-patterns[ray]'"
        ) from None
    return ray


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps Ray Data from telling the terminal of each step, and of each lost unit with a traceback."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _start(ray: Any, cores: int, folder: str) -> None:
    """Starts Ray on this machine."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else one is written into the user's home
    try:
        with _unheard():
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ServerError(f"Ray cannot be started on this machine: {last_line(error)}") from error


@contextmanager
def _unheard() -> Iterator[None]:
    """Drops what Ray's core writes to the terminal past Python: that it was told to write less."""
    with os.fdopen(os.dup(2), "wb") as kept, open(os.devnull, "wb") as nowhere:  # noqa: PTH123  no path
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept.fileno(), 2)


def _join(ray: Any, address: str) -> None:
    """Connects to a cluster that runs."""
    _check_listens(ray, address)
    try:
        with _unheard():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ServerError(
            f"no Ray cluster can be joined at {address}: {last_line(error)}. Expected one of which this machine is a "
            f"node, with Ray {ray.__version__} and Python {sys.version.split()[0]}"
        ) from error


def _check_listens(ray: Any, address: str) -> None:
    """Tells in seconds what Ray tells after minutes, or never."""
    found = _ADDRESS.fullmatch(address)
    if not found:
        return
    host = found["host"].strip("[]")
    loopback = host == "localhost" or host.startswith("127.") or host == "::1"
    refused: OSError | None = None
    for tried in [host, *([ray.util.get_node_ip_address()] if loopback else [])]:  # Ray takes the one for the other
        try:
            with socket.create_connection((tried, int(found["port"])), timeout=_CONNECT):
                return
        except OSError as error:
            refused = error
    raise ServerError(f"no Ray cluster answers at {address} ({refused}), expected HOST:PORT of its head node")


def last_line(error: BaseException) -> str:
    """What an error of Ray comes down to; they carry tracebacks of other processes."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
