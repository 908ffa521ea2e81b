"""The pictures of the model card: the reliability of its confidence, and typical and most confused maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter
from numpy.typing import NDArray

from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.rendering import render
from attention_patterns_training.evaluation.evaluate import Answers
from attention_patterns_training.labels.annotators import is_certain
from attention_patterns_training.labels.dataset import CODES, LabelledMaps

TYPICAL, CONFUSED = 4, 4  # maps of each class
PANEL = 110  # pixels, width of a map
BLUE, GREY = "#0072b2", "#777777"  # the colour-blind see the difference too
_CODE = {name: code for code, name in CODES.items()}


def draw_sureness(figures: Mapping[str, Any], uncertain_below: float, path: Path) -> None:
    """Draws the reliability diagram, and the accuracy of the answers against the share of maps answered."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    reliability, coverage = figure.subplots(1, 2)
    bins = figures["reliability"]
    most = max(b["maps"] for b in bins)
    reliability.plot([0.2, 1], [0.2, 1], color=GREY, linestyle="--", linewidth=1, label="sure as often as right")
    reliability.scatter(
        [b["confidence"] for b in bins],
        [b["accuracy"] for b in bins],
        s=[30 + 170 * b["maps"] / most for b in bins],
        color=BLUE,
        label="test maps, ten bins",
    )
    for b in bins:
        point = b["confidence"], b["accuracy"]
        reliability.annotate(str(b["maps"]), point, (8, -10), textcoords="offset points", fontsize=8)
    reliability.set(xlabel="confidence", ylabel="accuracy", title="Reliability", xlim=(0.2, 1.03), ylim=(0.2, 1.03))
    reliability.legend(loc="upper left", frameon=False)
    curve = figures["coverage_curve"]
    coverage.plot([p["coverage"] for p in curve], [p["accuracy"] for p in curve], color=BLUE)
    coverage.plot([figures["coverage"]], [figures["accuracy_answered"]], "o", color=BLUE)
    coverage.annotate(
        f"uncertain below {uncertain_below:.2f}",
        (figures["coverage"], figures["accuracy_answered"]),
        (-10, -14),
        textcoords="offset points",
        ha="right",
    )
    coverage.set(xlabel="maps answered", ylabel="accuracy among them", title="Coverage and accuracy", ylim=(0.8, 1.01))
    for axis in (coverage.xaxis, coverage.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_major_locator(MultipleLocator(0.1 if axis is coverage.xaxis else 0.05))
    for axes in (reliability, coverage):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_maps(data: LabelledMaps, answers: Answers, path: Path) -> None:
    """Draws for each class maps that annotators and model are sure of, and those most surely taken for another."""
    figure = Figure(figsize=(12, 8.2), layout="constrained")
    grid = figure.subplots(len(PATTERN_NAMES), TYPICAL + CONFUSED)
    truth, sure = data.table["pattern"].to_numpy(str), is_certain(data.table).to_numpy()
    right = truth == answers.patterns
    for line, name in zip(grid, PATTERN_NAMES, strict=True):
        typical = _find_surest(answers.confidence, (truth == name) & right & sure, TYPICAL)
        confused = _find_surest(answers.confidence, (truth == name) & ~right, CONFUSED)
        for axes, row in zip(line, [*_fill_up(typical, TYPICAL), *_fill_up(confused, CONFUSED)], strict=True):
            axes.set(xticks=[], yticks=[])
            if row is None:
                axes.set_axis_off()
                continue
            _show(axes, data.maps[row].astype(np.float32))
            title = f"{answers.confidence[row]:.2f}" + ("" if right[row] else f" {_CODE[answers.patterns[row]]}")
            axes.set_title(f"{title}  (L {len(data.maps[row])})", fontsize=9)
        line[0].set_ylabel(name, fontsize=10)
    figure.suptitle(f"{TYPICAL} typical maps of each class; {CONFUSED} most surely taken for another, and for which")
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _find_surest(confidence: NDArray[np.float64], which: NDArray[np.bool_], count: int) -> list[int]:
    rows = np.flatnonzero(which)
    return [int(row) for row in rows[np.argsort(-confidence[rows], kind="stable")][:count]]


def _fill_up(rows: list[int], count: int) -> list[int | None]:
    return [*rows, *[None] * (count - len(rows))]


def _show(axes: Axes, attention: NDArray[np.float32]) -> None:
    """Shows one map, white = 0, black = its maximum; of a long map each pixel shows its darkest cell."""
    size = min(len(attention), PANEL)
    axes.imshow(render(attention, image_size=size)[0, 2], cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
