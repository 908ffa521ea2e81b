"""Names and tokens that act upon a terminal or a page, given to every command as real processes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attention_patterns.sample import load_sample
from tests.helpers.labelled_runs import COMMAND as ATTENTION_LABEL
from tests.helpers.servers import ATTENTION_SERVE

NAME = "a[bold]b[red]:smile:\x1b[31m\u202e\x9b2J$x$\u200b"
SHOWN = r"a[bold]b[red]:smile:\x1b[31m\u202e\x9b2J$x$\u200b"
ACTING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
TOKENS = ["[CLS]", "\x1b]0;owned\x07", "\u202eevil", "</script><script>", "zero\u200bwidth", "\n", "[/]", "[bold]"]
WORKSHOP = [sys.executable, "-P", "-m", "attention_patterns_training"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of that name with one input, one that is broken, and a model bundle of such a name in it."""
    folder = tmp_path_factory.mktemp("nasty") / NAME
    folder.mkdir()
    sample = load_sample()
    attention = sample.attention[..., :9, :9].astype(np.float32)
    attention /= attention.sum(axis=-1, keepdims=True)
    np.savez(folder / "x\n[red]y.npz", attention=attention, tokens=np.array([*TOKENS, "[SEP]"]))
    np.savez(folder / "bad\x1b[31m[dim].npz", attention=attention * 2)
    return folder


def run(*command, folder, codes=(1, 2)):
    """Runs a command to its end, beside the folder, and returns what it printed, none of which acts."""
    done = subprocess.run(
        [*map(str, command)], check=False, cwd=folder.parent, capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.returncode in codes, done.stderr
    assert "Traceback" not in done.stderr
    for printed in (done.stdout, done.stderr):
        assert not ACTING.search(printed), ascii(printed)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def labelled(folder):
    """The folder of a run over these inputs, and what was printed."""
    output = folder.with_name(f"run {NAME}")
    printed = run(*ATTENTION_LABEL, "run", NAME, "-o", output, "--keep-maps", folder=folder, codes=(1,))
    return output, printed


def test_a_run_names_its_folders_and_inputs(folder, labelled):
    output, printed = labelled
    assert f"run {SHOWN}" in re.sub(r"\s*\n", "", printed)
    errors = (output / "errors.jsonl").read_text()
    assert not ACTING.search(errors)
    assert json.loads(errors)["input_id"] == "bad\x1b[31m[dim].npz"
    for command in (["summary", output], ["summary", output, "--compare-paper", "MRPC"]):
        assert "Vertical" in run(*ATTENTION_LABEL, *command, folder=folder, codes=(0,))
    printed = run(*ATTENTION_LABEL, "run", NAME, "-o", output, folder=folder)
    assert f"run {SHOWN}' holds the run of another request" in printed
    printed = run(*ATTENTION_LABEL, "run", NAME, "-o", "new", "--dry-run", folder=folder, codes=(0,))
    assert r"RowSumError: bad\x1b[31m[dim].npz: attention" in printed


def test_a_report_spells_out_names_and_tokens(folder, labelled):
    """The path that it prints is for programs and stays as it is."""
    output, _ = labelled
    command = [*ATTENTION_LABEL, "report", output]
    done = subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert done.stdout == bytes(output / "report.html") + b"\n"
    page = (output / "report.html").read_text()
    assert not ACTING.search(page)
    assert SHOWN in page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    (example,) = data["stacks"][0]["examples"]
    assert example["tokens"][1:6] == [
        r"\x1b]0;owned\x07",
        r"\u202eevil",
        "</script><script>",
        r"zero\u200bwidth",
        r"\n",
    ]
    assert r"\n[red]y.npz" in example["id"]


@pytest.mark.parametrize(
    "command",
    [
        [*ATTENTION_LABEL, "run", f"no {NAME}", "-o", "new"],
        [*ATTENTION_LABEL, "run", NAME, "-o", f"{NAME}/x\n[red]y.npz"],
        [*ATTENTION_LABEL, "run", NAME, f"--{NAME}"],
        [*ATTENTION_LABEL, "run", NAME, "-o", "new", "--endpoint", NAME],
        [*ATTENTION_LABEL, "run", NAME, "-o", "new", "--log-format", "json", "--bundle", f"no {NAME}"],
        [*ATTENTION_LABEL, "summary", NAME],
        [*ATTENTION_LABEL, "report", NAME],
        [ATTENTION_SERVE, "--model-dir", NAME],
        [ATTENTION_SERVE, "--tokens", NAME],
        [ATTENTION_SERVE, "--tls-cert", NAME, "--tls-key", NAME],
        [ATTENTION_SERVE, "--host", NAME],
        [ATTENTION_SERVE, "--check", "--model-dir", NAME],
        [ATTENTION_SERVE, NAME],
        [ATTENTION_SERVE, "--workers=2", "--port=0", "--model-dir", NAME],
        [ATTENTION_SERVE, "health", NAME],
        [ATTENTION_SERVE, "health", NAME, f"--{NAME}"],
        [ATTENTION_SERVE, "token", "add", "alice", "--tokens", NAME],
        [ATTENTION_SERVE, "triton", "new", "--model-dir", NAME],
        [*WORKSHOP, "evaluate", "--folder", NAME],
        [*WORKSHOP, "annotate", NAME, "--annotator", "a"],
        [*WORKSHOP, "collect", NAME, "--annotator", "a"],
        [*WORKSHOP, "train", "--folder", NAME],
        [*WORKSHOP, NAME],
    ],
    ids=lambda command: " ".join(Path(word).name for word in map(str, command)).replace(NAME, "NAME"),
)
def test_an_error_spells_out_what_it_names(folder, command):
    printed = run(*command, folder=folder)
    assert r"\x1b[31m" in printed or r"\u001b[31m" in printed
