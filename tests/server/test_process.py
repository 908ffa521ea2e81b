"""Server processes as people run them: signals, reloading, workers, figures, logs, checks."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from attention_patterns import errors
from attention_patterns.bundle import BUNDLED
from attention_patterns_service import Client
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal

MAPS = random_maps(3, 12, 64, 64)


def free_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


@contextmanager
def serving(*options, environment=None):
    """A server process and its endpoint; ended by SIGTERM, with exit code 0."""
    command = [sys.executable, "-m", "attention_patterns_service.command.cli", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ATTENTION_SERVE_PORT": "0"} | (environment or {}),
    )
    with process:
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0


def until(what, seconds=30):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def copy_of_bundle(folder, **changes):
    shutil.copytree(BUNDLED, folder)
    content = json.loads((folder / "bundle.json").read_text()) | changes
    (folder / "bundle.json").write_text(json.dumps(content))


def test_a_bundle_is_replaced_while_it_serves_and_a_broken_one_is_not(tmp_path, classifier):
    bundle = tmp_path / "bundle"
    copy_of_bundle(bundle)
    with serving("--model-dir", str(bundle)) as (process, endpoint), Client(endpoint) as client:
        expected = classifier.classify(MAPS)
        assert_equal(client.classify(MAPS), expected)
        copy_of_bundle(tmp_path / "next", version="9.9.9")
        (tmp_path / "next" / "bundle.json").replace(bundle / "bundle.json")
        process.send_signal(signal.SIGHUP)
        until(lambda: client.model().version == "9.9.9")
        assert client.classify(MAPS).model == "attention-patterns-cnn 9.9.9"
        (bundle / "bundle.json").write_text("{")
        process.send_signal(signal.SIGHUP)
        line = until(lambda: next((one for one in process.stderr if "model refused" in one), None))
        assert "cannot be read" in json.loads(line)["error"]
        assert client.classify(MAPS).model == "attention-patterns-cnn 9.9.9"


def test_tokens_are_read_again(tmp_path):
    tokens = tmp_path / "tokens.json"

    def new(name):
        command = [sys.executable, "-m", "attention_patterns_service.server.access", str(tokens), name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    first = new("first")
    with serving("--tokens", str(tokens), "--log-level", "error") as (process, endpoint):
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
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def workers():
            return set(map(int, children.read_text().split()))

        def classify():
            with Client(endpoint) as client:
                return client.classify(MAPS)

        expected, first = classify(), workers()
        assert len(first) == 2
        os.kill(min(first), signal.SIGKILL)
        until(lambda: len(workers() - first) == 1)
        for _ in range(8):
            assert_equal(classify(), expected)
        with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            assert 'attention_requests_total{code="OK",method="ClassifyImages"}' in page.read().decode()


def test_a_worker_that_cannot_start_is_told_of(tmp_path):
    command = [
        sys.executable,
        "-m",
        "attention_patterns_service.command.cli",
        "--workers=2",
        "--port=0",
        f"--model-dir={tmp_path}",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"attention-serve: model bundle {tmp_path} cannot be read" in done.stderr
    assert "did not start, exit code 1" in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_taken_port_is_refused(server, workers):
    command = [
        sys.executable,
        "-m",
        "attention_patterns_service.command.cli",
        f"--workers={workers}",
        f"--port={server.endpoint.split(':')[1]}",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"attention-serve: {server.endpoint} cannot be bound" in done.stderr


def test_figures_and_a_line_a_call():
    with serving(f"--metrics-port={(port := free_port())}") as (process, endpoint):
        with Client(endpoint, reduce="never") as client:
            client.classify(MAPS)
            with pytest.raises(errors.RowSumError):
                client.classify(MAPS / 2)
        with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            figures = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if line[0] != "#")
        process.terminate()
        lines = [json.loads(line) for line in process.stderr]
    assert float(figures['attention_requests_total{code="OK",method="ClassifyHeads"}']) == 1
    assert float(figures['attention_requests_total{code="INVALID_ARGUMENT",method="ClassifyHeads"}']) == 1
    assert float(figures['attention_refused_total{reason="ROW_SUM"}']) == 1
    assert sum(float(value) for name, value in figures.items() if name.startswith("attention_maps_total")) == 36
    assert float(figures["attention_requests_in_flight"]) == 0
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
    command = [sys.executable, "-m", "attention_patterns_service.server.access", str(tokens), "alice"]
    secret = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    with serving("--tokens", str(tokens), "--log-level=debug") as (process, endpoint):
        with Client(endpoint, token=secret) as client:
            client.classify(MAPS)
        assert secret not in Path(f"/proc/{process.pid}/cmdline").read_text()
        process.terminate()
        logged = process.stderr.read()
    assert '"caller": "alice"' in logged
    assert secret not in logged


def test_health_is_asked_by_a_command(server):
    def ask(endpoint):
        command = [sys.executable, "-m", "attention_patterns_service.command.health", endpoint, "--timeout=2"]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert (ask(server.endpoint).returncode, ask(server.endpoint).stdout) == (0, "SERVING\n")
    nobody = ask(f"127.0.0.1:{free_port()}")
    assert nobody.returncode == 1
    assert "UNAVAILABLE" in nobody.stderr


def test_the_configuration_is_checked():
    command = [
        sys.executable,
        "-m",
        "attention_patterns_service.command.cli",
        "--check",
        "--host=0.0.0.0",
        "--max-calls=7",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    for expected in ("limits.calls", "7", "open to everyone", "72 maps were classified as by the library"):
        assert expected in done.stdout
    broken = [*command, "--tls-cert=none", "--tls-key=none"]
    done = subprocess.run(broken, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "failed certificate file none cannot be read" in done.stdout


def test_options_are_taken_from_the_environment():
    with serving(environment={"ATTENTION_SERVE_MAX_MAPS": "5"}) as (_, endpoint), Client(endpoint) as client:
        assert client.model().max_maps == 5
