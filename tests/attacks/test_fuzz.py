"""Bad input in bulk: a short form of ``tests.attacks.fuzz`` with its targets and judges, and proofs that it finds."""

import subprocess
import sys
from random import Random
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_patterns import PatternClassifier
from attention_patterns.attention_map import DataType
from attention_patterns.classification import NetAnswer
from tests.attacks import fuzz
from tests.attacks.fuzz_seeds import Draw
from tests.attacks.fuzz_targets import REASONS, TARGETS, judge_classify, judge_read
from tests.helpers.servers import until

INPUTS = 4000  # of all targets together


def feed(bench, folder, name, count):
    """Feeds inputs that are made without following coverage, and returns the tally."""
    target, tally, random = TARGETS[name], fuzz.Tally(folder, name), Random(name)

    def scramble(data):
        changed = bytearray(data or b"\0")
        for _ in range(random.randint(1, 4)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        return bytes(changed[: random.randint(1, 2 * len(changed))])

    for number in range(count):
        seed = target.seed(number)
        data = target.messages.mutate(seed, number, scramble) if target.messages else seed
        tally.take(target, bench, data if len(data) <= target.longest else seed)
    return tally


def findings_in(folder):
    path = folder / "findings"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_answered_or_refused_and_rightly(bench, tmp_path, name):
    tally = feed(bench, tmp_path, name, max(50, int(INPUTS * TARGETS[name].share)))
    assert findings_in(tmp_path) == ""
    assert tally["answered"] > 0
    assert tally["answered"] + sum(tally[reason] for reason in REASONS) == tally["inputs"]


@pytest.mark.parametrize("judge", [judge_classify, judge_read])
def test_what_hypothesis_draws_is_answered_or_refused_and_rightly(bench, judge):
    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def check(data):
        outcome = judge(bench, Draw(lambda low, high: data.draw(st.integers(low, high))))
        assert outcome.wrong == outcome.crash == ""

    check()


def test_labels_for_what_is_no_attention_are_found(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("attention_patterns.rendering.ROW_SUM_TOLERANCE", dict.fromkeys(DataType, 0.5))
    assert feed(bench, tmp_path, "ClassifyHeads", 200)["wrong"] > 0
    assert "answer: answered, expected a refusal" in findings_in(tmp_path)


def test_refusals_of_attention_are_found(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("attention_patterns.rendering.ROW_SUM_TOLERANCE", dict.fromkeys(DataType, 1e-12))
    assert feed(bench, tmp_path, "ModelInfer", 100)["wrong"] > 0
    assert "ROW_SUM: refused, expected an answer" in findings_in(tmp_path)


def test_answers_that_are_none_are_found(bench, tmp_path, monkeypatch):
    def classify_images(self, images, oversight=None):
        return NetAnswer(np.full((len(images), 5), np.nan, np.float32), "a net", "", 0.5)

    monkeypatch.setattr(PatternClassifier, "classify_images", classify_images)
    for name in ("classify", "ClassifyImages", "ModelInfer"):
        assert feed(bench, tmp_path, name, 100)["wrong"] > 0
    assert "probabilities are none" in findings_in(tmp_path)


def test_errors_that_are_not_ours_are_found(bench, tmp_path, monkeypatch):
    def read_declaration(length, **declared):
        raise KeyError(length)

    monkeypatch.setattr("attention_patterns_service.contract.converters.read_declaration", read_declaration)
    for name in ("ClassifyHeads", "StreamClassifyHeads"):
        tally = feed(bench, tmp_path, name, 50)
        assert 0 < tally["crashes"] < tally["inputs"] == 50
    assert "KeyError in test_fuzz.py:read_declaration" in findings_in(tmp_path)


def test_inputs_that_take_too_long_are_found(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "LONGEST", 0.0)
    assert feed(bench, tmp_path, "ModelReady", 3)["hangs"] == 3


ONE_INPUT = """
import os, sys, time
with open(sys.argv[2] + "/" + sys.argv[1] + ".counts", "r+b") as counts:
    inputs = counts.read(8)[0] + 1
    counts.seek(0)
    counts.write(bytes([inputs]))
"""


def test_processes_that_die_are_found_and_followed_by_others(tmp_path):
    tally = fuzz.watch("GetModel", tmp_path, 2, 0, float("inf"), ONE_INPUT + "os.kill(os.getpid(), 9)")
    assert tally["inputs"] == tally["crashes"] == 2
    assert "died, exit code -9" in findings_in(tmp_path)


def test_a_process_that_is_stuck_is_found(tmp_path, monkeypatch):
    """The time after which it is stuck ends once it has begun."""

    def lose_patience():
        until(lambda: fuzz.Tally(tmp_path, "GetModel")["inputs"])
        monkeypatch.setattr(fuzz, "STUCK", 0.2)

    impatient = Thread(target=lose_patience)
    impatient.start()
    tally = fuzz.watch("GetModel", tmp_path, 1, 0, float("inf"), ONE_INPUT + "time.sleep(3600)")
    impatient.join()
    assert tally["inputs"] == tally["hangs"] == 1
    assert "stuck for 0.2 s" in findings_in(tmp_path)


def test_a_process_that_does_not_come_to_its_first_input_is_found_once(tmp_path):
    tally = fuzz.watch("GetModel", tmp_path, 5, 0, float("inf"), "import sys; sys.exit(3)")
    assert (tally["inputs"], tally["crashes"]) == (0, 1)


def test_the_program_follows_coverage_and_reports(tmp_path):
    command = [sys.executable, "-P", "-m", "tests.attacks.fuzz", "--inputs=300", "--only=ClassifyHeads"]
    command.append(f"--folder={tmp_path}")
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=fuzz.environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert "│ ClassifyHeads │" in done.stdout
    (folder,) = tmp_path.iterdir()
    log = (folder / "ClassifyHeads.log").read_text()
    assert "Instrumenting attention_patterns_service.contract.converters" in log


def test_an_input_is_fed_again(tmp_path, capsys, bench):
    path = tmp_path / "input"
    path.write_bytes(b"\xff")
    fuzz.feed(only=["ModelReady"], replay=path)
    assert "reason='MESSAGE'" in capsys.readouterr().out
