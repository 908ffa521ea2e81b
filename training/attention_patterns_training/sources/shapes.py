"""Pictures drawn by a program, for the vision transformer among the source models."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE, PATCH = 56, 8  # pixels: 7 x 7 patches and [CLS] are 50 tokens
SHAPES = ("disc", "ring", "square", "cross", "triangle")


@dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes:
        pixels: float32 [3, 56, 56], -1 to 1.
        label: Four times the number of its shape, plus the quarter in which it lies.
    """

    pixels: NDArray[np.float32]
    label: int


def _draw(draw: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    middle = (left + right) // 2, (top + bottom) // 2
    if shape == "disc":
        draw.ellipse(box, fill=colour)
    elif shape == "ring":
        draw.ellipse(box, outline=colour, width=3)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    elif shape == "cross":
        draw.line((left, middle[1], right, middle[1]), fill=colour, width=4)
        draw.line((middle[0], top, middle[0], bottom), fill=colour, width=4)
    else:
        draw.polygon([(middle[0], top), (left, bottom), (right, bottom)], fill=colour)


def draw_shapes(rng: np.random.Generator) -> Picture:
    """Draws a picture of one shape among specks."""
    ground = tuple(int(v) for v in rng.integers(0, 256, 3))
    image = Image.new("RGB", (SIDE, SIDE), ground)
    draw = ImageDraw.Draw(image)
    shape = int(rng.integers(len(SHAPES)))
    colour = tuple((g + int(v)) % 256 for g, v in zip(ground, rng.integers(80, 176, 3), strict=True))
    for _ in range(int(rng.integers(0, 30))):  # specks that mean nothing
        x, y = (int(v) for v in rng.integers(0, SIDE, 2))
        draw.point((x, y), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    quarter = int(rng.integers(4))
    size = int(rng.integers(10, 22))
    x = quarter % 2 * SIDE // 2 + int(rng.integers(0, SIDE // 2 - size + 4))
    y = quarter // 2 * SIDE // 2 + int(rng.integers(0, SIDE // 2 - size + 4))
    _draw(draw, SHAPES[shape], (x, y, x + size, y + size), (colour[0], colour[1], colour[2]))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(1))
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1
    return Picture(pixels, shape * 4 + quarter)
