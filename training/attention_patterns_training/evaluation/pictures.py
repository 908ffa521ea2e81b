"""The pictures of the model card: how sure the model may be, and typical and most confused maps."""

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
from attention_patterns_training.evaluation.evaluate import Answers, certain
from attention_patterns_training.labels.dataset import CODES, LabelledMaps

TYPICAL, CONFUSED = 4, 4  # maps of each class
PANEL = 110  # pixels a map is wide
BLUE, GREY = "#0072b2", "#777777"  # told apart by the colour-blind too
_CODE = {name: code for code, name in CODES.items()}


def draw_sureness(figures: Mapping[str, Any], uncertain_below: float, path: Path) -> None:
    """Reliability diagram, and accuracy of the answers against the share of maps answered."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    reliability, coverage = figure.subplots(1, 2)
    bins = figures["reliability"]
    most = max(one["maps"] for one in bins)
    reliability.plot([0.2, 1], [0.2, 1], color=GREY, linestyle="--", linewidth=1, label="sure as often as right")
    reliability.scatter(
        [one["confidence"] for one in bins],
        [one["accuracy"] for one in bins],
        s=[30 + 170 * one["maps"] / most for one in bins],
        color=BLUE,
        label="test maps, ten bins",
    )
    for one in bins:
        reliability.annotate(
            str(one["maps"]), (one["confidence"], one["accuracy"]), (8, -10), textcoords="offset points", fontsize=8
        )
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


def draw_maps(data: LabelledMaps, given: Answers, path: Path) -> None:
    """For each class maps that annotators and model are sure of, and those most surely taken for another class."""
    figure = Figure(figsize=(12, 8.2), layout="constrained")
    grid = figure.subplots(len(PATTERN_NAMES), TYPICAL + CONFUSED)
    truth, sure = data.table["pattern"].to_numpy(str), certain(data.table).to_numpy()
    right = truth == given.patterns
    for line, name in zip(grid, PATTERN_NAMES, strict=True):
        typical = _surest(given.confidence, (truth == name) & right & sure, TYPICAL)
        confused = _surest(given.confidence, (truth == name) & ~right, CONFUSED)
        for axes, row in zip(line, [*_filled(typical, TYPICAL), *_filled(confused, CONFUSED)], strict=True):
            axes.set(xticks=[], yticks=[])
            if row is None:
                axes.set_axis_off()
                continue
            _show(axes, data.maps[row].astype(np.float32))
            answered = f"{given.confidence[row]:.2f}" + ("" if right[row] else f" {_CODE[given.patterns[row]]}")
            axes.set_title(f"{answered}  (L {len(data.maps[row])})", fontsize=9)
        line[0].set_ylabel(name, fontsize=10)
    figure.suptitle(f"{TYPICAL} typical maps of each class; {CONFUSED} most surely taken for another, and for which")
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _surest(confidence: NDArray[np.float64], which: NDArray[np.bool_], count: int) -> list[int]:
    rows = np.flatnonzero(which)
    return [int(row) for row in rows[np.argsort(-confidence[rows], kind="stable")][:count]]


def _filled(rows: list[int], count: int) -> list[int | None]:
    return [*rows, *[None] * (count - len(rows))]


def _show(axes: Axes, attention: NDArray[np.float32]) -> None:
    """One map, white is 0, black its maximum; of a long map each pixel shows its darkest cell."""
    size = min(len(attention), PANEL)
    axes.imshow(render(attention, image_size=size)[0, 2], cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
