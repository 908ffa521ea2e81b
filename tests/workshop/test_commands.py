"""Every command answers ``--help`` at once and hands its options over."""

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from attention_patterns.bundle import BUNDLED
from attention_patterns_training.__main__ import app
from attention_patterns_training.labels.dataset import DATA
from attention_patterns_training.labels.hand_labels import CALIBRATION

COMMANDS = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]
PACKAGE = "attention_patterns_training"
LABELS, EVALUATION = f"{PACKAGE}.labels", f"{PACKAGE}.evaluation"
HANDED_OVER = [
    ("source-models M --only a --only b --threads 3", f"{PACKAGE}.sources.source_models.train_source_models",
     ("M",), {"only": ["a", "b"], "threads": 3}),
    ("collect-maps M --more", f"{LABELS}.collect_maps.collect_maps", ("M",), {"folder": DATA, "more": True}),
    ("annotate F --annotator b --port 0", f"{LABELS}.annotate.annotate", ("F",), {"annotator": "b", "port": 0}),
    ("sheets S --annotator third", f"{LABELS}.hand_labels.make_sheets", ("S",), {"annotator": "third", "folder": DATA}),
    ("collect A --annotator a --folder F --alone", f"{LABELS}.hand_labels.collect",
     ("A",), {"annotator": "a", "folder": "F", "alone": True}),
    ("agreement", f"{LABELS}.hand_labels.print_agreement", (DATA,), {}),
    ("calibration H", f"{LABELS}.hand_labels.print_calibration", ("H",), {"answers": CALIBRATION}),
    ("data-card", f"{EVALUATION}.data_card.write_data_card", (), {}),
    ("train", f"{PACKAGE}.train.train", (), {"output": BUNDLED, "folder": DATA, "threads": 2}),
    ("train --output B --folder F --threads 1", f"{PACKAGE}.train.train",
     (), {"output": "B", "folder": "F", "threads": 1}),
    ("ablate --threads 1", f"{EVALUATION}.ablation.ablate", (), {"threads": 1}),
    ("evaluate --folder F --by model --keep", f"{EVALUATION}.evaluate.evaluate",
     (), {"bundle": None, "folder": "F", "split": "test", "by": "model", "keep": True}),
    ("measure", f"{EVALUATION}.measure.measure", (), {}),
    ("robustness --keep", f"{EVALUATION}.robustness.measure_robustness", (), {"keep": True}),
    ("speed", f"{EVALUATION}.speed.measure_speed", (), {"keep": False}),
    ("card", f"{EVALUATION}.card.write_card", (), {}),
    ("export-sample", f"{PACKAGE}.sources.export_sample.export_sample", (), {}),
]  # fmt: skip


def test_help_loads_nothing_heavy():
    code = "import sys, attention_patterns_training.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "pandas", "numpy", "sklearn", "flask", "attention_patterns"} & set(loaded)


def test_help_is_that_of_the_module():
    command = [sys.executable, "-P", "-m", "attention_patterns_training", "--help"]
    environment = os.environ | {"COLUMNS": "80"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "Usage: python -m attention_patterns_training" in printed
    summaries = dict(re.findall(r"^  ([a-z-]+)  +(\S.*)$", printed.partition("Commands:")[2], re.MULTILINE))
    assert list(summaries) == COMMANDS
    assert all(re.fullmatch(r"[A-Z].*[^.]\.", summary) for summary in summaries.values())  # none is cut short


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command):
    result = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
    assert result.exit_code == 0, result.output
    helps = re.findall(r"^  (?:--[a-z-]+|[A-Z]+)(?: <[^>]+>)?  +(.*)$", result.output, re.MULTILINE)
    assert helps
    assert all(re.match(r"[A-Z].*\.", line) for line in helps)


@pytest.mark.parametrize(("line", "target", "arguments", "options"), HANDED_OVER, ids=[h[0] for h in HANDED_OVER])
def test_options_are_handed_over(monkeypatch, line, target, arguments, options):
    calls = []
    monkeypatch.setattr(target, lambda *args, **kwargs: calls.append((args, kwargs)))
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, result.output
    ((args, kwargs),) = calls
    assert tuple(map(str, args)) == tuple(map(str, arguments))
    assert {k: str(v) for k, v in kwargs.items()} == {k: str(v) for k, v in options.items()}


def test_every_command_is_tried():
    assert {line.split()[0] for line, *_ in HANDED_OVER} == set(COMMANDS)
