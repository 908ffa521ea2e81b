"""Tries other designs and recipes and measures them on the validation split: ``python -m attention_patterns_training.evaluation.ablation``.

Each alternative is trained with three seeds on the training split alone; neither the test split, the held-out source
nor any map from elsewhere is looked at.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich import print as show
from sklearn.metrics import accuracy_score, f1_score

from attention_patterns.patterns import PATTERN_NAMES, PATTERNS, Pattern
from attention_patterns_training.evaluation.baselines import Rule, boosted_trees, features
from attention_patterns_training.evaluation.results import read_results, write_section
from attention_patterns_training.labels.dataset import DATA, LabelledMaps, read_dataset
from attention_patterns_training.net.examples import NAMES, hard_targets, images_of
from attention_patterns_training.net.fit import HAND_LABELS, logits
from attention_patterns_training.net.net import PLAIN, WIDTHS, Design, PatternNet
from attention_patterns_training.net.recipe import Recipe, Workshop

SEEDS = (1, 2, 3)
BLOCK = PATTERNS.index(Pattern.BLOCK)
PLAINLY = "one net, the paper read plainly, 64 x 64"
ONE = Recipe(nets=1, distilled=False)  # a net trained on the hand labels itself: the others are compared with it
ALTERNATIVES = {
    "shipped": Recipe(),
    "one net, not distilled": ONE,
    "three nets, probabilities averaged": replace(ONE, nets=3),
    "one net, images of 32 x 32": replace(ONE, design=Design(32)),
    "one net, images of 64 x 64": replace(ONE, design=Design(64)),
    "one net, images of 96 x 96": replace(ONE, design=Design(96)),
    PLAINLY: replace(ONE, design=PLAIN),
    "one net, half as many channels": replace(ONE, design=Design(widths=tuple(w // 2 for w in WIDTHS))),
    "one net, twice as many channels": replace(ONE, design=Design(widths=tuple(w * 2 for w in WIDTHS))),
    "one net, no pre-training": replace(ONE, pre_train=False),
    "one net, hard labels": replace(ONE, targets=hard_targets),
    "one net, last weights, not their average": replace(ONE, course=replace(HAND_LABELS, averaged=False)),
}


def answered(probabilities: NDArray[np.float32], data: LabelledMaps) -> NDArray[np.str_]:
    """The tool's answer: the first, but no Block on one segment."""
    allowed = probabilities.copy()
    allowed[~data.table["segments"].str.contains("+", regex=False), BLOCK] = -1
    return np.asarray(PATTERN_NAMES[allowed.argmax(axis=1)])


def baselines(train: LabelledMaps, validation: LabelledMaps) -> dict[str, list[NDArray[np.str_]]]:
    """Answers of the two baselines for the validation split."""
    measured, labels = features(train), np.array([NAMES.index(n) for n in train.table["pattern"]])
    unseen = features(validation)
    rule, trees = Rule.fitted(measured, labels), boosted_trees(measured, labels)
    names = np.array(NAMES)
    return {
        "the guide's rule on the evidence": [names[rule.answers(unseen)]],
        "boosted trees on the evidence": [names[trees.predict(unseen)]],
    }


def main(threads: Annotated[int, typer.Option(help="threads of torch")] = 2) -> None:
    """Trains and measures all alternatives that are not in the table yet, and keeps the table for the card."""
    torch.set_num_threads(threads)
    data = read_dataset(DATA)
    workshop, validation = Workshop(data.part("train")), data.part("validation")
    truth = validation.table["pattern"].to_numpy(str)
    table = read_results().get("ablation", {})
    for name, recipe in ALTERNATIVES.items():
        if name not in table:
            images = images_of(validation.maps, recipe.design.image_size)
            given = [answered(probabilities(workshop.nets(recipe, seed), images), validation) for seed in SEEDS]
            table[name] = _figures(truth, given)
            write_section("ablation", table)
        show(f"{name}: {table[name]}")
    for name, answer in baselines(workshop.data, validation).items():
        table[name] = _figures(truth, answer)
        show(f"{name}: {table[name]}")
    write_section("ablation", table)


def probabilities(nets: Sequence[PatternNet], images: torch.Tensor) -> NDArray[np.float32]:
    """Mean of the nets' probabilities, float32 [maps, 5]."""
    return np.asarray(torch.stack([logits(net, images).softmax(1) for net in nets]).mean(0).numpy())


def _figures(truth: NDArray[np.str_], found: list[NDArray[np.str_]]) -> dict[str, float]:
    f1 = [f1_score(truth, answer, average="macro") for answer in found]
    accuracy = [accuracy_score(truth, answer) for answer in found]
    return {
        "macro_f1": float(np.mean(f1)),
        "macro_f1_spread": float(np.ptp(f1)),
        "accuracy": float(np.mean(accuracy)),
        "nets": len(found),
    }


if __name__ == "__main__":
    typer.run(main)
