import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from attention_patterns import BundleError, ModelBundle, PatternClassifier
from attention_patterns.bundle import BUNDLED
from tests.helpers.drawn_maps import random_maps


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(BUNDLED, tmp_path / "model")


def change(folder, **entries):
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_bundle_is_loaded_from_a_folder(folder, classifier):
    change(folder, name="copy", version="9.9.9")
    copy = PatternClassifier.load(folder)
    assert copy.model == "copy 9.9.9"
    maps = random_maps(3, 20, 20)
    np.testing.assert_array_equal(copy.classify(maps).probabilities, classifier.classify(maps).probabilities)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"rendering_version": 999}, "rendering_version is 999, expected 1"),
        ({"sha256": "0" * 64}, "sha256 is '0000"),
        ({"classes": ["Block"]}, r"classes is \['Block'\]"),
        ({"channels": 1}, "channels is 1, expected 3"),
        ({"metrics": {"f1": "good"}}, "bundle.json has no valid"),
        ({"uncertain_below": "often"}, "bundle.json has no valid"),
        ({"image_size": 32}, "cannot be run"),
    ],
)
def test_a_bundle_of_another_make_is_refused(folder, entries, message):
    change(folder, **entries)
    with pytest.raises(BundleError, match=message):
        PatternClassifier.load(folder)


def test_a_damaged_bundle_is_refused(folder, tmp_path):
    with pytest.raises(BundleError, match="cannot be read"):
        PatternClassifier.load(tmp_path / "nowhere")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1000])
    with pytest.raises(BundleError, match="sha256"):
        PatternClassifier.load(folder)
    (folder / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        PatternClassifier.load(folder)


def test_the_bundled_model_is_small():
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 5_000_000
    assert ModelBundle.read().metrics["validation_maps"] >= 100


def test_one_map_is_classified_alike_in_every_company(classifier):
    """The net's answer does not depend on the other maps of its batch, to the last bit."""
    maps = random_maps(80, 16, 16)
    together = classifier.classify(maps).probabilities
    for size in (1, 3, 37):
        parts = [classifier.classify(maps[i : i + size]).probabilities for i in range(0, len(maps), size)]
        np.testing.assert_array_equal(np.concatenate(parts), together)


def test_onnxruntime_reports_to_nobody(tmp_path):
    """Its telemetry writes a device id into the home where it is on; the caller's own setting is kept."""
    code = """
import importlib, os
from attention_patterns import session
print(os.environ["ORT_DISABLE_TELEMETRY"])
os.environ["ORT_DISABLE_TELEMETRY"] = "true"
importlib.reload(session)
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    clean = {name: value for name, value in os.environ.items() if name not in {"ORT_DISABLE_TELEMETRY", "CI"}}
    environment = clean | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "true"]
    assert not [path for path in tmp_path.rglob("*") if "onnx" in str(path).lower() or "telemetry" in str(path).lower()]
