"""The training of the shipped net and the export of its bundle, in minutes on 2 cores.

Synthetic maps teach the elements of the patterns, then the hand labels of the training split decide (``net.recipe``).
The recipe was chosen on the validation split (``evaluation.ablation``) and fixed: there is no early stopping, and
neither the test split, the held-out source nor any map from elsewhere is looked at. The annotators' answers enter as
soft labels. Temperature and the threshold of ``uncertain`` are set on validation maps; ``evaluation.measure`` measures
the shipped bundle.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from attention_patterns.bundle import BUNDLED, ModelBundle
from attention_patterns.drift import deciles
from attention_patterns.programs.terminal import show
from attention_patterns_training.evaluation.card import write_card
from attention_patterns_training.evaluation.evaluate import answer_maps, compute_figures, headline_figures
from attention_patterns_training.evaluation.results import drop_sections, write_section
from attention_patterns_training.labels.dataset import DATA, LabelledMaps, read_dataset
from attention_patterns_training.net.examples import hard_targets, render_all
from attention_patterns_training.net.export import export, write_json
from attention_patterns_training.net.fit import logits_of
from attention_patterns_training.net.net import Design, PatternNet
from attention_patterns_training.net.recipe import NetMaker, Recipe

SEED = 7
WANTED_ACCURACY, LEAST_COVERAGE = 0.97, 0.90  # of the maps that are not uncertain


def fit_temperature(net: PatternNet, design: Design, data: LabelledMaps) -> float:
    """Returns the temperature of the least cross-entropy on labelled maps (Guo et al. 2017, section 4.2)."""
    logits, targets = logits_of(net, render_all(data.maps, design.image_size)), hard_targets(data)
    optimum = minimize_scalar(lambda t: float(cross_entropy(logits / t, targets)), bounds=(0.3, 5.0), method="bounded")
    return float(optimum.x)


def fit_threshold(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Returns the lowest confidence above which answers are right often enough, or enough of them are left.

    Args:
        right: Whether the answer to each map is right, bool [maps].
        confidence: Probability of the answer, float64 [maps].
    """
    order = np.argsort(-confidence)
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(accuracy >= WANTED_ACCURACY)
    last = max(int(enough[-1]) if len(enough) else 0, int(LEAST_COVERAGE * len(order)) - 1)
    return float(confidence[order[last]])


def _read_labelled(folder: Path) -> LabelledMaps:
    """Reads the labelled maps of a data set, some of which must be to train on and some to validate."""
    data = read_dataset(folder)
    labelled = data.rows(np.flatnonzero(data.table["pattern"] != ""))
    for split in ("train", "validation"):
        if not len(labelled.split(split).maps):
            raise typer.BadParameter(f"{folder} holds no labelled map of split {split!r}; collect the answers first")
    return labelled


def train(*, output: Path = BUNDLED, folder: Path = DATA, threads: int = 2) -> None:
    """Trains, exports, and measures the exported bundle on the validation split.

    Args:
        output: Folder of the bundle; with that of the bundled model, the model card is written as well.
        folder: Folder of the labelled data set.
        threads: Threads of torch; another number changes the order of sums, and so the net.
    """
    torch.set_num_threads(threads)
    data, recipe = _read_labelled(folder), Recipe()
    training, validation = data.split("train"), data.split("validation")
    (net,) = NetMaker(training).make(recipe, SEED)
    export(
        net,
        recipe.design,
        output,
        temperature=fit_temperature(net, recipe.design, validation),
        dataset_sha256=hashlib.sha256((folder / "labels.csv").read_bytes()).hexdigest(),
    )
    answers = answer_maps(ModelBundle.read(output), validation)
    content = json.loads((output / "bundle.json").read_text(encoding="utf-8"))
    right = validation.table["pattern"].to_numpy(str) == answers.patterns
    content["uncertain_below"] = round(fit_threshold(right, answers.confidence), 4)
    figures = compute_figures(validation, answers, uncertain_below=content["uncertain_below"])
    content["metrics"] = headline_figures("validation", figures)
    content["reference"] = deciles(render_all(training.maps, recipe.design.image_size).numpy())
    write_json(output / "bundle.json", content)
    if output == BUNDLED:
        drop_sections("figures", "elsewhere", "robustness")
        write_section("validation", figures)
        write_card()
    show(content["metrics"])
