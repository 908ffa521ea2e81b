"""Clients that share no code with this project: they know the contract, or the endpoint alone."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from attention_patterns.sample import load_sample
from attention_patterns_service import AttentionServer
from attention_patterns_service.contract.converters import classification_of
from attention_patterns_service.contract.model_info import model_response_of
from attention_patterns_service.limits import Limits
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from tests.helpers.equality import assert_equal

NODE = Path(__file__).parent / "node"
PROTO = Path(__file__).parents[2] / "proto" / "attention_patterns" / "v1" / "attention_patterns.proto"
MESSAGE = "attention[layer 1, head 0]: row 0 sums to 0, expected 1 +- 0.01"


@pytest.fixture(scope="module")
def attention():
    """The bundled sample, float32 [6, 12, L, L]."""
    return load_sample().attention.astype("<f4")


@pytest.fixture(scope="module")
def declared():
    """The declaration of the sample, as JSON; nothing is outside the group "all", where a measure is NaN."""
    sample = load_sample()
    everything = {"name": "all", "positions": list(range(len(sample.tokens)))}
    return {"tokens": sample.tokens, "segment_ids": sample.segments.tolist(), "token_groups": [everything]}


@pytest.fixture(scope="module")
def expected(classifier, attention, declared):
    """The library's answer."""
    groups = {group["name"]: group["positions"] for group in declared["token_groups"]}
    return classifier.classify(
        attention, tokens=declared["tokens"], segments=declared["segment_ids"], token_groups=groups
    )


def result_of(answers, attention):
    """Returns the result that answers hold; they are JSON."""
    messages = [ParseDict(answer, pb.ClassifyHeadsResponse()) for answer in answers]
    return classification_of(messages, leading=attention.shape[:-2], length=attention.shape[-1])


def output_of(command, **options):
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def answers(server, attention, declared, tmp_path_factory):
    """The server's answers to the Node client."""
    if not (shutil.which("node") and shutil.which("npm")):
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("node and npm, which the Node client is run with, are not installed")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "classify.js"):
        shutil.copy(NODE / name, folder)
    install = ["npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
    output_of(install, cwd=folder)
    tensor = folder / "attention.f32"
    tensor.write_bytes(attention.tobytes())
    shape = ",".join(map(str, attention.shape))
    command = ["node", "classify.js", server.endpoint, str(PROTO), str(tensor), shape, json.dumps(declared)]
    return json.loads(output_of(command, cwd=folder))


def test_a_node_client_gets_the_library_s_answer(answers, attention, expected):
    assert answers["whole"]["request_id"] == "whole"
    assert_equal(result_of([answers["whole"]], attention), expected)


def test_a_node_client_gets_the_library_s_answer_in_chunks_and_past_a_bad_one(answers, attention, expected):
    first, bad, *others = answers["stream"]
    assert [(answer["request_id"], answer.get("first_layer", 0)) for answer in (first, *others)] == [
        ("chunks", layer) for layer in range(6)
    ]
    assert (bad["request_id"], bad["first_layer"]) == ("bad", 1)
    assert (bad["error"]["code"], bad["error"]["reason"]) == (3, "ROW_SUM")
    assert bad["error"]["message"].startswith(MESSAGE)
    assert_equal(result_of([answer["response"] for answer in (first, *others)], attention), expected)


def test_a_node_client_reads_the_details_of_an_error(answers):
    error = answers["bad"]["error"]
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ROW_SUM", "domain": "attention-patterns"}
    assert error["code"] == error["status"]["code"] == 3
    assert error["details"] == error["status"]["message"]
    assert error["details"].startswith(MESSAGE)
    assert error["status"]["details"] == [info]


def test_a_node_client_gets_model_and_health(answers, classifier):
    described = ParseDict(answers["model"], pb.GetModelResponse())
    assert described == model_response_of(classifier.bundle, Limits())
    assert answers["health"] == {"status": "SERVING"}


def test_the_lock_file_names_no_address_to_download_from():
    lock = json.loads((NODE / "package-lock.json").read_text())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
    assert not any("resolved" in package for package in lock["packages"].values())


def test_reflection_describes_enough_to_ask(classifier, attention, declared, expected):
    """The messages are made of what the server describes, as grpcurl does."""
    tensor = {
        "data_type": "DATA_TYPE_FLOAT32",
        "shape": attention.shape,
        "data": base64.b64encode(attention.tobytes()).decode(),
    }
    server = AttentionServer(classifier, port=0, reflection=True)
    with server, grpc.insecure_channel(server.endpoint) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        (name,) = (name for name in database.get_services() if name.startswith("attention_patterns."))
        pool = DescriptorPool(database)
        method = pool.FindServiceByName(name).methods_by_name["ClassifyHeads"]
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        assert response is not pb.ClassifyHeadsResponse
        call = channel.unary_unary(
            f"/{name}/{method.name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        answer = call(ParseDict(declared | {"attention": tensor}, request()), timeout=300)
    assert_equal(result_of([MessageToDict(answer)], attention), expected)
