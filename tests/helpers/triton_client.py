"""Triton's own client, run as a process: its messages have the names of ours, and one process cannot hold both.

``ask ENDPOINT FOLDER`` sends the requests in FOLDER's ``asked.json`` and ``asked.npz``, and writes ``answers.npz``
there; ``config FILE`` reads a model's configuration. The replies go to standard output as JSON.
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

EXTENSIONS = {"BF16": ml_dtypes.bfloat16}  # types that no .npz holds


def input_of(name, datatype, values):
    """Returns an input of a request."""
    tensor = grpc.InferInput(name, list(values.shape), datatype)
    if values.dtype.kind == "U":
        values = values.astype(np.object_)
    return tensor.set_data_from_numpy(values.view(EXTENSIONS.get(datatype, values.dtype)))


def infer(client, case, arrays):
    """Returns the outputs of an answer, and the rest of it."""
    name = case["name"]
    inputs = [input_of(key, datatype, arrays[f"{name}/{key}"]) for key, datatype in case["inputs"].items()]
    wanted = [grpc.InferRequestedOutput(output) for output in case["outputs"]] or None
    try:
        result = client.infer(
            case["model"],
            inputs,
            model_version=case["version"],
            outputs=wanted,
            request_id=name,
            parameters={"nobody": "knows"},
        )
    except InferenceServerException as error:
        return {}, {"status": error.status(), "message": error.message()}
    response = result.get_response()
    outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
    texts = {key: values.astype(np.str_) for key, values in outputs.items() if values.dtype == np.object_}
    parameters = {key: value.string_param for key, value in response.parameters.items()}
    rest = {"id": response.id, "model": response.model_name, "version": response.model_version}
    return outputs | texts, rest | {"parameters": parameters}


def ask(endpoint, folder):
    """Sends all requests and returns the replies."""
    client = grpc.InferenceServerClient(endpoint)
    asked, arrays = json.loads((folder / "asked.json").read_text()), np.load(folder / "asked.npz")
    replies = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "models": {f"{name} {version}": client.is_model_ready(name, version) for name, version in asked["ready"]},
        "server": client.get_server_metadata(as_json=True),
        "metadata": {name: client.get_model_metadata(name, as_json=True) for name in asked["metadata"]},
        "numbers": read_numbers(),
        "answers": {},
    }
    answers = {}
    for case in asked["cases"]:
        outputs, replies["answers"][case["name"]] = infer(client, case, arrays)
        answers |= {f"{case['name']}/{key}": values for key, values in outputs.items()}
    np.savez(folder / "answers.npz", **answers)
    return replies


def read_numbers():
    """Returns message -> field -> number, type and whether it is repeated."""
    numbers = {}
    left = list(service_pb2.DESCRIPTOR.message_types_by_name.values())
    while left:
        message = left.pop()
        left += message.nested_types
        numbers[message.full_name] = {
            field.name: [field.number, field.type, field.is_repeated] for field in message.fields
        }
    return numbers


def read_config(path):
    """Returns a model's configuration."""
    return MessageToDict(
        text_format.Parse(path.read_text(), model_config_pb2.ModelConfig()), preserving_proto_field_name=True
    )


match sys.argv[1:]:
    case ["ask", endpoint, folder]:
        reply = ask(endpoint, Path(folder))
    case ["config", path]:
        reply = read_config(Path(path))
    case other:
        sys.exit(f"arguments are {other}, expected 'ask ENDPOINT FOLDER' or 'config FILE'")
sys.stdout.write(json.dumps(reply))
