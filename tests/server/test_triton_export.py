"""The net as a model of a Triton model repository: the files of an export, and its answers."""

import numpy as np
import onnxruntime
from typer.testing import CliRunner

from attention_patterns.bundle import BUNDLED
from attention_patterns.patterns import PATTERNS
from attention_patterns.rendering import render
from attention_patterns_service.command.cli import app
from attention_patterns_service.command.triton import export
from tests.helpers.open_inference import NET, SAMPLE, run_triton_client


def test_the_exported_model_is_one_that_triton_reads(classifier, tmp_path):
    folder = export(classifier.bundle, tmp_path / "repository", instances=3)
    config = run_triton_client("config", folder / "config.pbtxt")
    parameters = {key: value["string_value"] for key, value in config.pop("parameters").items()}
    assert config == {
        "name": folder.name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": 1024,
        "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": ["3", "48", "48"]}],
        "output": [
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": ["5"], "label_filename": "labels.txt"},
        ],
        "instance_group": [{"kind": "KIND_CPU", "count": 3}],
        "dynamic_batching": {},
    }
    assert parameters["intra_op_thread_count"] == "1"
    assert parameters["bundle_sha256"] == classifier.bundle.sha256
    assert (folder / "labels.txt").read_text().splitlines() == list(PATTERNS)


def test_the_exported_net_answers_as_the_classifier_does(classifier, tmp_path):
    folder = export(classifier.bundle, tmp_path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "1/model.onnx", options, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": render(SAMPLE, image_size=48)})
    np.testing.assert_array_equal(probabilities, classifier.classify(SAMPLE).probabilities.reshape(-1, 5))


def run(*arguments):
    """Runs ``attention-serve triton`` in this process."""
    return CliRunner().invoke(app, ["triton", *map(str, arguments)])


def test_only_an_export_is_replaced(tmp_path):
    assert run(tmp_path).stdout == f"{tmp_path / NET}\n"
    (tmp_path / NET / "labels.txt").write_text("old")
    assert run(tmp_path, "--model-dir", BUNDLED).exit_code == 0
    assert (tmp_path / NET / "labels.txt").read_text() != "old"
    (tmp_path / NET / "2").mkdir()
    (tmp_path / NET / "2" / "model.onnx").write_text("another")
    done = run(tmp_path)
    assert (done.exit_code, done.stderr) == (
        1,
        f"attention-serve triton: {tmp_path / NET} exists and is not an exported model; move it away or choose "
        "another FOLDER\n",
    )
    assert (tmp_path / NET / "2" / "model.onnx").read_text() == "another"
    assert [path.name for path in tmp_path.iterdir()] == [NET]


def test_a_bundle_that_is_missing_is_named(tmp_path):
    done = run(tmp_path, "--model-dir", tmp_path)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"attention-serve triton: model bundle {tmp_path} cannot be read")
