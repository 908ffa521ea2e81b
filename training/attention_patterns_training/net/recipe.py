"""The way from labelled maps to nets. The shipped recipe was chosen among those of ``evaluation.ablation``.

Synthetic maps teach the elements of the patterns; nets that start from there learn the hand labels, each with a seed of
its own; and the mean of their answers is taught to one net, on the hand-labelled and on synthetic maps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from attention_patterns_training.labels.dataset import LabelledMaps
from attention_patterns_training.net.examples import (
    SYNTHETIC_MAPS,
    Examples,
    render_all,
    soft_targets,
    synthetic_examples,
)
from attention_patterns_training.net.fit import DISTILLATION, HAND_LABELS, SYNTHETIC, Course, fit, logits_of
from attention_patterns_training.net.net import Design, PatternNet


@dataclass(frozen=True)
class Recipe:
    """A way to make a net; the defaults are the shipped one.

    Attributes:
        design: Design of the net.
        pre_train: Whether the net sees synthetic maps first.
        targets: Targets that the hand labels of a data set are turned into.
        course: Course of training on the hand labels.
        nets: Number of nets that are trained on the hand labels.
        distil: Whether one net is made of them.
    """

    design: Design = field(default_factory=Design)
    pre_train: bool = True
    targets: Callable[[LabelledMaps], torch.Tensor] = soft_targets
    course: Course = HAND_LABELS
    nets: int = 3
    distil: bool = True


class NetMaker:
    """Makes nets from labelled maps; images and pre-trained weights are shared by the recipes of one design.

    Attributes:
        data: The labelled maps.
    """

    def __init__(self, data: LabelledMaps, *, synthetic_maps: int = SYNTHETIC_MAPS) -> None:
        self.data = data
        self._synthetic_maps = synthetic_maps
        self._images: dict[int, torch.Tensor] = {}
        self._synthetic: dict[int, Examples] = {}
        self._weights: dict[Design, dict[str, torch.Tensor]] = {}

    def make(self, recipe: Recipe, seed: int) -> list[PatternNet]:
        """Returns the trained nets: one if the recipe distils them, or else as many as it asks for."""
        size = recipe.design.image_size
        if size not in self._images:
            self._images[size] = render_all(self.data.maps, size)
        examples = Examples(self._images[size], recipe.targets(self.data))
        nets = []
        for number in range(recipe.nets):
            torch.manual_seed(100 * number + seed)
            nets.append(self._start(recipe))
            fit(nets[-1], examples, recipe.course)
        return [self._distil(nets, examples, recipe)] if recipe.distil else nets

    def _distil(self, nets: list[PatternNet], examples: Examples, recipe: Recipe) -> PatternNet:
        """Trains one net on the mean answer of several, which for labelled maps is averaged with their targets."""
        labelled = len(examples.images)
        images = torch.cat((examples.images, self._synthetic_examples(recipe.design.image_size).images[::4]))
        targets = torch.stack([logits_of(net, images).softmax(1) for net in nets]).mean(0)  # [maps, 5]
        targets[:labelled] = (targets[:labelled] + examples.targets) / 2
        student = self._start(recipe)
        fit(student, Examples(images, targets), DISTILLATION)
        return student

    def _synthetic_examples(self, size: int) -> Examples:
        if size not in self._synthetic:
            self._synthetic[size] = synthetic_examples(size, self._synthetic_maps)
        return self._synthetic[size]

    def _start(self, recipe: Recipe) -> PatternNet:
        """Returns a net to be trained; if it is pre-trained, all of one design start from the same weights."""
        net = PatternNet(recipe.design)
        if not recipe.pre_train:
            return net
        if recipe.design not in self._weights:
            fit(net, self._synthetic_examples(recipe.design.image_size), SYNTHETIC)
            self._weights[recipe.design] = {name: value.clone() for name, value in net.state_dict().items()}
        net.load_state_dict(self._weights[recipe.design])
        return net
