"""Dumps to label, the command that labels them, and how two runs are compared."""

import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq

from attention_patterns.sample import load_sample, sample_encoder

MINILM = str(sample_encoder())
COMMAND = [sys.executable, "-m", "attention_patterns.labelling.command.cli"]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "80"}


def attention_label(*arguments, **options):
    """Runs the command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        **{"capture_output": True, "text": True, "env": ENVIRONMENT, "timeout": 300} | options,
    )


def write_dumps(folder, count, *, seed=0):
    """``count`` .npz files of the sample's attention, each blurred in its own way; gives their paths."""
    folder.mkdir(exist_ok=True)
    sample, random = load_sample(), np.random.default_rng(seed)
    for n in range(count):
        blurred = sample.attention * np.exp(random.normal(0, 0.4, sample.attention.shape))
        attention = (blurred / blurred.sum(axis=-1, keepdims=True)).astype(np.float16)
        np.savez(folder / f"{n:03}.npz", attention=attention, tokens=sample.tokens, segments=sample.segments)
    return sorted(folder.iterdir())


def rows_of(run, table="labels"):
    """The rows of a run's table, as they are read with pyarrow: all parts as one data set."""
    return pq.read_table(run / table)


def assert_same_run(run, reference):
    """Row by row, column by column, bit by bit."""
    for table in ("labels", "inputs", "maps"):
        assert sorted(file.name for file in (run / table).iterdir()) == sorted(
            file.name for file in (reference / table).iterdir()
        )
        assert rows_of(run, table).equals(rows_of(reference, table), check_metadata=True)
    for name in ("heads.parquet", "summary.json"):
        assert (run / name).read_bytes() == (reference / name).read_bytes()
    for hidden in run.rglob(".*"):
        assert hidden.name == ".lock"
