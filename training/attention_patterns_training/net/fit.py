"""The training of a net: synthetic maps teach the elements of the patterns, then the hand labels decide."""

from dataclasses import dataclass

import torch
from rich.progress import track
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.v2 import functional as vision

from attention_patterns.patterns import PATTERNS
from attention_patterns_training.net.examples import Examples
from attention_patterns_training.net.net import PatternNet

WEIGHT_DECAY = 1e-2
AVERAGING = 1 / 6  # of all steps: how far the running average of the weights reaches back


@dataclass(frozen=True)
class Course:
    """The course of training on one kind of examples.

    Attributes:
        title: Title of the progress bar.
        epochs: Passes over the examples.
        batch: Examples per step.
        rate: Highest learning rate, of AdamW under a one-cycle schedule.
        averaged: Whether the net ends with the running average of its weights instead of the last.
    """

    title: str
    epochs: int
    batch: int
    rate: float
    averaged: bool


SYNTHETIC = Course("synthetic maps", epochs=6, batch=128, rate=3e-3, averaged=False)
HAND_LABELS = Course("hand labels   ", epochs=24, batch=64, rate=1e-3, averaged=True)
DISTILLATION = Course("distillation  ", epochs=8, batch=64, rate=1e-3, averaged=True)  # on answers of other nets


def turn_half(images: torch.Tensor) -> torch.Tensor:
    """Turns half of the bidirectional maps by 180 degrees, which reads them from the last token to the first.

    Their class stays the same. A causal map is left alone; turned, it would attend to the future.
    """
    size = images.shape[-1]
    above = torch.triu(torch.ones(size, size, dtype=torch.bool), size // 8)
    turn = ((images[:, 0] > 0) & above).flatten(1).any(dim=1) & (torch.rand(len(images)) < 0.5)
    return torch.where(turn[:, None, None, None], vision.vertical_flip(vision.horizontal_flip(images)), images)


def fit(net: PatternNet, examples: Examples, course: Course) -> None:
    """Trains ``net`` in place; an example of a rarer class is drawn more often, by 1 / sqrt(examples of its class)."""
    images, targets = examples.images, examples.targets
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
            cross_entropy(net(turn_half(images[rows])), targets[rows]).backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
    if course.averaged:
        net.load_state_dict(average.module.state_dict())
    net.eval()


def logits_of(net: PatternNet, images: torch.Tensor) -> torch.Tensor:
    """Returns logits float32 [maps, 5]."""
    with torch.inference_mode():
        return torch.cat([net(some) for some in images.split(512)])
