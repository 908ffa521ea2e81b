"""Runs that are killed, fill the disk, or meet what earlier ones left; and their tables in the readers people use."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from attention_patterns import PATTERNS, PatternClassifier
from attention_patterns.classification import with_doubts
from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.output.table import INPUTS, LABELS, MAPS, PROBABILITIES, SCHEMA_VERSION
from attention_patterns.labelling.run.run import label
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.sources.source import Selection
from attention_patterns.rendering import RENDERING_VERSION
from tests.helpers.labelled_runs import (
    COMMAND,
    ENVIRONMENT,
    assert_same_run,
    attention_label,
    invoke,
    rows_of,
    write_dumps,
)

PARTS = 8
KILLS = 40
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Inputs that are each a task, so that the run has as many parts."""
    dumps = write_dumps(tmp_path_factory.mktemp("corpus") / "dumps", PARTS)
    return [f"task {n}={dump}" for n, dump in enumerate(dumps)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, corpus):
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert invoke("run", *corpus, "-o", output, "-q").exit_code == 0
    return output


def test_a_run_killed_before_any_write_ends_as_one_that_was_not(tmp_path):
    dumps = [f"task {n}={dump}" for n, dump in enumerate(write_dumps(tmp_path / "dumps", 2))]
    (tmp_path / "runs").mkdir()
    program = [sys.executable, "-m", "tests.helpers.killed_runs", tmp_path / "runs", *dumps]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = list((tmp_path / "runs").glob("[0-9]*"))
    assert len(runs) > KILLS
    for run in runs:
        assert_same_run(run, tmp_path / "runs" / "reference")


def test_a_run_terminated_at_work_can_be_continued(tmp_path, corpus, uninterrupted):
    output = tmp_path / "run"
    with subprocess.Popen([*COMMAND, "run", *corpus, "-o", output, "-q"], env=ENVIRONMENT) as run:
        while not (output / ".reserve").exists():  # which is made when the work begins
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGSTOP)  # it may not end by itself before the signal
        run.send_signal(signal.SIGTERM)
        run.send_signal(signal.SIGCONT)
    assert run.returncode == -signal.SIGTERM
    assert invoke("run", *corpus, "-o", output, "-q").exit_code == 0
    assert_same_run(output, uninterrupted)


