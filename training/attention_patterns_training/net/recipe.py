"""A recipe: how a net comes from labelled maps. The shipped one was chosen among those of ``training.ablation``.

Synthetic maps teach the elements of the patterns; nets that start from there learn the hand labels, each with a seed of
its own; and what they say together is taught to one net, on the hand-labelled and on synthetic maps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from attention_patterns_training.labels.dataset import LabelledMaps
from attention_patterns_training.net.examples import images_of, soft_targets, synthetic_examples
from attention_patterns_training.net.fit import DISTILLED, HAND_LABELS, SYNTHETIC, Course, fit, logits
from attention_patterns_training.net.net import Design, PatternNet

Examples = tuple[torch.Tensor, torch.Tensor]  # images uint8 [maps, 3, S, S], targets float32 [maps, 5]


@dataclass(frozen=True)
class Recipe:
    """One way to make a net; the defaults are the shipped one.

    Attributes:
        design: of the net.
        pre_train: on synthetic maps first.
        targets: what the hand labels of a data set ask for.
        course: of training on the hand labels.
        nets: how many are trained on the hand labels.
        distilled: whether one net is made of them.
    """

    design: Design = field(default_factory=Design)
    pre_train: bool = True
    targets: Callable[[LabelledMaps], torch.Tensor] = soft_targets
    course: Course = HAND_LABELS
    nets: int = 3
    distilled: bool = True


class Workshop:
    """Makes nets from labelled maps; what recipes share is rendered and pre-trained once for each design."""

    def __init__(self, data: LabelledMaps) -> None:
        self.data = data
        self._images: dict[int, torch.Tensor] = {}
        self._synthetic: dict[int, Examples] = {}
        self._weights: dict[Design, dict[str, torch.Tensor]] = {}

    def nets(self, recipe: Recipe, seed: int) -> list[PatternNet]:
        """The trained nets: one where it is distilled, or else as many as the recipe asks for."""
        size = recipe.design.image_size
        if size not in self._images:
            self._images[size] = images_of(self.data.maps, size)
        images, targets = self._images[size], recipe.targets(self.data)
        made = []
        for number in range(recipe.nets):
            torch.manual_seed(100 * number + seed)
            made.append(self._start(recipe))
            fit(made[-1], images, targets, recipe.course)
        if not recipe.distilled:
            return made
        pool = torch.cat((images, self._examples(size)[0][::4]))
        taught = torch.stack([logits(net, pool).softmax(1) for net in made]).mean(0)  # [maps, 5]
        taught[: len(images)] = (taught[: len(images)] + targets) / 2
        one = self._start(recipe)
        fit(one, pool, taught, DISTILLED)
        return [one]

    def _examples(self, size: int) -> Examples:
        if size not in self._synthetic:
            self._synthetic[size] = synthetic_examples(size)
        return self._synthetic[size]

    def _start(self, recipe: Recipe) -> PatternNet:
        """A new net; where it is pre-trained, all of one design start from the same weights."""
        net = PatternNet(recipe.design)
        if not recipe.pre_train:
            return net
        if recipe.design not in self._weights:
            fit(net, *self._examples(recipe.design.image_size), SYNTHETIC)
            self._weights[recipe.design] = {name: value.clone() for name, value in net.state_dict().items()}
        net.load_state_dict(self._weights[recipe.design])
        return net
