"""The net: eight convolutions with ReLU as in Kovaleva et al. 2019, section 4.1, kept small."""

import torch
from torch import nn

from classifier.patterns import PATTERNS
from classifier.rendering import CHANNELS

IMAGE_SIZE = 64  # pixels
WIDTHS = (16, 16, 32, 32, 64, 64, 128, 128)  # channels of the eight convolutions; every second one halves the image


class PatternNet(nn.Module):
    """Images uint8 [maps, 3, 64, 64] -> logits float32 [maps, 5]; 296,000 parameters, 27 MFLOP a map."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(zip((CHANNELS, *WIDTHS), WIDTHS, strict=False)):
            layers.append(nn.Conv2d(before, after, 3, stride=2 if k % 2 == 0 else 1, padding=1, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)  # [maps, 3, 64, 64] -> [maps, 128, 4, 4]
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(2 * WIDTHS[-1], len(PATTERNS))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the images."""
        features = self.convolutions(images.to(torch.float32) / 255.0)
        pooled = torch.cat((features.mean(dim=(2, 3)), features.amax(dim=(2, 3))), dim=1)  # [maps, 256]
        return torch.as_tensor(self.head(self.dropout(pooled)))


class Probabilities(nn.Module):
    """The net as it is exported: images uint8 -> probabilities."""

    def __init__(self, net: PatternNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 [maps, 5], in the order of ``Pattern``."""
        return torch.softmax(self.net(images), dim=1)
