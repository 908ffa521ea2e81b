"""Trains the net and exports the model bundle: ``python -m training.train [--output FOLDER]``, 3 minutes on 2 cores.

Synthetic maps teach the elements of the patterns, then the hand labels of the training split decide: first the former
alone, then the latter alone. The recipe is fixed beforehand: there is no early stopping, and neither the test split nor
any map from elsewhere is looked at. A second choice of the annotators enters as a soft label.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import typer
from rich import print as show
from rich.progress import track
from torch.nn.functional import cross_entropy
from torchvision.transforms.v2 import functional as vision

from classifier.bundle import BUNDLED, ModelBundle
from classifier.patterns import PATTERN_NAMES, PATTERNS
from classifier.rendering import CHANNELS, RENDERING_VERSION, render
from training.card import write_card
from training.dataset import DATA, LabelledMaps, read_dataset
from training.evaluate import annotator_figures, split_figures
from training.net import IMAGE_SIZE, PatternNet, Probabilities
from training.synthetic import draw_many

NAME, VERSION = "attention-patterns-cnn", "0.1.0"
SEED = 7
SYNTHETIC_MAPS, SYNTHETIC_EPOCHS, SYNTHETIC_BATCH, SYNTHETIC_RATE = 24_000, 6, 128, 3e-3
HAND_EPOCHS, HAND_BATCH, HAND_RATE = 40, 64, 1e-3
SECOND_CHOICE = 0.25  # of a label's weight goes to the second choice
WEIGHT_DECAY = 1e-2


def images_of(maps: list[np.ndarray]) -> torch.Tensor:
    """Images uint8 [maps, 3, 64, 64] of square maps of any sizes."""
    return torch.from_numpy(np.concatenate([render(one, image_size=IMAGE_SIZE) for one in maps]))


def synthetic_examples() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and targets float32 [maps, 5] of the synthetic maps."""
    drawn = draw_many(SYNTHETIC_MAPS, SEED)
    targets = torch.eye(len(PATTERNS))[[PATTERNS.index(one.pattern) for one in drawn]]
    return images_of([one.attention for one in drawn]), targets


def hand_labelled_examples(data: LabelledMaps) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and soft targets float32 [maps, 5] of hand-labelled maps."""
    names = PATTERN_NAMES.tolist()
    targets = torch.zeros(len(data.maps), len(names))
    for target, first, second in zip(targets, data.table["pattern"], data.table["second"], strict=True):
        target[names.index(first)] = 1.0
        if second not in ("", first):
            target[names.index(first)] = 1.0 - SECOND_CHOICE
            target[names.index(second)] = SECOND_CHOICE
    return images_of(list(data.maps)), targets


def turned(images: torch.Tensor) -> torch.Tensor:
    """Half of the bidirectional maps, read from the last token to the first: turned by 180 degrees, same class.

    A causal map is left alone: turned, it would attend to the future.
    """
    above = torch.triu(torch.ones(IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool), IMAGE_SIZE // 8)
    turn = ((images[:, 0] > 0) & above).flatten(1).any(dim=1) & (torch.rand(len(images)) < 0.5)
    return torch.where(turn[:, None, None, None], vision.vertical_flip(vision.horizontal_flip(images)), images)


def fit(
    net: PatternNet, images: torch.Tensor, targets: torch.Tensor, *, epochs: int, batch: int, rate: float, title: str
) -> None:
    """Trains ``net`` in place; rarer classes are drawn more often, by the square root of how rare they are."""
    classes = targets.argmax(dim=1)
    chance = torch.bincount(classes, minlength=len(PATTERNS)).clamp(min=1).float().rsqrt()[classes]
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * (len(images) // batch))
    net.train()
    for _ in track(range(epochs), title):
        order = torch.multinomial(chance, len(images) // batch * batch, replacement=True)
        for rows in order.split(batch):
            optimizer.zero_grad()
            cross_entropy(net(turned(images[rows])), targets[rows]).backward()
            optimizer.step()
            schedule.step()
    net.eval()


def export(net: PatternNet, folder: Path, *, dataset_sha256: str) -> None:
    """Writes ``model.onnx`` and a ``bundle.json`` without metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    maps = torch.export.Dim("maps", min=1)
    example = torch.zeros(2, CHANNELS, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    program = torch.onnx.export(
        Probabilities(net).eval(),
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
        "image_size": IMAGE_SIZE,
        "channels": CHANNELS,
        "rendering_version": RENDERING_VERSION,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "dataset_sha256": dataset_sha256,
        "metrics": {},
    }
    _write_json(folder / "bundle.json", content)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's stack traces, which hold the paths of the machine it ran on."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(
    output: Annotated[Path, typer.Option(help="the bundle's folder")] = BUNDLED,
    folder: Annotated[Path, typer.Option(help="the labelled data set")] = DATA,
    threads: Annotated[int, typer.Option(help="cores to use; another number sums in another order", min=1)] = 2,
) -> None:
    """Trains, exports, measures the exported bundle and writes its card."""
    torch.manual_seed(SEED)
    torch.set_num_threads(threads)
    data = read_dataset(folder)
    net = PatternNet()
    images, targets = synthetic_examples()
    fit(
        net,
        images,
        targets,
        epochs=SYNTHETIC_EPOCHS,
        batch=SYNTHETIC_BATCH,
        rate=SYNTHETIC_RATE,
        title="synthetic maps",
    )
    images, targets = hand_labelled_examples(data.part("train"))
    fit(net, images, targets, epochs=HAND_EPOCHS, batch=HAND_BATCH, rate=HAND_RATE, title="hand labels   ")
    export(net, output, dataset_sha256=hashlib.sha256((folder / "labels.csv").read_bytes()).hexdigest())

    bundle = ModelBundle.read(output)
    metrics = split_figures(bundle, data, "validation") | split_figures(bundle, data, "test") | annotator_figures(data)
    content = json.loads((output / "bundle.json").read_text(encoding="utf-8")) | {"metrics": metrics}
    _write_json(output / "bundle.json", content)
    write_card(ModelBundle.read(output))
    show({name: value for name, value in metrics.items() if name.endswith(("macro_f1", "accuracy", "kappa", "_maps"))})


if __name__ == "__main__":
    typer.run(main)
