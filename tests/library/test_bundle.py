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
        ({"metrics": {"f1": "good"}}, "f1 is 'good', expected a finite number"),
        ({"uncertain_below": "often"}, "uncertain_below is 'often', expected a number from 0 to 1"),
        ({"uncertain_below": float("nan")}, "uncertain_below is nan, expected a number from 0 to 1"),
        ({"image_size": 32}, "cannot be run"),
        ({"image_size": float("inf")}, "image_size is inf, expected an integer from 8 to 512"),
        ({"image_size": True}, "image_size is True, expected"),
        ({"name": "a\x1b[2J"}, r"name is 'a\\x1b\[2J', expected 1 to 100 printable characters"),
        ({"dataset_sha256": "\u0663" * 64}, "dataset_sha256 is '.*', expected 64 digits from 0 to f"),
        ({"reference": {"mean": [1.0] * 8}}, r"mean is \[.*\], expected 9 finite numbers"),
        ({"metrics": None}, "metrics is None, expected an object"),
        ({"metrics": {"\ud800": 1}}, "metrics is .*, expected an object with printable keys"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "bundle.json: Expecting property name"),
        ("[]", r"bundle.json: it is \[\], expected an object"),
        ("[" * 200_000, "bundle.json is nested too deeply"),
        ("9" * 9999, "bundle.json: Exceeds the limit"),
        (" " * (1 << 20) + "{}", "bundle.json has 1048578 bytes, expected at most 1048576"),
        ("\ud800", "codec can't decode"),
    ],
)
def test_a_description_that_is_none_is_refused(folder, content, message):
    (folder / "bundle.json").write_text(content, errors="surrogatepass")
    with pytest.raises(BundleError, match=message):
        PatternClassifier.load(folder)


@pytest.mark.parametrize("name", ["bundle.json", "model.onnx"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match=f"{name} is not a regular file"):
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
