"""Files that are read again while a server process serves: whatever they hold, the server goes on with those before."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from attention_patterns.bundle import BUNDLED
from attention_patterns_service import Client
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal
from tests.helpers.servers import ATTENTION_SERVE, figures_of, free_port, is_running, run, serving, until

MAPS = random_maps(3, 12, 64, 64)


def change(folder, **entries):
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def replace_net(folder, nodes):
    """Puts a net of these nodes into a bundle, with its right digest."""
    image = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["n", 3, 48, 48])
    answer = onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["n", 5])
    graph = onnx.helper.make_graph(nodes, "net", [image], [answer])
    opset = onnx.helper.make_opsetid("", 17)
    net = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    (folder / "model.onnx").write_bytes(net)
    change(folder, sha256=hashlib.sha256(net).hexdigest())


def endless_net(folder):
    """Puts a net into a bundle that counts to 2 ** 62."""
    helper, kinds = onnx.helper, onnx.TensorProto
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["held"], ["kept"])],
        "body",
        [
            helper.make_tensor_value_info("turn", kinds.INT64, []),
            helper.make_tensor_value_info("go", kinds.BOOL, []),
            helper.make_tensor_value_info("held", kinds.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("goes", kinds.BOOL, []),
            helper.make_tensor_value_info("kept", kinds.FLOAT, [1]),
        ],
    )

    def constant(name, value):
        return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))

    nodes = [
        constant("turns", np.array(2**62)),
        constant("true", np.array(True)),
        constant("zero", np.zeros(1, np.float32)),
        helper.make_node("Loop", ["turns", "true", "zero"], ["last"], body=body),
        constant("shape", np.array([2, 5])),
        helper.make_node("Expand", ["last", "shape"], ["probabilities"]),
    ]
    replace_net(folder, nodes)


def wrong_net(folder):
    """Puts a net into a bundle whose answers are no probabilities."""
    shape = onnx.numpy_helper.from_array(np.array([2, 5]))
    one = onnx.numpy_helper.from_array(np.ones(1, np.float32))
    nodes = [
        onnx.helper.make_node("Constant", [], ["shape"], value=shape),
        onnx.helper.make_node("ConstantOfShape", ["shape"], ["probabilities"], value=one),
    ]
    replace_net(folder, nodes)


def pipe_in_place_of(name):
    def spoil(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def text_in(name, text):
    return lambda folder: (folder / name).write_text(text)


BAD_BUNDLES = {
    "a list": text_in("bundle.json", "[]"),
    "deep": text_in("bundle.json", "[" * 200_000),
    "an infinite size": lambda folder: change(folder, image_size=float("inf")),
    "another size": lambda folder: change(folder, image_size=64),
    "no digest": lambda folder: change(folder, sha256="\u0663" * 64),
    "no net": text_in("model.onnx", "net"),
    "a pipe": pipe_in_place_of("bundle.json"),
    "a net that is a pipe": pipe_in_place_of("model.onnx"),
    "no probabilities": wrong_net,
    "endless": endless_net,
}
ENTRY = {"name": "eve", "sha256": "0" * 64, "calls_per_second": 1}
BAD_TOKENS = {
    "a list": "[]",
    "deep": '{"tokens":' + "[" * 200_000,
    "an infinite rate": json.dumps({"tokens": [ENTRY | {"calls_per_second": 1}]}).replace(": 1}", ": 1e999}"),
    "a digest of other digits": json.dumps({"tokens": [ENTRY | {"sha256": "\u0663" * 64}]}),
}


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """A server process whose files may be replaced: process, client, port of its figures, bundle, tokens."""
    folder = tmp_path_factory.mktemp("reload")
    shutil.copytree(BUNDLED, folder / "model")
    secret = run("token", "add", "alice", "--tokens", folder / "tokens.json").stdout.strip()
    options = ("--model-dir", folder / "model", "--tokens", folder / "tokens.json", "--load-seconds=10")
    with (
        serving(*options, "--log-level=error", f"--metrics-port={(port := free_port())}") as (process, endpoint),
        Client(endpoint, token=secret) as client,
    ):
        yield process, client, port, folder


def outcomes(port):
    figures = figures_of(port)
    return tuple(figures.get(f'attention_last_reload_success{{file="{file}"}}') for file in ("tokens", "model"))


def read_again(process, port, expected):
    process.send_signal(signal.SIGHUP)
    until(lambda: outcomes(port) == expected)


@pytest.mark.parametrize("spoil", BAD_BUNDLES.values(), ids=BAD_BUNDLES)
def test_a_bad_bundle_leaves_the_one_before(reloaded, classifier, spoil, tmp_path):
    process, client, port, folder = reloaded
    read_again(process, port, ("1.0", "1.0"))
    shutil.move(folder / "model", tmp_path / "good")
    shutil.copytree(BUNDLED, folder / "model")
    spoil(folder / "model")
    read_again(process, port, ("1.0", "0.0"))
    line = json.loads(process.stderr.readline())
    assert line["event"] == "model refused, the one before stays"
    assert str(folder / "model") in line["error"]
    assert_equal(client.classify(MAPS), classifier.classify(MAPS))
    shutil.rmtree(folder / "model")
    shutil.move(tmp_path / "good", folder / "model")


@pytest.mark.parametrize("content", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_bad_token_file_leaves_the_one_before(reloaded, content):
    process, client, port, folder = reloaded
    read_again(process, port, ("1.0", "1.0"))
    good = (folder / "tokens.json").read_text()
    (folder / "tokens.json").write_text(content)
    read_again(process, port, ("0.0", "1.0"))
    line = json.loads(process.stderr.readline())
    assert line["event"] == "tokens refused, the one before stays"
    assert line["error"].startswith(f"token file {folder / 'tokens.json'}")
    assert client.model().max_maps
    (folder / "tokens.json").write_text(good)


def test_sigterm_ends_a_server_that_tries_an_endless_net(tmp_path):
    shutil.copytree(BUNDLED, tmp_path / "model")
    with serving("--model-dir", tmp_path / "model") as (process, _):
        endless_net(tmp_path / "model")
        process.send_signal(signal.SIGHUP)
        children = Path(f"/proc/{process.pid}/task")
        trial = until(lambda: "".join(path.read_text() for path in children.glob("*/children")).split())
        until(
            lambda: "attention_patterns_service.command.bundle_trial" in Path(f"/proc/{trial[0]}/cmdline").read_text()
        )
        process.terminate()
        assert process.wait(60) == 0
    until(lambda: not is_running(trial[0]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_that_starts_with_an_endless_net(tmp_path, number):
    shutil.copytree(BUNDLED, tmp_path / "model")
    endless_net(tmp_path / "model")
    with subprocess.Popen([ATTENTION_SERVE, "--port=0", "--model-dir", tmp_path / "model"]) as process:
        until(lambda: listens_to_signals(process))
        begun = seconds_of(process)
        until(lambda: seconds_of(process) > begun + 3)  # the net counts
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        assert process.wait(60) == 0


def listens_to_signals(process):
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


def seconds_of(process):
    """Returns the processor time that a process has taken, s."""
    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
