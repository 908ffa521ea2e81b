"""Triton's own client, run as a process: its messages have the names of ours, and one process cannot hold both.

``ask ENDPOINT FOLDER`` sends what FOLDER's ``asked.json`` and ``asked.npz`` hold, and writes ``answers.npz`` there;
``config FILE`` reads a model's configuration. What is told goes to standard output as JSON.
"""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tritonclient import grpc
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

BITS = {"BF16": ml_dtypes.bfloat16}  # of types that no .npz holds


def tensor(name, datatype, values):
    one = grpc.InferInput(name, list(values.shape), datatype)
    if values.dtype.kind == "U":
        values = values.astype(np.object_)
    return one.set_data_from_numpy(values.view(BITS.get(datatype, values.dtype)))


def infer(client, case, arrays):
    """The outputs of an answer, and what else it tells."""
    name = case["name"]
    inputs = [tensor(key, datatype, arrays[f"{name}/{key}"]) for key, datatype in case["inputs"].items()]
    outputs = [grpc.InferRequestedOutput(output) for output in case["outputs"]] or None
    try:
        result = client.infer(
            case["model"],
            inputs,
            model_version=case["version"],
            outputs=outputs,
            request_id=name,
            parameters={"nobody": "knows"},
        )
    except InferenceServerException as error:
        return {}, {"status": error.status(), "message": error.message()}
    told = result.get_response()
    found = {output.name: result.as_numpy(output.name) for output in told.outputs}
    texts = {key: values.astype(np.str_) for key, values in found.items() if values.dtype == np.object_}
    parameters = {key: value.string_param for key, value in told.parameters.items()}
    heard = {"id": told.id, "model": told.model_name, "version": told.model_version, "parameters": parameters}
    return found | texts, heard


def ask(endpoint, folder):
    client = grpc.InferenceServerClient(endpoint)
    asked, arrays = json.loads((folder / "asked.json").read_text()), np.load(folder / "asked.npz")
    told = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "models": {f"{name} {version}": client.is_model_ready(name, version) for name, version in asked["ready"]},
        "server": client.get_server_metadata(as_json=True),
        "metadata": {name: client.get_model_metadata(name, as_json=True) for name in asked["metadata"]},
        "numbers": numbers(),
        "answers": {},
    }
    answers = {}
    for case in asked["cases"]:
        found, told["answers"][case["name"]] = infer(client, case, arrays)
        answers |= {f"{case['name']}/{key}": values for key, values in found.items()}
    np.savez(folder / "answers.npz", **answers)
    return told


def numbers():
    """Message -> field -> number, type and whether it is repeated."""
    every = {}
    left = list(service_pb2.DESCRIPTOR.message_types_by_name.values())
    while left:
        message = left.pop()
        left += message.nested_types
        every[message.full_name] = {
            field.name: [field.number, field.type, field.is_repeated] for field in message.fields
        }
    return every


def config(path):
    return MessageToDict(
        text_format.Parse(path.read_text(), model_config_pb2.ModelConfig()), preserving_proto_field_name=True
    )


match sys.argv[1:]:
    case ["ask", endpoint, folder]:
        told = ask(endpoint, Path(folder))
    case ["config", path]:
        told = config(Path(path))
    case other:
        sys.exit(f"arguments are {other}, expected 'ask ENDPOINT FOLDER' or 'config FILE'")
sys.stdout.write(json.dumps(told))