def test_what_a_killed_run_may_leave_is_mended(tmp_path, corpus, uninterrupted):
    """A part without its line, half a part under its passing name, half a line, and no summary."""
    output = tmp_path / "run"
    shutil.copytree(uninterrupted, output)
    lines = (output / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (output / "manifest.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    lost = json.loads(lines[6])["number"]
    os.truncate(output / "labels" / f"part-{lost:05}.parquet", 100)
    (output / "inputs" / f".part-{lost:05}.parquet").write_bytes(b"PAR1")
    (output / "summary.json").unlink()
    (output / "heads.parquet").unlink()
    assert invoke("run", *corpus, "-o", output, "-q").exit_code == 0
    assert_same_run(output, uninterrupted)


def test_a_run_goes_on_with_the_same_inputs_and_settings_only(tmp_path, corpus):
    output = tmp_path / "run"
    assert invoke("run", *corpus[:3], "-o", output, "-q").exit_code == 0
    before = {file: file.read_bytes() for file in output.rglob("*.parquet")}
    more = invoke("run", *corpus[:4], "-o", output, "-q")
    fewer = invoke("run", *corpus[:3], "-o", output, "-q", "--layers", "0")
    assert (more.exit_code, fewer.exit_code) == (2, 2)
    assert "sources task 3: " in more.stderr
    assert "settings layers was " in fewer.stderr
    assert ", now [0]" in fewer.stderr
    assert {file: file.read_bytes() for file in output.rglob("*.parquet")} == before
    dump = Path(corpus[0].partition("=")[2])
    times = dump.stat()
    os.utime(dump, ns=(1, 1))
    changed = invoke("run", *corpus[:3], "-o", output, "-q")
    os.utime(dump, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed.exit_code == 2
    assert "sources task 0: " in changed.stderr


def test_a_full_disk_fails_inputs_by_name_and_is_filled_up_later(tmp_path, corpus, uninterrupted):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=9300k", "tmpfs", disk], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr}")
    try:
        (disk / "ballast").write_bytes(bytes(600 * 1024))
        full = invoke("run", *corpus, "-o", disk / "run", "-q")
        assert full.exit_code == 1, full.stderr
        errors = [json.loads(line) for line in (disk / "run" / "errors.jsonl").read_text().splitlines()]
        assert {error["error"] for error in errors} == {"OutputError"}
        assert "No space left on device" in errors[0]["message"]
        labelled = set(rows_of(disk / "run", "inputs")["task"].to_pylist())
        assert labelled.isdisjoint(error["task"] for error in errors)
        assert len(labelled) + len(errors) == len(corpus)
        assert 0 < len(labelled) < len(corpus)
        assert rows_of(disk / "run").num_rows == 72 * len(labelled)
        assert json.loads((disk / "run" / "summary.json").read_text())["failed"] == len(errors)
        assert invoke("summary", disk / "run").exit_code == 0
        assert json.loads((disk / "run" / "summary.json").read_text())["failed"] == len(errors)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert invoke("run", *corpus, "-o", disk / "run", "-q").exit_code == 0
        assert_same_run(disk / "run", uninterrupted)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_files_that_may_not_grow_fail_inputs_as_a_full_disk_does(tmp_path, corpus):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = attention_label("run", *corpus[:3], "-o", tmp_path / "run", "-q", "--keep-maps", preexec_fn=limited)
    assert done.returncode == 1, done.stderr
    errors = [json.loads(line) for line in (tmp_path / "run" / "errors.jsonl").read_text().splitlines()]
    assert [error["task"] for error in errors] == ["task 0", "task 1", "task 2"]
    assert "File too large" in errors[0]["message"]
    assert not list((tmp_path / "run").rglob("*part*"))


def test_the_tables_read_alike_in_pandas_polars_and_duckdb(uninterrupted):
    frame = pd.read_parquet(uninterrupted / "labels")
    lazy = pl.read_parquet(uninterrupted / "labels" / "*.parquet")
    table = duckdb.read_parquet(str(uninterrupted / "labels" / "*.parquet"))
    assert list(frame.columns) == lazy.columns == table.columns == LABELS.names
    assert len(frame) == len(lazy) == len(table) == PARTS * 72
    counts = frame["pattern"].astype(str).value_counts().to_dict()
    assert dict(lazy.group_by(pl.col("pattern").cast(pl.String)).len().iter_rows()) == counts
    assert dict(table.aggregate("pattern, count(*)").fetchall()) == counts
    rows = pq.read_table(uninterrupted / "labels").to_pylist()
    assert lazy.with_columns(pl.col("pattern").cast(pl.String)).to_dicts()[0]["attention_to"] == rows[0]["attention_to"]
    assert table.limit(1).fetchall()[0][LABELS.names.index("attention_to")] == rows[0]["attention_to"]
    assert frame["stripes"][71].tolist() == rows[71]["stripes"]
    assert frame["segment_mass"].dtype == np.float32
    one = pl.read_parquet(uninterrupted / "heads.parquet")
    assert dict(one.group_by("pattern").len().iter_rows()) == counts  # a task has one input here
    assert set(one["verdict"]) == {"mixed"}


def test_tables_say_their_versions_and_columns(uninterrupted):
    for table, schema in (("labels", LABELS), ("inputs", INPUTS), ("maps", MAPS)):
        found = pq.read_schema(uninterrupted / table / "part-00000.parquet")
        assert found.equals(schema)
        assert found.metadata == {
            b"schema_version": str(SCHEMA_VERSION).encode(),
            b"rendering_version": str(RENDERING_VERSION).encode(),
        }
        columns = pq.ParquetFile(uninterrupted / table / "part-00000.parquet").metadata.row_group(0)
        assert {columns.column(n).compression for n in range(columns.num_columns)} == {"ZSTD"}


def labelled(folder, paths, classifier, selection=None):
    maker = PartMaker(
        DumpSource(dump_tasks([*map(str, paths)]), selection or Selection()), classifier, Memory.from_now(None)
    )
    return label(maker, output=folder, settings={})


def test_a_row_says_what_the_classifier_says(tmp_path):
    (dump,) = write_dumps(tmp_path / "dumps", 1)
    classifier = PatternClassifier.load()
    labelled(tmp_path / "run", [dump], classifier)
    with np.load(dump) as given:
        result = with_doubts(
            classifier.classify(given["attention"], tokens=given["tokens"], segments=given["segments"])
        )
    rows = rows_of(tmp_path / "run").to_pylist()
    assert len(rows) == 72
    for row in rows:
        at = row["layer"], row["head"]
        assert (row["task"], row["input_id"], row["part"], row["length"]) == ("000", "000.npz", None, 26)
        assert (row["classifier"], row["pattern"]) == (result.model, result.patterns[at])
        assert [row[name] for name in PROBABILITIES] == result.probabilities[at].tolist()
        for name in ("margin", "uncertain", "overruled", "causal"):
            assert row[name] == getattr(result, name)[at]
        for name in ("visible_mass", "stripe_mass", "line_mass", "stripe_or_line_mass", "segment_mass", "row_entropy"):
            assert row[name] == getattr(result.evidence, name)[at]
        assert row["stripes"] == np.flatnonzero(result.evidence.stripes[at]).tolist()
        assert [group["group"] for group in row["attention_to"]] == ["[CLS]", "[SEP]"]
        for group in row["attention_to"]:
            measures = result.attention_to[group.pop("group")]
            assert group == {name: getattr(measures, name)[at] for name in group}


def test_null_stands_for_what_is_not_known(tmp_path):
    even, line = np.full((9, 9), 1 / 9, np.float32), np.eye(9, k=-1, dtype=np.float32)
    line[0, 0] = 1
    np.save(tmp_path / "two.npy", np.stack([even, line]))
    labelled(tmp_path / "run", [tmp_path / "two.npy"], PatternClassifier.load())
    no_line, with_line = rows_of(tmp_path / "run").to_pylist()
    known = [no_line[name] for name in ("line_mass", "line_offset", "segment_mass", "part", "model", "revision")]
    assert known == [0, None, None, None, None, None]
    assert (with_line["line_offset"], no_line["attention_to"]) == (-1, [])
    (one,) = rows_of(tmp_path / "run", "inputs").to_pylist()
    assert (one["tokens"], one["segments"], one["layers"], one["heads"], one["length"]) == (None, None, 1, 2, 9)


def test_nothing_to_label_gives_an_empty_run_and_its_errors(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    result = labelled(tmp_path / "run", [tmp_path / "bad.npz"], PatternClassifier.load())
    assert (result.inputs, result.maps, len(result.errors), result.stacks) == (0, 0, 1, ())
    assert pq.read_table(tmp_path / "run" / "heads.parquet").num_rows == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["tasks"] == []


def test_layers_and_heads_keep_their_numbers(tmp_path):
    dumps = write_dumps(tmp_path / "dumps", 2)
    result = labelled(tmp_path / "run", dumps, PatternClassifier.load(), Selection((1, 4), (0, 11)))
    rows = rows_of(tmp_path / "run").to_pandas()
    assert rows[["layer", "head"]].to_numpy().tolist() == [[1, 0], [1, 11], [4, 0], [4, 11]] * 2
    assert {(stack.layers, stack.heads) for stack in result.stacks} == {((1, 4), (0, 11))}
    assert set(rows["pattern"]) <= set(PATTERNS)
