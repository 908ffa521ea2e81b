"""Server processes as people run them: signals, reloading, workers, figures, logs, checks."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from attention_patterns import errors
from attention_patterns.bundle import BUNDLED
from attention_patterns_service import Client
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal
from tests.helpers.servers import figures_of, free_port, process_of, run, serving, until, workers_of

MAPS = random_maps(3, 12, 64, 64)


def copy_of_bundle(folder, **changes):
    shutil.copytree(BUNDLED, folder)
    content = json.loads((folder / "bundle.json").read_text()) | changes
    (folder / "bundle.json").write_text(json.dumps(content))


def test_a_bundle_is_replaced_while_it_serves_and_a_broken_one_is_not(tmp_path, classifier):
    bundle = tmp_path / "bundle"
    copy_of_bundle(bundle)
    with serving("--model-dir", bundle) as (process, endpoint), Client(endpoint) as client:
        expected = classifier.classify(MAPS)
        assert_equal(client.classify(MAPS), expected)
        copy_of_bundle(tmp_path / "next", version="9.9.9")
        (tmp_path / "next" / "bundle.json").replace(bundle / "bundle.json")
        process.send_signal(signal.SIGHUP)
        until(lambda: client.model().version == "9.9.9")
        assert client.classify(MAPS).model == "attention-patterns-cnn 9.9.9"
        (bundle / "bundle.json").write_text("{")
        process.send_signal(signal.SIGHUP)
        line = until(lambda: next((line for line in process.stderr if "model refused" in line), None))
        assert "bundle.json: Expecting property name" in json.loads(line)["error"]
        assert client.classify(MAPS).model == "attention-patterns-cnn 9.9.9"


def test_tokens_are_read_again(tmp_path):
    tokens = tmp_path / "tokens.json"

    def new(name):
        return run("token", "add", name, "--tokens", tokens).stdout.strip()

    first = new("first")
    with serving("--tokens", tokens, "--log-level", "error") as (process, endpoint):
        with Client(endpoint, token=first) as client:
            client.model()
        second = new("second")
        process.send_signal(signal.SIGHUP)

        def let_in():
            with Client(endpoint, token=second) as client:
                try:
                    return client.model()
                except errors.AuthenticationError:
                    return None

        until(let_in)
        tokens.write_text("{")
        process.send_signal(signal.SIGHUP)
        assert "tokens refused" in process.stderr.readline()
        assert let_in()


def test_workers_share_a_port_and_one_that_is_killed_is_replaced():
    with serving("--workers=2", f"--metrics-port={(port := free_port())}") as (process, endpoint):

        def classify():
            with Client(endpoint) as client:
                return client.classify(MAPS)

        expected, first = classify(), workers_of(process)
        assert len(first) == 2
        os.kill(min(first), signal.SIGKILL)
        until(lambda: len(workers_of(process) - first) == 1)
        for _ in range(8):
            assert_equal(classify(), expected)
        with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            assert 'attention_requests_total{code="OK",method="ClassifyImages"}' in page.read().decode()


def test_a_worker_that_keeps_dying_ends_the_server_with_a_message(tmp_path):
    """After a first kill no new worker can start: the bundle is gone."""
    bundle = tmp_path / "bundle"
    copy_of_bundle(bundle)
    with process_of("--workers=2", "--model-dir", bundle, "--max-deaths=2") as (process, endpoint):
        (bundle / "bundle.json").unlink()
        staying, killed = workers_of(process)
        os.kill(killed, signal.SIGKILL)
        with Client(endpoint) as client:
            assert client.model().version  # the other worker serves on
        assert process.wait(300) == 1
        logged = process.stderr.read()
    assert '"exit_code": -9' in logged
    assert re.search(
        r"^attention-serve: workers died 2 times within 60 s, worker \d+ last, exit code 1; mend what the log reports, "
        "or raise --max-deaths$",
        logged,
        re.MULTILINE,
    )
    assert f"model bundle {bundle} cannot be read" in logged
    assert not Path(f"/proc/{staying}").exists()


def holds_files(pid):
    """Whether a process has files open; one that was killed gives them back before its parent learns of its end."""
    try:
        return any(Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False


def test_no_kill_leaves_a_temporary_folder(tmp_path):
    """Workers outlive their supervisor and clear up; where all of them are killed at once, the next server does."""

    def leftovers():
        return list(tmp_path.iterdir())

    environment = {"TMPDIR": str(tmp_path)}
    with process_of("--workers=2", environment=environment) as (process, _):
        assert len(leftovers()) == 1
        process.kill()
        until(lambda: not leftovers())
    with process_of("--workers=2", environment=environment) as (process, _):
        workers = workers_of(process)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)  # they notice nothing
        process.kill()
        process.wait()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        (left,) = leftovers()
        until(lambda: not any(map(holds_files, workers)))
    with serving("--workers=2", environment=environment):
        (kept,) = leftovers()
        assert kept != left
        with serving("--workers=2", environment=environment):
            assert kept in leftovers()
        assert leftovers() == [kept]
    assert leftovers() == []


def with_code_in_workers(folder, statement):
    """The environment of a Python that runs ``statement`` at the start of each worker, and of no other process."""
    code = f"import os, time\nif 'ATTENTION_SERVE_HANDSHAKE' in os.environ:\n    {statement}\n"
    (folder / "sitecustomize.py").write_text(code)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def test_a_worker_is_not_believed_for_what_is_printed(tmp_path):
    """It prints what a server would, and ends without a handshake: the server has not started."""
    line = "serving attention-patterns 0.1.0 on 127.0.0.1:1"
    environment = with_code_in_workers(tmp_path, f"os.write(1, {line.encode()!r} + bytes([10])); os._exit(3)")
    done = run("--workers=2", "--port=0", env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"^attention-serve: worker \d+ did not start, exit code 3$", done.stderr, re.MULTILINE)


def test_a_worker_that_does_not_know_its_nonce_is_refused(tmp_path):
    """It writes into the right pipe, another nonce, and stays: the server ends it."""
    pipe = "int(os.environ['ATTENTION_SERVE_HANDSHAKE'].split(':')[0])"
    environment = with_code_in_workers(tmp_path, rf"os.write({pipe}, b'0' * 32 + b' 50051\n'); time.sleep(600)")
    done = run("--workers=2", "--port=0", env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the message on the pipe is not the one that the worker was given" in done.stderr
    assert re.search(r"^attention-serve: worker \d+ did not start, killed by SIGKILL$", done.stderr, re.MULTILINE)


def test_no_code_is_taken_from_the_current_folder(tmp_path):
    """Files named as what a worker imports lie where the server is started."""
    names = "attention_patterns attention_patterns_service classifier grpc numpy service signal token training typer"
    for name in names.split():
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the current folder was imported')\n")
    with serving("--workers=2", folder=tmp_path) as (_, endpoint), Client(endpoint) as client:
        assert client.model().version


def test_a_worker_that_cannot_start_is_reported(tmp_path):
    """Its bundle holds a file that is what the bundle says and no net."""
    bundle = tmp_path / "bundle"
    copy_of_bundle(bundle, sha256=hashlib.sha256(b"no net").hexdigest())
    (bundle / "model.onnx").write_bytes(b"no net")
    done = run("--workers=2", "--port=0", f"--model-dir={bundle}")
    assert done.returncode == 1
    assert re.search(rf"^attention-serve: {bundle}/model.onnx cannot be run: ", done.stderr, re.MULTILINE)
    assert "did not start, exit code 1" in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_taken_port_is_refused(server, workers):
    done = run(f"--workers={workers}", f"--port={server.endpoint.split(':')[1]}")
    assert done.returncode == 1
    assert f"attention-serve: {server.endpoint} cannot be bound" in done.stderr


def test_a_taken_port_of_the_metrics_is_refused(server):
    port = server.endpoint.split(":")[1]
    done = run("--port=0", f"--metrics-port={port}")
    assert done.returncode == 1
    assert f"attention-serve: the metrics page on 127.0.0.1:{port} cannot be bound: Address already" in done.stderr


def test_figures_and_one_line_per_call():
    with serving(f"--metrics-port={(port := free_port())}") as (process, endpoint):
        with Client(endpoint, reduce="never") as client:
            client.classify(MAPS)
            with pytest.raises(errors.RowSumError):
                client.classify(MAPS / 2)
        # A call is counted out a moment after its answer has reached the caller.
        figures = until(lambda: (read := figures_of(port))["attention_requests_in_flight"] == "0.0" and read)
        process.terminate()
        lines = [json.loads(line) for line in process.stderr]
    assert float(figures['attention_requests_total{code="OK",method="ClassifyHeads"}']) == 1
    assert float(figures['attention_requests_total{code="INVALID_ARGUMENT",method="ClassifyHeads"}']) == 1
    assert float(figures['attention_refused_total{reason="ROW_SUM"}']) == 1
    assert sum(float(value) for name, value in figures.items() if name.startswith("attention_maps_total")) == 36
    for stage in ("wait", "decode", "render", "classify", "encode"):
        assert float(figures[f'attention_stage_seconds_count{{stage="{stage}"}}']) >= 1
    calls = [line for line in lines if line["event"] == "call"]
    assert [(line["method"], line["code"]) for line in calls] == [
        ("GetModel", "OK"),
        ("ClassifyHeads", "OK"),
        ("ClassifyHeads", "INVALID_ARGUMENT"),
    ]
    assert calls[1]["maps"] == 36
    assert calls[2]["reason"] == "ROW_SUM"


def test_no_secret_is_logged_or_listed(tmp_path):
    tokens = tmp_path / "tokens.json"
    secret = run("token", "add", "alice", "--tokens", tokens).stdout.strip()
    with serving("--tokens", tokens, "--log-level=debug") as (process, endpoint):
        with Client(endpoint, token=secret) as client:
            client.classify(MAPS)
        assert secret not in Path(f"/proc/{process.pid}/cmdline").read_text()
        process.terminate()
        logged = process.stderr.read()
    assert '"caller": "alice"' in logged
    assert secret not in logged


def test_health_is_asked_by_a_command(server, tmp_path):
    done = run("health", server.endpoint)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    nobody = f"127.0.0.1:{free_port()}"
    done = run("health", nobody, "--timeout=2")
    assert done.returncode == 1
    assert done.stderr.startswith(f"attention-serve health: {nobody} gave no state: UNAVAILABLE, ")
    done = run("health", nobody, f"--tls-ca={tmp_path}/none")
    message = f"attention-serve health: certificate file {tmp_path}/none cannot be read: No such file or directory\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_a_probe_leaves_the_classifier_out():
    """A slow import would be repeated every few seconds beside a busy server."""
    script = (
        "import sys; from attention_patterns_service.command import main; sys.argv[1:] = ['health', '--help']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-P", "-c", script], check=True, capture_output=True, text=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "attention_patterns_service.command.health" in imported
    assert not imported & {"numpy", "numba", "onnxruntime"}


def test_without_its_packages_the_command_answers_with_one_sentence():
    script = (
        "import sys; sys.modules['grpc'] = None\n"
        "from attention_patterns_service.command import main; sys.argv[1:] = {}; main()"
    )
    for arguments in ([], ["health", "127.0.0.1:1"]):
        command = [sys.executable, "-P", "-c", script.format(arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("attention-serve needs the extra 'service' (grpc is not installed): ")
        assert done.stderr.count("\n") == 1


def test_options_of_serving_are_refused_before_a_command():
    done = run("--port=1", "health", "127.0.0.1:1")
    assert done.returncode == 2
    assert "--port is an option of serving, without effect on 'health'" in done.stderr


def test_the_configuration_is_checked():
    done = run("--check", "--host=0.0.0.0", "--port=0", "--max-calls=7")
    assert done.returncode == 0
    for expected in ("limits.calls", "7", "everyone who reaches the port", "classified 72 maps as the library does"):
        assert expected in done.stdout
    done = run("--check", "--port=0", "--tls-cert=none", "--tls-key=none")
    assert done.returncode == 1
    assert "failed certificate file none cannot be read" in done.stdout


def test_options_are_taken_from_the_environment():
    with serving(environment={"ATTENTION_SERVE_MAX_MAPS": "5"}) as (_, endpoint), Client(endpoint) as client:
        assert client.model().max_maps == 5
