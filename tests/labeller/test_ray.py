"""The run on a real Ray: one that it starts itself, and one that it joins, of which workers are killed."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pytest

from attention_patterns import PatternClassifier
from attention_patterns.errors import InvalidSettingsError, OverloadedError
from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.run.ray_engine import TRIES, ray_engine
from attention_patterns.labelling.run.run import in_process, label
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.memory import Memory
from tests.helpers.labelled_runs import COMMAND, ENVIRONMENT, assert_same_run, attention_label, write_dumps

ROOT = Path(__file__).parents[2]
LOAD = partial(PatternClassifier.load, threads=1)
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
ray = pytest.importorskip("ray")  # reads these when it is imported

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),  # Ray sets what it deprecates itself
    # Sockets and log files that Ray leaves to the garbage collector when it is left.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass(frozen=True)
class Killing(DumpSource):
    """Kills the process that reads one of its units."""

    unit: int = 2

    def measure(self, unit, classifier, *, most_bytes):
        if unit.number == self.unit:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(unit, classifier, most_bytes=most_bytes)


@dataclass(frozen=True)
class Refusing(DumpSource):
    """Meets a server that has too much to do."""

    def measure(self, *_, **__):
        raise OverloadedError("the server has enough")


@dataclass(frozen=True)
class Slow(DumpSource):
    """Takes its time."""

    def measure(self, unit, classifier, *, most_bytes):
        time.sleep(2)
        return super().measure(unit, classifier, most_bytes=most_bytes)


def tasks(dumps):
    """Each dump a task, so that the run has as many parts."""
    return dump_tasks([f"task {n}={dump}" for n, dump in enumerate(dumps)])


def labelled(output, source, classifier, engine=in_process, **options):
    maker = PartMaker(source, classifier, Memory.from_now(None))
    return label(maker, output=output, settings={}, engine=engine, **options)


def workers():
    """Processes of this machine in which units are done."""
    return [one for one in psutil.process_iter(["cmdline"]) if "_Worker" in "".join(one.info["cmdline"] or [])]


def forget_half(run):
    """Leaves of a run what one that was killed leaves."""
    manifest = run / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:10])
    (run / "summary.json").unlink()


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """Eight inputs, and one of which rows do not sum to 1."""
    folder = tmp_path_factory.mktemp("corpus") / "dumps"
    write_dumps(folder, 8)
    np.save(folder / "bad.npy", np.full((9, 9), 0.5))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def reference(tmp_path_factory, dumps, classifier):
    """The run of the threads of this process."""
    output = tmp_path_factory.mktemp("reference") / "run"
    assert len(labelled(output, DumpSource(tasks(dumps)), classifier).errors) == 1
    return output


@pytest.fixture(scope="module")
def address():
    """A cluster of three cores, of which this machine is the one node."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with TemporaryDirectory(prefix="ray-test-", ignore_cleanup_errors=True) as folder:  # sockets take no long paths
        options = ["--include-dashboard=false", f"--temp-dir={folder}"]
        with subprocess.Popen([*command, *options], env=environment, **nowhere) as head:
            while not _listens(port) and head.poll() is None:
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
            for process in [*psutil.Process(head.pid).children(recursive=True), head]:
                process.kill()  # half a minute sooner than it stops by itself


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_worker_that_is_killed_changes_nothing(tmp_path, dumps, reference, classifier, address):
    killed = []

    def engine(units, maker, advance):
        for part in ray_engine(LOAD, address=address, max_memory=None)(units, maker, advance):
            if not killed:
                victim, *others = workers()
                assert others
                victim.kill()
                killed.append(part.number)
            yield part

    result = labelled(tmp_path / "run", Slow(tasks(dumps)), classifier, engine)
    assert killed
    assert (result.inputs, len(result.errors)) == (8, 1)
    assert "row 0 sums to 4.5" in result.errors[0]["message"]
    assert_same_run(tmp_path / "run", reference)
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def joined(address):
    """This process in the cluster, as a program that uses Ray for other work too."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_a_unit_that_kills_its_workers_fails_and_no_other(tmp_path, dumps, reference, classifier, joined):
    engine, steps = ray_engine(LOAD, address=None, max_memory=None, workers=2), []
    source = Killing(tasks(dumps))
    result = labelled(tmp_path / "run", source, classifier, engine, advance=lambda *step: steps.append(step))
    (killing,) = source.names(source.units()[source.unit])
    (lost,) = [error for error in result.errors if error["input_id"] == killing.input_id]
    assert (len(result.errors), lost["error"]) == (2, "OutputError")
    assert f"part 2: the Ray worker was killed {TRIES} times while it made it of 1 inputs" in lost["message"]
    assert [sum(counts) for counts in zip(*steps, strict=True)] == [9, result.maps]
    again = labelled(tmp_path / "run", DumpSource(tasks(dumps)), classifier, engine, retry_failed=True)
    assert again.continued == 7
    assert_same_run(tmp_path / "run", reference)
    assert ray.is_initialized()


def test_what_a_worker_raises_is_raised_here(tmp_path, dumps, classifier, joined):
    engine = ray_engine(LOAD, address=None, max_memory=None, workers=1)
    with pytest.raises(OverloadedError, match=r"^the server has enough$"):
        labelled(tmp_path / "run", Refusing(tasks(dumps)), classifier, engine)
    broken = ray_engine(partial(int, "a"), address=None, max_memory=None, workers=1)
    with pytest.raises(RuntimeError, match="ValueError: invalid literal"):
        labelled(tmp_path / "run", DumpSource(tasks(dumps)), classifier, broken)


def test_a_worker_with_another_net_makes_no_row(tmp_path, dumps, joined):
    other = PatternClassifier.load()
    other.bundle = replace(other.bundle, sha256="f" * 64)
    engine = ray_engine(LOAD, address=None, max_memory=None, workers=1)
    with pytest.raises(InvalidSettingsError, match=r"the Ray node .+ has .+, net .+, expected .+, net ffffffffffff"):
        labelled(tmp_path / "run", DumpSource(tasks(dumps)), other, engine)


def test_parts_come_as_they_are_made_and_workers_end_with_the_run(dumps, classifier, joined):
    source = Slow(tasks(dumps))
    maker = PartMaker(source, classifier, Memory.from_now(None))
    engine = ray_engine(LOAD, address=None, max_memory=None, workers=1)
    with closing(engine(source.units(), maker, lambda _inputs, _maps: None)) as parts:
        next(parts)
        first = time.monotonic()
        next(parts)
        between = time.monotonic() - first
    assert between < 8  # nine parts take 18 seconds
    until = time.monotonic() + 20
    while workers() and time.monotonic() < until:
        time.sleep(0.1)
    assert workers() == []
    assert ray.is_initialized()


def test_a_run_goes_on_in_the_other_way(tmp_path, dumps):
    """With a Ray of its own, that says nothing, listens to no other machine and leaves nothing behind."""
    given = [f"task {n}={dump}" for n, dump in enumerate(dumps)]
    threads, both = tmp_path / "threads", tmp_path / "both"
    assert attention_label("run", *given, "-o", threads, "-q").returncode == 1
    shutil.copytree(threads, both)
    forget_half(both)
    with TemporaryDirectory(prefix="ray-test-") as home:  # sockets take no long paths
        environment = ENVIRONMENT | {"TMPDIR": home, "HOME": home}
        command = [*COMMAND, "run", *given, "-o", both, "-q", "--engine", "ray"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as run:
            listening, processes = watched(run)
            told = run.stderr.read()
        assert run.returncode == 1, told
        assert told == f"1 input failed, see {both / 'errors.jsonl'}\n"
        assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
        assert list(Path(home).iterdir()) == []
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    assert_same_run(both, threads)
    forget_half(both)
    assert attention_label("run", *given, "-o", both, "-q").returncode == 1
    assert_same_run(both, threads)


def watched(run):
    """Addresses that processes of a run listen at until it ends, and these processes."""
    listening, processes = set(), set()
    while run.poll() is None:
        for process in psutil.Process(run.pid).children(recursive=True):
            processes.add(process)
            try:
                sockets = process.net_connections("tcp")
            except psutil.Error:  # it has just ended
                continue
            listening |= {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
        time.sleep(1)
    return listening, processes


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://127.0.0.1:10001", "is 'ray://127.0.0.1:10001', expected HOST:PORT of the cluster or auto; ray:// is"),
        ("somewhere", "--ray-address is 'somewhere', expected HOST:PORT"),
        ("", "--ray-address is '', expected HOST:PORT"),
    ],
)
def test_what_is_no_address_is_told_before_ray_is_loaded(address, message):
    with pytest.raises(InvalidSettingsError) as told:
        ray_engine(LOAD, address=address, max_memory=None)
    assert message in str(told.value)


def test_a_cluster_that_does_not_answer_is_told_by_name(tmp_path, dumps):
    with socket.socket() as taken:  # bound, so that nobody else listens there, but not listening
        taken.bind(("", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = attention_label(
            "run", dumps[1], "-o", tmp_path / "run", "-q", "--engine", "ray", "--ray-address", address
        )
    assert told.returncode == 2
    assert f"error: no Ray cluster answers at {address} (" in told.stderr
    assert "expected HOST:PORT of its head node" in told.stderr


def test_without_ray_the_extra_is_named(tmp_path, dumps):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util as util, sys\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'ray' else found(name, package)\n"
        "sys.modules['ray'] = None\n"
    )
    environment = ENVIRONMENT | {"PYTHONPATH": str(blocked)}
    told = attention_label("run", dumps[1], "-o", tmp_path / "run", "--engine", "ray", env=environment)
    assert told.returncode == 2
    assert "--engine ray needs the extra 'ray': pip install 'attention-patterns[ray]'" in told.stderr
    assert attention_label("run", dumps[1], "-o", tmp_path / "run", "-q", env=environment).returncode == 0
