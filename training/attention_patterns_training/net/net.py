"""The net: eight convolutions with ReLU as in Kovaleva et al. 2019, section 4.1, kept small."""

from dataclasses import dataclass

import torch
from torch import nn

from attention_patterns.patterns import PATTERNS
from attention_patterns.rendering import CHANNELS

WIDTHS = (16, 16, 32, 32, 64, 64, 128, 128)  # channels of the eight convolutions
EARLY_STRIDES = (2, 1, 2, 1, 2, 1, 2, 1)  # each halving comes at the first convolution of a pair


@dataclass(frozen=True)
class Design:
    """The design of a net.

    Attributes:
        image_size: Pixels per side of the images it reads.
        widths: Channels of the eight convolutions.
        strides: Strides of the eight convolutions.
    """

    image_size: int = 48
    widths: tuple[int, ...] = WIDTHS
    strides: tuple[int, ...] = EARLY_STRIDES


PLAIN = Design(64, WIDTHS, (1, 2, 1, 2, 1, 2, 1, 2))  # the paper's words read plainly: the peer in speed


class PatternNet(nn.Module):
    """The net: images uint8 [maps, 3, S, S] -> logits float32 [maps, 5]."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in zip((CHANNELS, *design.widths), design.widths, design.strides, strict=False):
            layers.append(nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)  # [maps, 3, S, S] -> [maps, 128, S / 16, S / 16]
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(2 * design.widths[-1], len(PATTERNS))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logits of images."""
        features = self.convolutions(images.to(torch.float32) / 255.0)
        pooled = torch.cat((features.mean(dim=(2, 3)), features.amax(dim=(2, 3))), dim=1)  # [maps, 256]
        return torch.as_tensor(self.head(self.dropout(pooled)))


class Probabilities(nn.Module):
    """The net as it is exported: images uint8 -> probabilities, the softmax of its logits over a temperature."""

    def __init__(self, net: PatternNet, temperature: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns probabilities float32 [maps, 5], in the order of ``Pattern``."""
        return torch.softmax(self.net(images) / self.temperature, dim=1)
