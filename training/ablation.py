"""Tries other designs and recipes and measures them on the validation split: ``python -m training.ablation``.

Each alternative is trained with three seeds on the training split alone; neither the test split, the held-out source
nor any map from elsewhere is looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich import print as show
from sklearn.metrics import accuracy_score, f1_score

from classifier.patterns import PATTERN_NAMES, PATTERNS, Pattern
from training.baselines import Rule, boosted_trees, features
from training.dataset import DATA, LabelledMaps, read_dataset
from training.examples import NAMES, hard_targets, images_of, soft_targets, synthetic_examples
from training.fit import DISTILLED, HAND_LABELS, SYNTHETIC, Course, fit, logits
from training.net import PLAIN, WIDTHS, Design, PatternNet
from training.results import read_results, write_section

SEEDS = (1, 2, 3)
BLOCK = PATTERNS.index(Pattern.BLOCK)
Targets = Callable[[LabelledMaps], torch.Tensor]


@dataclass(frozen=True)
class Alternative:
    """A way to make the net; the defaults are the shipped one."""

    design: Design = field(default_factory=Design)
    pre_train: bool = True
    targets: Targets = soft_targets
    course: Course = HAND_LABELS
    ensemble: int = 1
    distilled: bool = False


SHIPPED = Alternative()
ALTERNATIVES = {
    "shipped": SHIPPED,
    "images of 32 x 32": replace(SHIPPED, design=Design(32)),
    "images of 64 x 64": replace(SHIPPED, design=Design(64)),
    "images of 96 x 96": replace(SHIPPED, design=Design(96)),
    "the paper read plainly, 64 x 64": replace(SHIPPED, design=PLAIN),
    "half as many channels": replace(SHIPPED, design=Design(widths=tuple(w // 2 for w in WIDTHS))),
    "twice as many channels": replace(SHIPPED, design=Design(widths=tuple(w * 2 for w in WIDTHS))),
    "no pre-training": replace(SHIPPED, pre_train=False),
    "hard labels": replace(SHIPPED, targets=hard_targets),
    "last weights, not their average": replace(SHIPPED, course=replace(HAND_LABELS, averaged=False)),
    "three nets, probabilities averaged": replace(SHIPPED, ensemble=3),
    "three nets distilled into one": replace(SHIPPED, ensemble=3, distilled=True),
}


def answered(probabilities: NDArray[np.float32], data: LabelledMaps) -> NDArray[np.str_]:
    """The tool's answer: the first, but no Block on one segment."""
    allowed = probabilities.copy()
    allowed[~data.table["segments"].str.contains("+", regex=False), BLOCK] = -1
    return np.asarray(PATTERN_NAMES[allowed.argmax(axis=1)])


class Workbench:
    """What the alternatives share: rendered images and pre-trained weights, by design."""

    def __init__(self, data: LabelledMaps) -> None:
        self.train, self.validation = data.part("train"), data.part("validation")
        self._images: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._synthetic: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._weights: dict[Design, dict[str, torch.Tensor]] = {}

    def images(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images of the training and of the validation split."""
        if size not in self._images:
            self._images[size] = images_of(self.train.maps, size), images_of(self.validation.maps, size)
        return self._images[size]

    def synthetic(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Synthetic images and targets."""
        if size not in self._synthetic:
            self._synthetic[size] = synthetic_examples(size)
        return self._synthetic[size]

    def net(self, design: Design, *, pre_train: bool) -> PatternNet:
        """A new net, pre-trained once for each design."""
        net = PatternNet(design)
        if pre_train and design not in self._weights:
            fit(net, *self.synthetic(design.image_size), SYNTHETIC)
            self._weights[design] = {name: value.clone() for name, value in net.state_dict().items()}
        if pre_train:
            net.load_state_dict(self._weights[design])
        return net

    def probabilities(self, way: Alternative, seed: int) -> NDArray[np.float32]:
        """Probabilities float32 [maps, 5] for the validation split, of nets trained in this way."""
        images, validation = self.images(way.design.image_size)
        nets = []
        for number in range(way.ensemble):
            torch.manual_seed(100 * number + seed)
            nets.append(self.net(way.design, pre_train=way.pre_train))
            fit(nets[-1], images, way.targets(self.train), way.course)
        if way.distilled:
            synthetic, _ = self.synthetic(way.design.image_size)
            pool = torch.cat((images, synthetic[::4]))
            taught = torch.stack([logits(net, pool).softmax(1) for net in nets]).mean(0)
            taught[: len(images)] = 0.5 * taught[: len(images)] + 0.5 * way.targets(self.train)
            nets = [self.net(way.design, pre_train=way.pre_train)]
            fit(nets[0], pool, taught, DISTILLED)
        found: NDArray[np.float32] = torch.stack([logits(net, validation).softmax(1) for net in nets]).mean(0).numpy()
        return found


def baselines(bench: Workbench) -> dict[str, list[NDArray[np.str_]]]:
    """Answers of the two baselines for the validation split."""
    measured, labels = features(bench.train), np.array([NAMES.index(n) for n in bench.train.table["pattern"]])
    unseen = features(bench.validation)
    rule, trees = Rule.fitted(measured, labels), boosted_trees(measured, labels)
    names = np.array(NAMES)
    return {
        "the guide's rule on the evidence": [names[rule.answers(unseen)]],
        "boosted trees on the evidence": [names[trees.predict(unseen)]],
    }


def main(threads: Annotated[int, typer.Option(help="threads of torch")] = 2) -> None:
    """Trains and measures all alternatives that are not in the table yet, and keeps the table for the card."""
    torch.set_num_threads(threads)
    bench = Workbench(read_dataset(DATA))
    truth = bench.validation.table["pattern"].to_numpy(str)
    table = read_results().get("ablation", {})
    for name, way in ALTERNATIVES.items():
        if name not in table:
            table[name] = _figures(truth, [answered(bench.probabilities(way, s), bench.validation) for s in SEEDS])
            write_section("ablation", table)
        show(f"{name}: {table[name]}")
    for name, answer in baselines(bench).items():
        table[name] = _figures(truth, answer)
        show(f"{name}: {table[name]}")
    write_section("ablation", table)


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
