import io
import re

import numpy as np
import pytest
from rich.console import Console

from attention_patterns import PATTERNS
from attention_patterns.programs.terminal import attention_table, pattern_grid, pattern_shares


def printed(renderable, width=80, color=None):
    console = Console(width=width, color_system=color, force_terminal=color is not None, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_a_grid_shows_a_letter_a_head():
    lines = printed(pattern_grid(np.array([list(PATTERNS)]))).splitlines()
    assert [line.rstrip() for line in lines] == ["head    0  1  2  3  4", "layer 0 V  D  X  B  H"]


def test_a_grid_of_many_inputs_shows_how_many_agree():
    counts = np.array([[[10, 0, 0, 0, 0], [7, 3, 0, 0, 0], [3, 2, 1, 0, 4], [0, 0, 0, 0, 0]]])
    lines = printed(pattern_grid(counts)).splitlines()
    assert lines[1].rstrip() == "layer 0 V  V7 H4 ·"
    assert "tenths of the inputs" in lines[2]


@pytest.mark.parametrize("width", [40, 80, 140])
@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (6, 12), (32, 32), (2, 64)])
def test_every_grid_fits_and_shows_every_head(width, layers, heads):
    counts = np.random.default_rng(0).multinomial(20, [0.5, 0.1, 0.2, 0.05, 0.15], (layers, heads))
    lines = printed(pattern_grid(counts), width).splitlines()
    assert max(map(len, lines)) <= width
    cells = "".join(re.sub(r"layer \d+ +", "", line) for line in lines if line.startswith("layer"))
    assert len(re.findall("[VDXBH]", cells, re.IGNORECASE)) == layers * heads


def test_colours_repeat_the_letters():
    shown = printed(pattern_grid(np.array([["Vertical"]])), color="truecolor")
    assert "48;2;230;159;0mV" in shown


def test_shares_count_names_and_counts_alike():
    names = np.array([["Vertical", "Vertical", "Block", "Diagonal"]])
    counts = np.array([[[2, 1, 0, 1, 0]]])
    assert printed(pattern_shares(names)) == printed(pattern_shares(counts))
    assert re.search(r"V +Vertical +2 +50\.0%", printed(pattern_shares(names)))


def test_attention_is_the_mean_over_heads_for_each_layer():
    shares = {"[CLS]": [[0.1, 0.3], [0.5, 0.5]], "[SEP]": [[0.8, 0.6], [0.4, 0.4]]}
    rows = [line.split() for line in printed(attention_table(shares)).splitlines()]
    assert rows == [
        ["layer", "[SEP]", "[CLS]"],
        ["0", "0.700", "0.200"],
        ["1", "0.400", "0.500"],
        ["all", "0.550", "0.350"],
    ]
    counted = printed(attention_table(shares, inputs={"[CLS]": 3, "[SEP]": 1100})).splitlines()
    assert counted[-1].split() == ["inputs", "1,100", "3"]
