"""The outputs of the Open Inference Protocol that a result makes, and Triton's own client in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from attention_patterns.measures import GROUP_MEASURES
from attention_patterns.sample import load_sample

NET = "attention-patterns-cnn"
SCRIPT = Path(__file__).with_name("triton_client.py")
SAMPLE = load_sample().attention.astype(np.float32)
_TYPES = {"f8": "FP64", "f4": "FP32", "f2": "FP16", "u2": "BF16", "u1": "UINT8", "i8": "INT64", "i4": "INT32"}
_PER_MAP = ("probabilities", "margin", "uncertain", "overruled", "causal")


def datatype_of(values):
    """Returns the protocol's name of an array's type."""
    return {"U": "BYTES", "b": "BOOL"}.get(values.dtype.kind) or _TYPES[values.dtype.str[1:]]


def run_triton_client(*arguments):
    """Runs ``triton_client.py`` and returns what it prints."""
    command = [sys.executable, "-P", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def outputs_of(result):
    """Returns the outputs that the library's result makes, by name."""
    evidence = {name: values for name, values in vars(result.evidence).items() if values is not None}
    ratios = {
        f"attention_to.{group}.{name}": getattr(measures, name)
        for group, measures in result.attention_to.items()
        for name in GROUP_MEASURES
    }
    return {"pattern": result.patterns} | {name: getattr(result, name) for name in _PER_MAP} | evidence | ratios


def assert_same_outputs(outputs, expected):
    """Asserts that outputs are equal in names, types, shapes and bits."""
    assert set(outputs) == set(expected)
    for name, values in expected.items():
        if values.dtype.kind != "U":
            assert outputs[name].dtype == values.dtype, name
        assert outputs[name].shape == values.shape, name
        np.testing.assert_array_equal(outputs[name], values, err_msg=name)
