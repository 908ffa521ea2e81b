"""The generated code is what the contract generates."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOS = ("proto/attention_patterns/v1/attention_patterns.proto", "proto/inference/open_inference.proto")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    out = tmp_path_factory.mktemp("generated")
    options = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "pyi")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iattention_patterns_service/pb=proto", *options, *PROTOS]
    subprocess.run(command, cwd=ROOT, check=True)
    return out


def test_generated_code_is_up_to_date(generated):
    """``make generate`` brings it up to date."""
    files = sorted(
        path.relative_to(ROOT / "service")
        for path in (ROOT / "service/attention_patterns_service/pb").rglob("*_pb2*")
        if "__pycache__" not in path.parts
    )
    assert len(files) == 3 * len(PROTOS)
    for file in files:
        assert (generated / file).read_text() == (ROOT / "service" / file).read_text(), file
