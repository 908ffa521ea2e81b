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
from attention_patterns.programs.extras import install_command
from tests.helpers.labelled_runs import (
    COMMAND,
    ENVIRONMENT,
    assert_same_run,
    attention_label,
    invoke,
    write_dumps,
)

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
class Waiting(DumpSource):
    """Waits, from one of its units on, until a file exists."""

    event: Path = Path("nowhere")
    first: int = 1

    def measure(self, unit, classifier, *, most_bytes):
        while unit.number >= self.first and not self.event.exists():
            time.sleep(0.02)
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
    """Four inputs, and one of which rows do not sum to 1, the last."""
    folder = tmp_path_factory.mktemp("corpus") / "dumps"
    write_dumps(folder, 4)
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


@pytest.fixture
def traps(tmp_path):
    """A folder of files that are named like packages and fail when they are imported."""
    folder = tmp_path / "traps"
    folder.mkdir()
    for name in ("attention_patterns", "numba", "numpy", "pandas", "pyarrow", "ray", "torch"):
        (folder / f"{name}.py").write_text("raise RuntimeError('code of the current folder')")
    return folder


def test_a_worker_that_is_killed_changes_nothing(tmp_path, dumps, reference, classifier, address, traps, monkeypatch):
    """Nor do files in the current folder that are named like packages."""
    monkeypatch.chdir(traps)
    killed = []

    def engine(units, maker, advance):
        for part in ray_engine(LOAD, address=address, max_memory=None)(units, maker, advance):
            if not killed:  # all other workers wait
                victim, *others = workers()
                assert others
                victim.kill()
                killed.append(part.number)
                maker.source.event.touch()
            yield part

    source = Waiting(tasks(dumps), event=tmp_path / "killed")
    result = labelled(tmp_path / "run", source, classifier, engine)
    assert killed == [0]
    assert (result.inputs, len(result.errors)) == (4, 1)
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
    assert f"part 2: {TRIES} Ray workers were killed while they made it of 1 inputs" in lost["message"]
    assert [sum(counts) for counts in zip(*steps, strict=True)] == [5, result.maps]
    again = labelled(tmp_path / "run", DumpSource(tasks(dumps)), classifier, engine, retry_failed=True)
    assert again.continued == 3
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


def test_parts_come_as_they_are_made_and_workers_end_with_the_run(tmp_path, dumps, classifier, joined):
    source = Waiting(tasks(dumps), event=tmp_path / "both came", first=2)
    maker = PartMaker(source, classifier, Memory.from_now(None))
    engine = ray_engine(LOAD, address=None, max_memory=None, workers=1)
    with closing(engine(source.units(), maker, lambda _inputs, _maps: None)) as parts:
        assert [next(parts).number, next(parts).number] == [0, 1]  # while the third waits
        source.event.touch()
        next(parts)
    while workers():  # or the test runs into its time limit
        time.sleep(0.1)
    assert ray.is_initialized()


def test_a_run_goes_on_in_the_other_way(tmp_path, dumps, traps):
    """With a Ray of its own that writes nothing, listens to no other machine, leaves nothing and imports no trap."""
    given = [f"task {n}={dump}" for n, dump in enumerate(dumps)]
    threads, both = tmp_path / "threads", tmp_path / "both"
    assert invoke("run", *given, "-o", threads, "-q").exit_code == 1
    shutil.copytree(threads, both)
    forget_half(both)
    with TemporaryDirectory(prefix="ray-test-") as home:  # sockets take no long paths
        environment = ENVIRONMENT | {"TMPDIR": home, "HOME": home}
        command = [*COMMAND, "run", *given, "-o", both, "-q", "--engine", "ray"]
        with subprocess.Popen(command, cwd=traps, env=environment, stderr=subprocess.PIPE, text=True) as run:
            listening, processes = watched(run)
            written = run.stderr.read()
        assert run.returncode == 1, written
        assert written.startswith(f"1 input failed, see {both / 'errors.jsonl'}\n  1 x ")
        assert len(written.splitlines()) == 2
        assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
        assert list(Path(home).iterdir()) == []
    assert psutil.wait_procs(processes, timeout=60)[1] == []
    assert_same_run(both, threads)
    forget_half(both)
    assert invoke("run", *given, "-o", both, "-q").exit_code == 1
    assert_same_run(both, threads)


def watched(run):
    """Returns the addresses that processes of a run listen at until it ends, and these processes."""
    listening, processes = set(), set()
    while run.poll() is None:
        processes |= set(psutil.Process(run.pid).children(recursive=True))
        pids = {process.pid for process in processes}
        sockets = [one for one in psutil.net_connections("tcp") if one.pid in pids]
        listening |= {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
        time.sleep(0.5)
    return listening, processes


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://127.0.0.1:10001", "is 'ray://127.0.0.1:10001', expected HOST:PORT of the cluster or auto; ray:// is"),
        ("somewhere", "--ray-address is 'somewhere', expected HOST:PORT"),
        ("", "--ray-address is '', expected HOST:PORT"),
    ],
)
def test_what_is_no_address_is_refused_before_ray_is_loaded(address, message):
    with pytest.raises(InvalidSettingsError) as refused:
        ray_engine(LOAD, address=address, max_memory=None)
    assert message in str(refused.value)


def test_a_cluster_that_does_not_answer_is_reported_by_name(tmp_path, dumps):
    with socket.socket() as taken:  # bound, so that nobody else listens there, but not listening
        taken.bind(("", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = attention_label(
            "run", dumps[1], "-o", tmp_path / "run", "-q", "--engine", "ray", "--ray-address", address
        )
    assert refused.returncode == 2
    assert f"error: no Ray cluster answers at {address} (" in refused.stderr
    assert "expected HOST:PORT of its head node" in refused.stderr


def test_without_ray_the_extra_is_named_and_threads_do_the_work(tmp_path, dumps, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    missing = invoke("run", dumps[1], "-o", tmp_path / "run", "--engine", "ray")
    assert missing.exit_code == 2
    message = " ".join(missing.stderr.split())
    assert "--engine ray needs the extra 'ray' (ray is not installed): " in message
    assert " ".join(install_command("ray").split()) in message
    assert invoke("run", dumps[1], "-o", tmp_path / "run", "-q").exit_code == 0
