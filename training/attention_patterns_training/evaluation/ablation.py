"""Other designs and recipes, trained on the training split and measured on the validation split.

Each alternative is trained with three seeds; neither the test split, the held-out source nor any map from elsewhere is
looked at.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

from attention_patterns.classification import answer_codes
from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.programs.terminal import show
from attention_patterns_training.evaluation.baselines import Rule, boosted_trees, features
from attention_patterns_training.evaluation.results import read_results, write_section
from attention_patterns_training.labels.dataset import LabelledMaps, read_dataset
from attention_patterns_training.net.examples import NAMES, hard_targets, render_all
from attention_patterns_training.net.fit import HAND_LABELS, logits_of
from attention_patterns_training.net.net import PLAIN, WIDTHS, Design, PatternNet
from attention_patterns_training.net.recipe import NetMaker, Recipe

SEEDS = (1, 2, 3)
PLAINLY = "one net, the paper read plainly, 64 x 64"
SINGLE = Recipe(nets=1, distil=False)  # a net trained on the hand labels itself: the others are compared with it
ALTERNATIVES = {
    "shipped": Recipe(),
    "one net, not distilled": SINGLE,
    "three nets, probabilities averaged": replace(SINGLE, nets=3),
    "one net, images of 32 x 32": replace(SINGLE, design=Design(32)),
    "one net, images of 64 x 64": replace(SINGLE, design=Design(64)),
    "one net, images of 96 x 96": replace(SINGLE, design=Design(96)),
    PLAINLY: replace(SINGLE, design=PLAIN),
    "one net, half as many channels": replace(SINGLE, design=Design(widths=tuple(w // 2 for w in WIDTHS))),
    "one net, twice as many channels": replace(SINGLE, design=Design(widths=tuple(w * 2 for w in WIDTHS))),
    "one net, no pre-training": replace(SINGLE, pre_train=False),
    "one net, hard labels": replace(SINGLE, targets=hard_targets),
    "one net, last weights, not their average": replace(SINGLE, course=replace(HAND_LABELS, averaged=False)),
}


def answer_names(probabilities: NDArray[np.float32], data: LabelledMaps) -> NDArray[np.str_]:
    """Returns the classifier's answers, strings [maps], for a net's probabilities, float32 [maps, 5]."""
    return np.asarray(PATTERN_NAMES[answer_codes(probabilities, one_segment=data.one_segment)])


def answer_by_baselines(train: LabelledMaps, validation: LabelledMaps) -> dict[str, list[NDArray[np.str_]]]:
    """Returns the answers of the two baselines to the validation split, one array per baseline."""
    measured, labels = features(train), np.array([NAMES.index(n) for n in train.table["pattern"]])
    unseen = features(validation)
    rule, trees = Rule.fit(measured, labels), boosted_trees(measured, labels)
    names = np.array(NAMES)
    return {
        "the guide's rule on the evidence": [names[rule.answer(unseen)]],
        "boosted trees on the evidence": [names[trees.predict(unseen)]],
    }


def ablate(*, threads: int = 2) -> None:
    """Trains and measures all alternatives without saved results, and saves the table for the model card."""
    torch.set_num_threads(threads)
    data = read_dataset()
    maker, validation = NetMaker(data.split("train")), data.split("validation")
    truth = validation.table["pattern"].to_numpy(str)
    table = read_results().get("ablation", {})
    for name, recipe in ALTERNATIVES.items():
        if name not in table:
            images = render_all(validation.maps, recipe.design.image_size)
            nets = (maker.make(recipe, seed) for seed in SEEDS)
            table[name] = _figures(truth, [answer_names(mean_probabilities(n, images), validation) for n in nets])
            write_section("ablation", table)
        show(f"{name}: {table[name]}")
    for name, answers in answer_by_baselines(maker.data, validation).items():
        table[name] = _figures(truth, answers)
        show(f"{name}: {table[name]}")
    write_section("ablation", table)


def mean_probabilities(nets: Sequence[PatternNet], images: torch.Tensor) -> NDArray[np.float32]:
    """Returns the mean of the nets' probabilities, float32 [maps, 5]."""
    return np.asarray(torch.stack([logits_of(net, images).softmax(1) for net in nets]).mean(0).numpy())


def _figures(truth: NDArray[np.str_], answers_of_seeds: list[NDArray[np.str_]]) -> dict[str, float]:
    f1 = [f1_score(truth, answers, average="macro") for answers in answers_of_seeds]
    accuracy = [accuracy_score(truth, answers) for answers in answers_of_seeds]
    return {
        "macro_f1": float(np.mean(f1)),
        "macro_f1_spread": float(np.ptp(f1)),
        "accuracy": float(np.mean(accuracy)),
        "nets": len(answers_of_seeds),
    }
