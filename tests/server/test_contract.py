"""The generated code is what the contract generates, and every element of the contract is explained."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]
PROTOS = ("proto/attention_patterns/v1/attention_patterns.proto", "proto/inference/open_inference.proto")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    out = tmp_path_factory.mktemp("generated")
    options = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "pyi")]
    described = [f"--descriptor_set_out={out / 'described'}", "--include_source_info"]
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-Iattention_patterns_service/pb=proto",
        *options,
        *described,
        *PROTOS,
    ]
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


def test_every_element_has_a_comment(generated):
    for described in descriptor_pb2.FileDescriptorSet.FromString((generated / "described").read_bytes()).file:
        commented = {tuple(at.path) for at in described.source_code_info.location if at.leading_comments.strip()}
        expected = set()
        for m, message in enumerate(described.message_type):
            expected |= {(4, m)} | {(4, m, 2, f) for f in range(len(message.field))}
        for e, enum in enumerate(described.enum_type):
            expected |= {(5, e)} | {(5, e, 2, v) for v in range(len(enum.value))}
            assert enum.value[0].name.endswith("_UNSPECIFIED")
        for s, service in enumerate(described.service):
            expected |= {(6, s)} | {(6, s, 2, r) for r in range(len(service.method))}
            for method in service.method:
                assert method.input_type.endswith(f".{method.name}Request")
                assert method.output_type.endswith(f".{method.name}Response")
        assert not expected - commented
