"""A Ray cluster to work on: a running one, which is joined, or one on this machine, which ends with the work."""

import logging
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from attention_patterns.errors import InvalidSettingsError, ServerError
from attention_patterns.programs.extras import name_missing_extra, require
from attention_patterns.programs.temporary_folders import temporary_folder

_CONNECT = 10  # seconds
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^\s:/]+):(?P<port>\d{1,5})")
_CLOSED = {  # read when Ray is imported
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as on those systems, it listens on the loopback only
}
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # its lines on workers that died
    "RAY_USAGE_STATS_ENABLED": "0",  # this tool sends nothing
}
_OPTION = "--engine ray"


def check_settings(address: str | None, workers: int | None) -> None:
    """Checks what can be checked before Ray is loaded, which takes seconds; see ``open_cluster`` for both.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidSettingsError: ``address`` is not an address, or there are no workers.
    """
    require("ray", "ray", needed_by=_OPTION)
    if address not in (None, "auto") and not _ADDRESS.fullmatch(address or ""):
        instead = "; ray:// is not read, since Ray Data cannot work through it" if "ray://" in str(address) else ""
        raise InvalidSettingsError(f"--ray-address is {address!r}, expected HOST:PORT of the cluster or auto{instead}")
    if workers is not None and workers < 1:
        raise InvalidSettingsError(f"the number of Ray workers is {workers}, expected 1 or more")


@contextmanager
def open_cluster(address: str | None, workers: int | None) -> Iterator[Any]:
    """Gives the module ``ray``, connected to a cluster.

    A cluster that is started here is closed to others, and ended at the end. One that is joined is left at the end,
    and one that the process was in before is not even left.

    Args:
        address: "HOST:PORT" of a cluster that this machine is a node of, or "auto" for the one that runs here; None
            starts one.
        workers: Number of cores of the cluster that is started; all by default.

    Raises:
        MissingExtraError: Ray is not installed as a whole.
        ServerError: No cluster answers, or none can be started.
    """
    ray = _import_ray(starting=address is None)
    with ExitStack() as stack:
        stack.enter_context(_quiet_ray_data())
        if not ray.is_initialized():  # else it is the caller's
            folder = str(stack.enter_context(temporary_folder("attn-ray-")))  # short: Ray's sockets lie in it
            stack.callback(ray.shutdown)  # before its folder is removed
            if address is None:
                _start(ray, workers or len(os.sched_getaffinity(0)), folder)
            else:
                _join(ray, address)
        yield ray


def _import_ray(*, starting: bool) -> Any:
    environment = _QUIET | (_CLOSED if starting and "ray" not in sys.modules else {})
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    with name_missing_extra("ray", needed_by=_OPTION):
        import ray  # noqa: PLC0415  an extra
        import ray.data  # noqa: PLC0415
        import ray.job_config  # noqa: PLC0415
    return ray


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Keeps Ray Data from writing each step, and each lost unit with a traceback, to the terminal."""
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
        with _drop_stderr():
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                job_config=_code_of_installation(ray),
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ServerError(f"Ray cannot be started on this machine: {last_line(error)}") from error


def _code_of_installation(ray: Any) -> Any:
    """Returns the settings with which workers import no code from the driver's current folder.

    Ray would put that folder before all others on the path of its workers, where a file of the user's, such as
    torch.py, would be taken for the package. It leaves the folder out for drivers behind its own client.
    """
    return ray.job_config.JobConfig(_client_job=True)


@contextmanager
def _drop_stderr() -> Iterator[None]:
    """Drops what Ray's core writes to the terminal past Python: notes on its own log level."""
    with os.fdopen(os.dup(2), "wb") as kept, open(os.devnull, "wb") as nowhere:  # noqa: PTH123  no path
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept.fileno(), 2)


def _join(ray: Any, address: str) -> None:
    """Connects to a running cluster."""
    _check_listens(ray, address)
    try:
        with _drop_stderr():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                job_config=_code_of_installation(ray),
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ServerError(
            f"no Ray cluster can be joined at {address}: {last_line(error)}. Expected one of which this machine is a "
            f"node, with Ray {ray.__version__} and Python {sys.version.split()[0]}"
        ) from error


def _check_listens(ray: Any, address: str) -> None:
    """Checks in seconds that a head node answers, which Ray itself finds out after minutes, or never.

    Raises:
        ServerError: It does not.
    """
    parts = _ADDRESS.fullmatch(address)
    if not parts:
        return
    host = parts["host"].strip("[]")
    loopback = host == "localhost" or host.startswith("127.") or host == "::1"
    refusal: OSError | None = None
    for tried in [host, *([ray.util.get_node_ip_address()] if loopback else [])]:  # Ray takes the one for the other
        try:
            with socket.create_connection((tried, int(parts["port"])), timeout=_CONNECT):
                return
        except OSError as error:
            refusal = error
    raise ServerError(f"no Ray cluster answers at {address} ({refusal}), expected HOST:PORT of its head node")


def last_line(error: BaseException) -> str:
    """Returns the reason in an error of Ray, which carries tracebacks of other processes."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
