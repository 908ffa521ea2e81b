"""A trained net as the ``model.onnx`` and ``bundle.json`` of a model bundle."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
import torch

from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.programs.whole_files import write_whole
from attention_patterns.rendering import CHANNELS, RENDERING_VERSION
from attention_patterns_training.net.net import Design, PatternNet, Probabilities

NAME, VERSION = "attention-patterns-cnn", "0.2.0"


def export(net: PatternNet, design: Design, folder: Path, *, temperature: float, dataset_sha256: str) -> None:
    """Writes ``model.onnx`` and a ``bundle.json`` without metrics, whose threshold marks no answer as uncertain.

    Args:
        net: The trained net.
        design: Its design.
        folder: Folder of the bundle.
        temperature: Number that the logits are divided by.
        dataset_sha256: Digest of the labels it was trained on, hexadecimal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maps = torch.export.Dim("maps", min=1)
    example = torch.zeros(2, CHANNELS, design.image_size, design.image_size, dtype=torch.uint8)
    program = torch.onnx.export(
        Probabilities(net, temperature).eval(),
        (example,),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes={"images": {0: maps}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    onnx.save(_remove_traces(program.model_proto), folder / "model.onnx")
    content = {
        "name": NAME,
        "version": VERSION,
        "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
        "classes": PATTERN_NAMES.tolist(),
        "image_size": design.image_size,
        "channels": CHANNELS,
        "rendering_version": RENDERING_VERSION,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "temperature": round(temperature, 4),
        "uncertain_below": 0.0,
        "dataset_sha256": dataset_sha256,
        "metrics": {},
    }
    write_json(folder / "bundle.json", content)


def _remove_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes the exporter's notes on where each operation was called, with the paths of this machine."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    return model


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file that people read too."""
    write_whole(path, json.dumps(content, indent=2) + "\n")
