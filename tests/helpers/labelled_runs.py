"""Dumps to label, the command that labels them, and the comparison of two runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from typer.testing import CliRunner

from attention_patterns.labelling.command.cli import app
from attention_patterns.sample import load_sample, sample_encoder

MINILM = str(sample_encoder())
COMMAND = [str(Path(sys.executable).with_name("attention-label"))]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "80"}


def invoke(*arguments):
    """Runs the command in this process; much faster than ``attention_label``, which loads all packages anew."""
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [*map(str, arguments)])


def attention_label(*arguments, **options):
    """Runs the command as a process, to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        **{"capture_output": True, "text": True, "env": ENVIRONMENT, "timeout": 300} | options,
    )


def write_dumps(folder, count, *, seed=0):
    """Writes ``count`` .npz files of the sample's attention, each blurred in its own way; returns their paths."""
    folder.mkdir(exist_ok=True)
    sample, random = load_sample(), np.random.default_rng(seed)
    for n in range(count):
        blurred = sample.attention * np.exp(random.normal(0, 0.4, sample.attention.shape))
        attention = (blurred / blurred.sum(axis=-1, keepdims=True)).astype(np.float16)
        np.savez(folder / f"{n:03}.npz", attention=attention, tokens=sample.tokens, segments=sample.segments)
    return sorted(folder.iterdir())


def rows_of(run, table="labels"):
    """Reads the rows of a run's table as people do with pyarrow: all parts as one data set."""
    return pq.read_table(run / table)


def assert_same_run(run, reference):
    """Compares two runs row by row, column by column, bit by bit."""
    for table in ("labels", "inputs", "maps"):
        assert sorted(file.name for file in (run / table).iterdir()) == sorted(
            file.name for file in (reference / table).iterdir()
        )
        assert rows_of(run, table).equals(rows_of(reference, table), check_metadata=True)
    for name in ("heads.parquet", "summary.json"):
        assert (run / name).read_bytes() == (reference / name).read_bytes()
    for hidden in run.rglob(".*"):
        assert hidden.name == ".lock"
