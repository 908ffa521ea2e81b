"""A measure is declared in one place: one more field of ``Evidence`` appears wherever measures are read or written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "attention_patterns": ROOT / "classifier",
    "attention_patterns_service": ROOT / "service",
    "attention_patterns_training": ROOT / "training",
}
FIELD = """    first_token_mass: Annotated[
        NDArray[np.float32],
        Measure(
            lambda surveyed: surveyed.survey.column_sums[:, 0] / surveyed.declaration.length,
            "Mean attention to the first token",
            "first token",
        ),
    ]


EVIDENCE: Mapping"""
CONTRACT = "message Evidence {\n  // Mean attention to the first token.\n  float first_token_mass = 99;\n"
LOOK = """
import json
import sys
from pathlib import Path

import numpy as np

from attention_patterns import PatternClassifier
from attention_patterns.labelling.output.table import HEADS, LABELS
from attention_patterns.sample import SAMPLE, load_sample
from attention_patterns.labelling.command import main
from attention_patterns_service import AttentionServer, Client
from attention_patterns_service.pb.inference import open_inference_pb2 as pb
from attention_patterns_service.server.open_inference.methods import models_of
from attention_patterns_training.evaluation.baselines import FEATURES

sample = load_sample()
classifier = PatternClassifier.load()
here = classifier.classify(sample.attention)
with AttentionServer(classifier, port=0) as server, Client(server.endpoint, reduce="never") as client:
    there = client.classify(sample.attention)
outputs = [kind.name for model in models_of(classifier.bundle).values() for kind in model.outputs]
for arguments in (["run", str(SAMPLE), "-o", sys.argv[1], "-q"], ["report", sys.argv[1]]):
    sys.argv[1:], folder = arguments, sys.argv[1]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    sys.argv[1:] = [folder]
page = (Path(folder) / "report.html").read_text()
column_means = sample.attention[..., 0].astype(float).mean(axis=-1)
print(json.dumps({
    "values": bool(np.allclose(here.evidence.first_token_mass, column_means, atol=1e-3)),
    "wire": np.array_equal(here.evidence.first_token_mass, there.evidence.first_token_mass),
    "Open Inference": "first_token_mass" in outputs,
    "table of labels": "first_token_mass" in LABELS.names,
    "table of heads": "first_token_mass" in HEADS.names,
    "report": "first token" in page,
    "baselines": "first_token_mass" in FEATURES,
    "docstring": "first_token_mass: float32. Mean attention to the first token." in type(here.evidence).__doc__,
}))
"""


def test_a_measure_added_in_one_place_appears_in_all(tmp_path):
    for name, folder in PACKAGES.items():
        shutil.copytree(folder / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "data", "pb"))
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    edit(tmp_path / "attention_patterns/measures.py", "\n\nEVIDENCE: Mapping", FIELD)
    edit(tmp_path / "proto/attention_patterns/v1/attention_patterns.proto", "message Evidence {\n", CONTRACT)
    (tmp_path / "attention_patterns_service/pb").mkdir()
    protos = ["proto/attention_patterns/v1/attention_patterns.proto", "proto/inference/open_inference.proto"]
    outputs = ["--python_out=.", "--grpc_python_out=.", "--pyi_out=."]
    run("-m", "grpc_tools.protoc", "-Iattention_patterns_service/pb=proto", *outputs, *protos, folder=tmp_path)
    seen = json.loads(run("-c", LOOK, tmp_path / "run", folder=tmp_path).splitlines()[-1])
    assert seen == dict.fromkeys(seen, True)


def edit(path, before, after):
    text = path.read_text()
    assert text.count(before) == 1, before
    path.write_text(text.replace(before, after))


def run(*arguments, folder):
    environment = os.environ | {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "kernel")}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False, cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
