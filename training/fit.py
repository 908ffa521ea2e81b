"""Fits nets: synthetic maps teach the elements of the patterns, then the hand labels decide."""

import torch
from rich.progress import track
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.v2 import functional as vision

from classifier.patterns import PATTERNS
from training.net import PatternNet

SYNTHETIC_EPOCHS, SYNTHETIC_BATCH, SYNTHETIC_RATE = 6, 128, 3e-3
HAND_EPOCHS, HAND_BATCH, HAND_RATE = 24, 64, 1e-3
WEIGHT_DECAY = 1e-2
AVERAGING = 0.995  # of the running average of the weights, a step


def turned(images: torch.Tensor) -> torch.Tensor:
    """Half of the bidirectional maps, read from the last token to the first: turned by 180 degrees, same class.

    A causal map is left alone: turned, it would attend to the future.
    """
    size = images.shape[-1]
    above = torch.triu(torch.ones(size, size, dtype=torch.bool), size // 8)
    turn = ((images[:, 0] > 0) & above).flatten(1).any(dim=1) & (torch.rand(len(images)) < 0.5)
    return torch.where(turn[:, None, None, None], vision.vertical_flip(vision.horizontal_flip(images)), images)


def _fit(
    net: PatternNet,
    images: torch.Tensor,
    targets: torch.Tensor,
    *,
    epochs: int,
    batch: int,
    rate: float,
    averaged: bool,
    title: str,
) -> None:
    """Trains ``net`` in place; rarer classes are drawn more often, by the square root of how rare they are.

    ``averaged``: what remains is the running average of the weights, which varies less from seed to seed.
    """
    batch = min(batch, len(images))
    classes = targets.argmax(dim=1)
    chance = torch.bincount(classes, minlength=len(PATTERNS)).clamp(min=1).float().rsqrt()[classes]
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * (len(images) // batch))
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING), use_buffers=True)
    net.train()
    for _ in track(range(epochs), title):
        order = torch.multinomial(chance, len(images) // batch * batch, replacement=True)
        for rows in order.split(batch):
            optimizer.zero_grad()
            cross_entropy(net(turned(images[rows])), targets[rows]).backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
    if averaged:
        net.load_state_dict(average.module.state_dict())
    net.eval()


def fit_synthetic(net: PatternNet, images: torch.Tensor, targets: torch.Tensor) -> None:
    """Pre-trains on synthetic maps."""
    _fit(
        net,
        images,
        targets,
        epochs=SYNTHETIC_EPOCHS,
        batch=SYNTHETIC_BATCH,
        rate=SYNTHETIC_RATE,
        averaged=False,
        title="synthetic maps",
    )


def fit_hand_labels(net: PatternNet, images: torch.Tensor, targets: torch.Tensor, *, averaged: bool = True) -> None:
    """Trains on hand-labelled maps."""
    _fit(
        net,
        images,
        targets,
        epochs=HAND_EPOCHS,
        batch=HAND_BATCH,
        rate=HAND_RATE,
        averaged=averaged,
        title="hand labels   ",
    )


def fit_distilled(net: PatternNet, images: torch.Tensor, targets: torch.Tensor) -> None:
    """Trains on what other nets say of hand-labelled and synthetic maps."""
    _fit(
        net,
        images,
        targets,
        epochs=HAND_EPOCHS // 3,
        batch=HAND_BATCH,
        rate=HAND_RATE,
        averaged=True,
        title="distilled     ",
    )


def logits(net: PatternNet, images: torch.Tensor) -> torch.Tensor:
    """Logits float32 [maps, 5]."""
    with torch.inference_mode():
        return torch.cat([net(part) for part in images.split(512)])
