"""Trains the net and exports the model bundle: ``python -m attention_patterns_training.train [--output FOLDER]``, minutes on 2 cores.

Synthetic maps teach the elements of the patterns, then the hand labels of the training split decide
(``training.recipe``). The recipe was chosen on the validation split (``training.ablation``) and fixed: there is no
early stopping, and neither the test split, the held-out source nor any map from elsewhere is looked at. The
annotators' answers enter as soft labels. Temperature and the threshold of ``uncertain`` are set on validation maps;
``training.measure`` measures what was shipped.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich import print as show
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from attention_patterns.bundle import BUNDLED, ModelBundle
from attention_patterns.drift import deciles
from attention_patterns_training.evaluation.card import write_card
from attention_patterns_training.evaluation.evaluate import answers, figures, headline
from attention_patterns_training.evaluation.results import forget, write_section
from attention_patterns_training.labels.dataset import DATA, LabelledMaps, read_dataset
from attention_patterns_training.net.examples import hard_targets, images_of
from attention_patterns_training.net.export import export, write_json
from attention_patterns_training.net.fit import logits
from attention_patterns_training.net.net import Design, PatternNet
from attention_patterns_training.net.recipe import Recipe, Workshop

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
