"""Fits nets: synthetic maps teach the elements of the patterns, then the hand labels decide."""

from dataclasses import dataclass

import torch
from rich.progress import track
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.v2 import functional as vision

from attention_patterns.patterns import PATTERNS
from attention_patterns_training.net.net import PatternNet

WEIGHT_DECAY = 1e-2
AVERAGING = 1 / 6  # of all steps is how far the running average of the weights reaches back


@dataclass(frozen=True)
class Course:
    """How a net is trained on one kind of examples.

    Attributes:
        title: what the progress bar says.
        epochs: passes over the examples.
        batch: examples a step.
        rate: highest learning rate, of AdamW under a one-cycle schedule.
        averaged: what remains is the running average of the weights.
    """

    title: str
    epochs: int
    batch: int
    rate: float
    averaged: bool


SYNTHETIC = Course("synthetic maps", epochs=6, batch=128, rate=3e-3, averaged=False)
HAND_LABELS = Course("hand labels   ", epochs=24, batch=64, rate=1e-3, averaged=True)
DISTILLED = Course("distilled     ", epochs=8, batch=64, rate=1e-3, averaged=True)  # on what other nets say


def turned(images: torch.Tensor) -> torch.Tensor:
    """Half of the bidirectional maps, read from the last token to the first: turned by 180 degrees, same class.

    A causal map is left alone: turned, it would attend to the future.
    """
    size = images.shape[-1]
    above = torch.triu(torch.ones(size, size, dtype=torch.bool), size // 8)
    turn = ((images[:, 0] > 0) & above).flatten(1).any(dim=1) & (torch.rand(len(images)) < 0.5)
    return torch.where(turn[:, None, None, None], vision.vertical_flip(vision.horizontal_flip(images)), images)


def fit(net: PatternNet, images: torch.Tensor, targets: torch.Tensor, course: Course) -> None:
    """Trains ``net`` in place; rarer classes are drawn more often, by the square root of how rare they are."""
    batch = min(course.batch, len(images))
    classes = targets.argmax(dim=1)
    chance = torch.bincount(classes, minlength=len(PATTERNS)).clamp(min=1).float().rsqrt()[classes]
    optimizer = torch.optim.AdamW(net.parameters(), lr=course.rate, weight_decay=WEIGHT_DECAY)
    steps = course.epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, course.rate, total_steps=steps)
    decay = 1 - 1 / max(2.0, AVERAGING * steps)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    net.train()
    for _ in track(range(course.epochs), course.title):
        order = torch.multinomial(chance, len(images) // batch * batch, replacement=True)
        for rows in order.split(batch):
            optimizer.zero_grad()
            cross_entropy(net(turned(images[rows])), targets[rows]).backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
    if course.averaged:
        net.load_state_dict(average.module.state_dict())
    net.eval()


def logits(net: PatternNet, images: torch.Tensor) -> torch.Tensor:
    """Logits float32 [maps, 5]."""
    with torch.inference_mode():
        return torch.cat([net(part) for part in images.split(512)])
