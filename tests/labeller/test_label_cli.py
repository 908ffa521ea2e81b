"""The command as people use it."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.labelled_runs import (
    COMMAND,
    ENVIRONMENT,
    MINILM,
    assert_same_run,
    attention_label,
    invoke,
    rows_of,
    write_dumps,
)


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "dumps"
    write_dumps(folder, 3)
    return folder


def run(*arguments):
    return invoke("run", *arguments)


def test_dumps_are_labelled_and_summed_up(tmp_path, dumps):
    done = attention_label("run", dumps, "-o", tmp_path / "labels")
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "labels")["input_id"].to_pylist() == [
        name for name in ("000.npz", "001.npz", "002.npz") for _ in range(72)
    ]
    assert "labels: 216 maps of 3 inputs" in done.stdout
    assert "dumps: 6 x 12 heads, 3 inputs, 0 of 72 heads stable" in done.stdout
    assert re.search(r"layer +\[CLS\] +\[SEP\]", done.stdout)
    assert "3/3 inputs, 216 maps" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr  # no terminal, no colours
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {
        ".lock",
        "heads.parquet",
        "inputs",
        "labels",
        "manifest.jsonl",
        "maps",
        "run.json",
        "summary.json",
    }


def test_a_glob_of_the_shell_labels_what_the_folder_does(tmp_path, dumps):
    """Three files are one task, and the run says so before it starts."""
    files = [dumps / f"00{n}.npz" for n in range(3)]
    for name, arguments in (("one by one", files), ("folder", [dumps]), ("glob", [dumps / "*.npz"])):
        done = attention_label("run", *arguments, "-o", tmp_path / name)
        assert done.stderr.startswith("3 files, 1 task 'dumps'\n")
        assert_same_run(tmp_path / name, tmp_path / "one by one")
    done = attention_label("run", f"a={files[0]}", *files[1:], "-o", tmp_path / "named")
    assert done.stderr.startswith("3 files, 2 tasks 'a' (1), 'dumps' (2)\n")
    bad = attention_label("run", dumps, "-o", tmp_path / "not made", "--max-memory", "1M")
    assert bad.stderr.startswith("3 files, 1 task 'dumps'\nerror: ")


def test_texts_are_run_through_a_model(tmp_path):
    (tmp_path / "pairs.tsv").write_text(
        "id\tquestion\tsentence\nq1\tWhen does the ferry leave?\tIt leaves at seven.\nq2\tWho is late?\tNobody is.\n"
    )
    arguments = ("--model", MINILM, "--columns", "question,sentence", "--id-column", "id", "-o", tmp_path / "labels")
    done = run(f"QNLI={tmp_path / 'pairs.tsv'}", *arguments, "--compare-paper", "qnli")
    assert done.exit_code == 0, done.stderr
    rows = rows_of(tmp_path / "labels").to_pandas()
    assert rows["input_id"].tolist() == ["q1"] * 72 + ["q2"] * 72
    assert set(rows["task"]) == {"QNLI"}
    assert set(rows["part"]) == {"encoder"}
    assert set(rows["model"]) == {MINILM}
    assert rows["segment_mass"].notna().all()
    (first, second) = rows_of(tmp_path / "labels", "inputs").to_pylist()
    assert first["tokens"][:4] == ["[CLS]", "when", "does", "the"]
    assert sorted(set(second["segments"])) == [0, 1]
    assert "Patterns on QNLI, per cent of the maps" in done.stdout
    assert "theirs 12 layers and 12 heads per layer" in " ".join(done.stdout.split())


def test_quiet_prints_nothing(tmp_path, dumps):
    done = attention_label("run", dumps, "-o", tmp_path / "labels", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_json_logs_are_one_object_per_line(tmp_path, dumps):
    done = attention_label("run", dumps, tmp_path / "nowhere*", "-o", tmp_path / "labels", "--log-format", "json")
    assert done.returncode == 2
    (error,) = map(json.loads, done.stderr.splitlines())
    assert (error["event"], error["error"]) == ("error", "SourceError")
    assert "nowhere* is a pattern that matches nothing" in error["reason"]
    done = attention_label("run", dumps, "-o", tmp_path / "labels", "--log-format", "json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    names = [event["event"] for event in events]
    assert [name for name in names if name != "progress"] == ["tasks", "begin", "end"]  # a busy machine makes progress
    assert events[0]["tasks"] == {"dumps": 3}
    assert (events[-1]["inputs"], events[-1]["maps"], events[-1]["failed"]) == (3, 216, 0)
    assert done.stdout == ""


@pytest.mark.parametrize(("axes", "inputs"), [("inputs,layers,heads", 2), ("layers,inputs,heads", 3)])
def test_the_order_of_five_axes_is_told(tmp_path, axes, inputs):
    np.save(tmp_path / "five.npy", np.broadcast_to(np.eye(9, dtype=np.float32), (2, 3, 1, 9, 9)))
    done = run(tmp_path / "five.npy", "-o", tmp_path / "labels", "--axes", axes)
    assert done.exit_code == 0, done.stderr
    assert rows_of(tmp_path / "labels", "inputs").num_rows == inputs
    other = run(tmp_path / "five.npy", "-o", tmp_path / "labels")
    assert "give --axes" in other.stderr


def test_rows_are_divided_by_their_sums_on_request(tmp_path, dumps):
    (tmp_path / "cut").mkdir()
    for path in dumps.iterdir():
        arrays = dict(np.load(path))
        np.savez(tmp_path / "cut" / path.name, **arrays | {"attention": arrays["attention"] * np.float16(0.8)})
    refused = run(tmp_path / "cut", "-o", tmp_path / "refused", "-q")
    assert refused.exit_code == 1
    assert "--renormalise" in (tmp_path / "refused" / "errors.jsonl").read_text()
    done = run(tmp_path / "cut", "-o", tmp_path / "labels", "--renormalise")
    assert done.exit_code == 0, done.stderr
    assert "216 maps of 3 inputs, 3 with warnings" in done.stdout
    assert "each row was divided by its sum" in rows_of(tmp_path / "labels", "inputs")["warnings"].to_pylist()[0][0]
    assert run(dumps, "-o", tmp_path / "whole", "-q").exit_code == 0
    patterns = [rows_of(tmp_path / name)["pattern"].to_pylist() for name in ("labels", "whole")]
    assert sum(ours == theirs for ours, theirs in zip(*patterns, strict=True)) > 210
    assert "settings renormalise was true, now false" in run(tmp_path / "cut", "-o", tmp_path / "labels").stderr
    with_model = run(tmp_path / "cut", "-o", tmp_path / "none", "--model", "m", "--renormalise")
    assert "--renormalise only applies to dumps of attention" in with_model.stderr


def test_rounded_dumps_are_labelled_with_one_warning(tmp_path):
    """The dump is large and read in several slabs."""
    random = np.random.default_rng(0).exponential(size=(40, 4, 128, 128))
    np.save(tmp_path / "rounded.npy", np.round(random / random.sum(axis=-1, keepdims=True), 2))
    assert run(tmp_path / "rounded.npy", "-o", tmp_path / "labels", "-q").exit_code == 0
    (warnings,) = rows_of(tmp_path / "labels", "inputs")["warnings"].to_pylist()
    assert [warning[:36] for warning in warnings if "rounded" in warning] == ["weights are rounded to 2 decimals, w"]


def test_a_bad_input_is_recorded_and_shows_in_the_exit_code(tmp_path, dumps):
    np.save(tmp_path / "bad.npy", np.full((3, 11, 11), 0.5, np.float32))
    done = run(dumps, tmp_path / "bad.npy", "-o", tmp_path / "labels", "--quiet")
    assert done.exit_code == 1
    first, second = done.stderr.splitlines()
    assert first == f"1 input failed, see {tmp_path}/labels/errors.jsonl"
    assert second.startswith("  1 x RowSumError: bad.npy: attention[layer 0, head 0]: row 0 sums to ")
    assert rows_of(tmp_path / "labels").num_rows == 216
    record = json.loads((tmp_path / "labels" / "errors.jsonl").read_text())
    assert (record["task"], record["input_id"], record["error"]) == ("bad", "bad.npy", "RowSumError")
    summary = json.loads((tmp_path / "labels" / "summary.json").read_text())
    assert (summary["failed"], summary["failed_by_error"]) == (1, {"RowSumError": 1})


def test_a_mended_input_is_tried_again_when_asked(tmp_path, dumps):
    texts, output = tmp_path / "texts.txt", tmp_path / "labels"
    texts.write_text("Bees on the roof.\n" + "word " * 600 + "\n")
    arguments = (texts, "--model", MINILM, "-o", output, "-q")
    assert run(*arguments).exit_code == 1
    (error,) = map(json.loads, (output / "errors.jsonl").read_text().splitlines())
    assert error["input_id"] == "texts.txt:2"
    assert "602 tokens" in error["message"]
    assert "--truncate" in error["message"]
    assert run(*arguments).exit_code == 1
    other = run(*arguments, "--truncate")
    assert other.exit_code == 2
    assert "settings truncate was false, now true" in other.stderr
    assert run(*arguments, "--truncate", "--overwrite").exit_code == 0
    assert not (output / "errors.jsonl").exists()
    assert rows_of(output).num_rows == 144


def test_retry_failed_does_again_only_what_failed(tmp_path, dumps):
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"no archive")
    stat = bad.stat()
    arguments = (dumps, bad, "-o", tmp_path / "labels", "-q")
    assert run(*arguments).exit_code == 1
    kept = (tmp_path / "labels" / "labels" / "part-00000.parquet").stat().st_mtime_ns
    assert run(*arguments, "--retry-failed").exit_code == 1
    assert (tmp_path / "labels" / "labels" / "part-00000.parquet").stat().st_mtime_ns == kept
    assert stat.st_size == 10


def test_the_images_of_all_maps_are_kept_when_asked(tmp_path, dumps):
    assert run(dumps, "-o", tmp_path / "labels", "--keep-maps", "--layers", "1-2,5", "--heads", "3").exit_code == 0
    maps = rows_of(tmp_path / "labels", "maps").to_pandas()
    assert maps[["layer", "head"]].drop_duplicates().to_numpy().tolist() == [[1, 3], [2, 3], [5, 3]]
    assert len(maps) == 9
    assert {len(image) for image in maps["image"]} == {3 * 48 * 48}


@pytest.mark.parametrize(
    ("arguments", "labelled"),
    [
        (["--limit", "2"], ["000.npz", "001.npz"]),
        (["--limit", "9"], ["000.npz", "001.npz", "002.npz"]),
        (["--sample", "2", "--seed", "1"], ["000.npz", "002.npz"]),
        (["--sample", "2", "--seed", "5"], ["001.npz", "002.npz"]),
    ],
)
def test_some_inputs_only(tmp_path, dumps, arguments, labelled):
    assert run(dumps, "-o", tmp_path / "labels", *arguments).exit_code == 0
    assert rows_of(tmp_path / "labels", "inputs")["input_id"].to_pylist() == labelled


def test_a_dry_run_prints_an_estimate_and_writes_nothing(tmp_path, dumps):
    done = run(dumps, "-o", tmp_path / "labels", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "3 inputs of 72 heads, about 216 maps" in done.stdout
    assert "285.2 KiB to read" in done.stdout
    assert re.search(r"about \d+\.\d s on this machine", done.stdout)
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["dumps", "--bundle", "nowhere"], "model bundle nowhere cannot be read"),
        (["dumps", "--bundle", "b", "--endpoint", "localhost:1"], "--bundle and --endpoint exclude each other"),
        (["dumps", "-o", "no/folder/labels"], "output folder 'no/folder/labels' cannot be made"),
        (["dumps", "-o", "there"], "output 'there' exists and is not a run folder"),
        (["dumps", "-o", "t.txt"], "t.txt"),
        (["t.txt"], "t.txt is a file .txt, expected one of"),
        (["t.txt", "--model", MINILM, "--columns", "a,b,c"], "columns"),
        (["t.txt"], "; t.txt is of texts, which a model reads: give --model NAME"),
        (["texts"], "; t.tsv is of texts, which a model reads: give --model NAME"),
        (["p.png"], "; p.png is of pictures, which a model reads: give --model NAME"),
        (["five.npy", "--model", "m"], "five.npy is a dump of attention, which is read without --model"),
        (["dumps", "--columns", "a"], "--columns only applies with --model"),
        (["dumps", "--truncate"], "--truncate only applies with --model"),
        (["dumps", "--limit", "1", "--sample", "1"], "--limit and --sample exclude each other"),
        (["dumps", "--layers", "3-1"], "--layers has the range 3-1"),
        (["dumps", "--layers", "one"], "--layers is 'one'; expected indices"),
        (["dumps", "--max-memory", "lots"], "'lots' is not a memory size; expected"),
        (["dumps", "--max-memory", "1M"], "--max-memory is 1.0 MiB"),
        (["dumps", "--ray-address", "a:1"], "--ray-address only applies with --engine ray"),
        (["t.txt", "--model", "m", "--engine", "ray", "--device", "cuda"], "--device is cuda; expected cpu"),
        (["five.npy"], "five.npy holds attention of shape [2, 3, 1, 9, 9], which may be [inputs, layers, heads, L, L]"),
        (["five.npy", "--dry-run"], "give --axes inputs,layers,heads or --axes layers,inputs,heads"),
        (["five.npy", "--limit", "1"], "give --axes inputs,layers,heads or --axes layers,inputs,heads"),
        (["t.txt", "--model", "m", "--axes", "layers,inputs,heads"], "--axes only applies to dumps of attention"),
        (["dumps", "--compare-paper", "CoLA"], "task 'CoLA' is not in the paper"),
        (["dumps", "--endpoint", "127.0.0.1:1"], "127.0.0.1:1"),
    ],
)
def test_a_run_that_cannot_start_exits_with_2_and_a_message(tmp_path, dumps, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dumps").symlink_to(dumps)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.tex").touch()
    (tmp_path / "t.txt").write_text("a text\n")
    (tmp_path / "p.png").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "t.tsv").write_text("text\na\n")
    np.save("five.npy", np.broadcast_to(np.eye(9, dtype=np.float32), (2, 3, 1, 9, 9)))
    done = run(*arguments, *([] if "-o" in arguments else ["-o", "labels"]))
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not (tmp_path / "labels").exists()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["thesis.tex"]


def test_two_runs_do_not_write_to_one_folder(tmp_path, dumps):
    write_dumps(tmp_path / "more", 60)
    with subprocess.Popen(
        [*COMMAND, "run", tmp_path / "more", "-o", tmp_path / "labels", "-q"], env=ENVIRONMENT
    ) as first:
        while not (tmp_path / "labels" / "run.json").exists():
            assert first.poll() is None
            time.sleep(0.01)
        second = run(tmp_path / "more", "-o", tmp_path / "labels")
        assert first.wait(120) == 0
    assert second.exit_code == 2
    assert f"another run is writing to output '{tmp_path}/labels'" in second.stderr


def test_an_interrupted_run_stops_at_once_and_can_be_continued(tmp_path):
    dumps = write_dumps(tmp_path / "dumps", 200)
    command = [*COMMAND, "run", tmp_path / "dumps", "-o", tmp_path / "labels", "-q"]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as begun:
        while not (tmp_path / "labels" / "run.json").exists():
            assert begun.poll() is None
            time.sleep(0.01)
        begun.send_signal(signal.SIGINT)
        _, message = begun.communicate(timeout=60)
    assert begun.returncode == 130
    assert message == "interrupted; the same command continues the run\n"
    assert attention_label("run", tmp_path / "dumps", "-o", tmp_path / "labels", "-q").returncode == 0
    assert rows_of(tmp_path / "labels", "inputs").num_rows == len(dumps)


def test_a_server_gives_the_same_run(tmp_path, dumps):
    with subprocess.Popen(
        [Path(sys.executable).with_name("attention-serve"), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            endpoint = re.search(r"127\.0\.0\.1:\d+", server.stdout.readline())[0]
            served = attention_label("run", dumps, "-o", tmp_path / "served", "--endpoint", endpoint)
            continued = attention_label("run", dumps, "-o", tmp_path / "served", "-q")
        finally:
            server.terminate()
    assert served.returncode == 0, served.stderr
    assert continued.returncode == 0, continued.stderr
    assert attention_label("run", dumps, "-o", tmp_path / "own", "-q").returncode == 0
    assert_same_run(tmp_path / "served", tmp_path / "own")


def test_a_run_is_summed_up_again(tmp_path, dumps):
    assert run(dumps, "-o", tmp_path / "labels", "-q").exit_code == 0
    before = (tmp_path / "labels" / "summary.json").read_bytes()
    (tmp_path / "labels" / "summary.json").unlink()
    done = invoke("summary", tmp_path / "labels", "--compare-paper", "MRPC")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "labels" / "summary.json").read_bytes() == before
    assert "Patterns on MRPC" in done.stdout
    (tmp_path / "labels" / "summary.json").unlink()
    wrong = invoke("summary", tmp_path / "labels", "--compare-paper", "CoLA")
    assert wrong.exit_code == 2
    assert "task 'CoLA' is not in the paper; expected one of" in wrong.stderr
    assert not (tmp_path / "labels" / "summary.json").exists()
    nothing = invoke("summary", dumps)
    assert nothing.exit_code == 2
    assert f"'{dumps}' is not a run folder" in nothing.stderr


def test_the_shell_completes_options(tmp_path):
    asked = {
        "_ATTENTION_LABEL_COMPLETE": "complete_bash",
        "COMP_WORDS": "attention-label run --keep",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from attention_patterns.labelling.command.cli import app; app(prog_name='attention-label')",
        ],
        env=ENVIRONMENT | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "--keep-maps", done.stderr
