"""Images and targets to train on: of synthetic maps, and of maps labelled by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attention_patterns.patterns import PATTERN_NAMES, PATTERNS
from attention_patterns.rendering import render
from attention_patterns_training.labels.dataset import LabelledMaps
from attention_patterns_training.net.synthetic import draw_many

SYNTHETIC_MAPS, SYNTHETIC_SEED = 24_000, 7
SECOND_CHOICE = 0.25  # of an answer's weight goes to its second choice
NAMES = PATTERN_NAMES.tolist()


@dataclass(frozen=True)
class Examples:
    """Images uint8 [maps, 3, S, S] and targets float32 [maps, 5]."""

    images: torch.Tensor
    targets: torch.Tensor


def render_all(maps: Sequence[NDArray[np.floating]], image_size: int) -> torch.Tensor:
    """Returns images uint8 [maps, 3, S, S] of square maps of any sizes."""
    return torch.from_numpy(np.concatenate([render(attention, image_size=image_size) for attention in maps]))


def synthetic_examples(image_size: int, count: int = SYNTHETIC_MAPS) -> Examples:
    """Returns the images and targets of ``count`` synthetic maps."""
    drawn = draw_many(count, SYNTHETIC_SEED)
    targets = torch.eye(len(PATTERNS))[[PATTERNS.index(synthetic.pattern) for synthetic in drawn]]
    return Examples(render_all([synthetic.attention for synthetic in drawn], image_size), targets)


def soft_targets(data: LabelledMaps) -> torch.Tensor:
    """Returns targets float32 [maps, 5]: the mean of the label and each annotator's answer, with second choices."""
    targets = torch.zeros(len(data.maps), len(NAMES))
    for prefix in ("", "annotator_a", "annotator_b"):
        first_column, second_column = prefix or "pattern", f"{prefix}_second" if prefix else "second"
        for target, first, second in zip(targets, data.table[first_column], data.table[second_column], strict=True):
            if not first:  # this annotator did not answer
                continue
            doubt = SECOND_CHOICE if second not in ("", first) else 0.0
            target[NAMES.index(first)] += 1.0 - doubt
            if doubt:
                target[NAMES.index(second)] += doubt
    return targets / targets.sum(dim=1, keepdim=True)


def hard_targets(data: LabelledMaps) -> torch.Tensor:
    """Returns targets float32 [maps, 5]: the label alone."""
    return torch.eye(len(NAMES))[[NAMES.index(name) for name in data.table["pattern"]]]
