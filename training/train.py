"""Trains the net and exports the model bundle: ``python -m training.train [--output FOLDER]``, minutes on 2 cores.

Synthetic maps teach the elements of the patterns, then the hand labels of the training split decide
(``training.recipe``). The recipe was chosen on the validation split (``training.ablation``) and fixed: there is no
early stopping, and neither the test split, the held-out source nor any map from elsewhere is looked at. The
annotators' answers enter as soft labels. Temperature and the threshold of ``uncertain`` are set on validation maps;
``training.measure`` measures what was shipped.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer
from rich import print as show
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from classifier.bundle import BUNDLED, ModelBundle
from classifier.drift import deciles
from classifier.patterns import PATTERN_NAMES
from classifier.rendering import CHANNELS, RENDERING_VERSION
from training.card import write_card
from training.dataset import DATA, LabelledMaps, read_dataset
from training.evaluate import answers, figures, headline
from training.examples import hard_targets, images_of
from training.fit import logits
from training.net import Design, PatternNet, Probabilities
from training.recipe import Recipe, Workshop
from training.results import forget, write_section

NAME, VERSION = "attention-patterns-cnn", "0.2.0"
SEED = 7
WANTED_ACCURACY, LEAST_COVERAGE = 0.97, 0.90  # of the maps that are not uncertain


def fitted_temperature(net: PatternNet, design: Design, data: LabelledMaps) -> float:
    """The temperature of the least cross-entropy on labelled maps (Guo et al. 2017, section 4.2)."""
    scores, targets = logits(net, images_of(data.maps, design.image_size)), hard_targets(data)
    found = minimize_scalar(lambda t: float(cross_entropy(scores / t, targets)), bounds=(0.3, 5.0), method="bounded")
    return float(found.x)


def fitted_threshold(right: np.ndarray, confidence: np.ndarray) -> float:
    """The lowest confidence above which answers are right often enough, or that leaves enough of them answered."""
    order = np.argsort(-confidence)
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(accuracy >= WANTED_ACCURACY)
    last = max(int(enough[-1]) if len(enough) else 0, int(LEAST_COVERAGE * len(order)) - 1)
    return float(confidence[order[last]])


def export(net: PatternNet, design: Design, folder: Path, *, temperature: float, dataset_sha256: str) -> None:
    """Writes ``model.onnx`` and a ``bundle.json`` without metrics, under which nothing is uncertain."""
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
    onnx.save(_without_traces(program.model_proto), folder / "model.onnx")
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


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The exporter writes into the model where each operation was called, with the paths of this machine."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    return model


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file that people read too."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _labelled(folder: Path) -> LabelledMaps:
    """The labelled maps of a data set, some of them to train on and some to validate."""
    data = read_dataset(folder)
    rows = np.flatnonzero(data.table["pattern"] != "")
    labelled = LabelledMaps(tuple(data.maps[n] for n in rows), data.table.iloc[rows].reset_index(drop=True))
    for split in ("train", "validation"):
        if not len(labelled.part(split).maps):
            raise typer.BadParameter(f"{folder} holds no labelled map of split {split!r}; collect the answers first")
    return labelled


def main(
    output: Annotated[Path, typer.Option(help="where the bundle is written")] = BUNDLED,
    folder: Annotated[Path, typer.Option(help="the labelled data set")] = DATA,
    threads: Annotated[int, typer.Option(help="threads of torch; another number sums in another order")] = 2,
) -> None:
    """Trains, exports, and measures the exported bundle on the validation split."""
    torch.set_num_threads(threads)
    data, recipe = _labelled(folder), Recipe()
    (net,), design = Workshop(data.part("train")).nets(recipe, SEED), recipe.design
    validation = data.part("validation")
    export(
        net,
        design,
        output,
        temperature=fitted_temperature(net, design, validation),
        dataset_sha256=hashlib.sha256((folder / "labels.csv").read_bytes()).hexdigest(),
    )
    given = answers(ModelBundle.read(output), validation)
    content = json.loads((output / "bundle.json").read_text(encoding="utf-8"))
    right = validation.table["pattern"].to_numpy(str) == given.patterns
    content["uncertain_below"] = round(fitted_threshold(right, given.confidence), 4)
    found = figures(validation, given, uncertain_below=content["uncertain_below"])
    content["metrics"] = headline("validation", found)
    content["reference"] = deciles(images_of(data.part("train").maps, design.image_size).numpy())
    write_json(output / "bundle.json", content)
    if output == BUNDLED:
        forget("figures", "elsewhere", "robustness")
        write_section("validation", found)
        write_card()
    show(content["metrics"])


if __name__ == "__main__":
    typer.run(main)
