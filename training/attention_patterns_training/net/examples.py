"""Images and targets to train on: of synthetic maps, and of hand-labelled ones."""

from collections.abc import Sequence

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


def images_of(maps: Sequence[NDArray[np.floating]], image_size: int) -> torch.Tensor:
    """Images uint8 [maps, 3, S, S] of square maps of any sizes."""
    return torch.from_numpy(np.concatenate([render(one, image_size=image_size) for one in maps]))


def synthetic_examples(image_size: int, count: int = SYNTHETIC_MAPS) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and targets float32 [maps, 5] of the synthetic maps."""
    drawn = draw_many(count, SYNTHETIC_SEED)
    targets = torch.eye(len(PATTERNS))[[PATTERNS.index(one.pattern) for one in drawn]]
    return images_of([one.attention for one in drawn], image_size), targets


def soft_targets(data: LabelledMaps) -> torch.Tensor:
    """Targets float32 [maps, 5]: the mean of the final label and each annotator's answer, with second choices."""
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
    """Targets float32 [maps, 5]: the final label alone."""
    return torch.eye(len(NAMES))[[NAMES.index(name) for name in data.table["pattern"]]]
