import numpy as np
import pytest

from attention_patterns import PATTERNS, ModelBundle, Pattern
from attention_patterns.rendering import CHANNELS, render
from tests.helpers.drawn_maps import bfloat16_bits, draw, random_maps

SIZE = ModelBundle.read().image_size  # pixels per side of the images that the shipped net reads


def around(length):
    return length - 1, length, length + 1


LENGTHS = (8, 9, 16, 31, 32, 33, *around(SIZE), 128, 512, 1024, 2048)


def draw_as_documented(attention, size=SIZE):
    """Renders a map as documented, in plain numpy, cell by cell."""
    length, maximum = len(attention), attention.max()
    cells = min(length, size)
    bounds = [c * length // cells for c in range(cells + 1)]
    shades = np.empty((CHANNELS, cells, cells))
    for r in range(cells):
        for c in range(cells):
            cell = attention[bounds[r] : bounds[r + 1], bounds[c] : bounds[c + 1]].astype(np.float64)
            v = 2.5 / length
            shades[:, r, c] = cell.max() / (cell.max() + v), cell.mean() / (cell.mean() + v), cell.max() / maximum
    pixel = np.arange(size) * cells // size
    return 255 * shades[:, pixel[:, None], pixel[None, :]]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 31, *around(SIZE), *around(2 * SIZE), 200])
def test_the_kernel_draws_as_documented(length):
    attention = random_maps(length, length, seed=length)
    image = render(attention, image_size=SIZE)[0]
    assert np.abs(image - draw_as_documented(attention)).max() <= 0.51  # rounding to a whole shade


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p is not Pattern.HETEROGENEOUS])
@pytest.mark.parametrize("ground", [0.02, 0.3])
def test_label_holds_at_every_length(classifier, pattern, ground):
    predictions = classifier.classify_maps([draw(pattern, length, ground) for length in LENGTHS])
    assert [p.pattern for p in predictions] == [pattern] * len(LENGTHS)


@pytest.mark.parametrize("pattern", [Pattern.VERTICAL, Pattern.DIAGONAL])
def test_one_token_stays_visible_at_every_length(pattern):
    """A stripe or line of one token is as dark at L = 2048 as at L = 32, in the maximum and in what the eye sees."""
    for length in LENGTHS:
        image = render(draw(pattern, length), image_size=SIZE)[0]
        line = image[:, :, 0] if pattern is Pattern.VERTICAL else image.max(axis=2)
        assert line[0].min() >= 170  # 128 is the visibility threshold
        assert line[2].min() >= 250
        assert line[1].min() >= np.median(image[1]) + 60  # and stands out in the mean


def test_a_short_map_is_enlarged_with_flat_cells():
    image = render(draw(Pattern.DIAGONAL, 16), image_size=SIZE)[0]
    cells = image.reshape(CHANNELS, 16, SIZE // 16, 16, SIZE // 16)
    assert (cells == cells[:, :, :1, :, :1]).all()


@pytest.mark.parametrize("length", [9, SIZE, 130])
def test_every_data_type_is_read_exactly(length):
    maps = random_maps(2, length, length, seed=5)
    half, brain = maps.astype(np.float16), bfloat16_bits(maps)
    as_float = (brain.astype(np.uint32) << 16).view(np.float32)
    assert (render(half, image_size=SIZE) == render(half.astype(np.float32), image_size=SIZE)).all()
    assert (render(brain, image_size=SIZE, data_type="bfloat16") == render(check_sums(as_float), image_size=SIZE)).all()
    assert np.abs(render(maps.astype(np.float64), image_size=SIZE) - 1.0 * render(maps, image_size=SIZE)).max() <= 1


def check_sums(values):
    """Returns the values, whose rows, cut to bfloat16, sum to 1 within the 1 % that float32 is allowed."""
    assert np.abs(values.sum(axis=-1) - 1).max() < 0.01
    return values


def test_float16_denormals_count():
    attention = np.full((40, 40), 2.0**-24, np.float16)  # the smallest float16
    attention[:, 3] = 1
    image = render(attention, image_size=SIZE)
    assert image[0, 2, 0, 0] == 0
    assert (image == render(attention.astype(np.float32), image_size=SIZE)).all()
