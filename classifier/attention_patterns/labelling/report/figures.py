"""The figures of a run for a paper, PNG and SVG: shares, patterns by layer and head, attention to token groups."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D

from attention_patterns.labelling.report.palette import COLOUR_ORDER, LETTER_ORDER, groups_of, title_of, title_of_group
from attention_patterns.labelling.summary.summary import StackSummary
from attention_patterns.patterns import PATTERNS
from attention_patterns.programs.foreign_text import visible
from attention_patterns.programs.whole_files import write_whole

_MOST_STACKS = 12  # with figures of their own, those with most inputs
_MOST_ROWS = 60  # of the figure of shares
_LONGEST_TITLE = 48  # characters
_SQUARE = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])  # of a head at the origin
_CORNER = np.array([(0.5, -0.02), (0.5, 0.5), (-0.02, 0.5)])
_CELL = 0.26  # inches
_TALLEST = 9.0  # inches, of a grid
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "attention-patterns",  # the same run gives the same file
}


def write_figures(stacks: Sequence[StackSummary], folder: Path) -> list[Path]:
    """Writes the figures into ``folder``, in place of those of an earlier report; returns their paths.

    ``shares`` shows all stacks; ``patterns-01`` and ``attention-01`` show the first stack, and so on.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder.mkdir(exist_ok=True)
    for stale in (file for kind in ("shares", "patterns-*", "attention-*") for file in folder.glob(f"{kind}.*")):
        stale.unlink()
    written: list[Path] = []
    with _figure_style():
        for name, figure in _figures(stacks):
            FigureCanvasAgg(figure)
            for suffix in ("png", "svg"):
                content, metadata = io.BytesIO(), {"Date": None} if suffix == "svg" else {}
                figure.savefig(content, format=suffix, dpi=300, bbox_inches="tight", metadata=metadata)
                write_whole(folder / f"{name}.{suffix}", content.getvalue())
                written.append(folder / f"{name}.{suffix}")
    return written


@contextmanager
def _figure_style() -> Iterator[None]:
    """Sets matplotlib's style for these figures, and silences its warning of letters that it draws as boxes."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*", category=UserWarning)
        yield


def _figures(stacks: Sequence[StackSummary]) -> Iterator[tuple[str, Figure]]:
    if stacks:
        yield "shares", shares_figure(stacks)
    most = sorted(range(len(stacks)), key=lambda n: -stacks[n].inputs)[:_MOST_STACKS]
    for n in sorted(most):
        title = title_of(stacks[n], stacks)
        yield f"patterns-{n + 1:02}", patterns_figure(stacks[n], title)
        if groups_of(stacks[n]):
            yield f"attention-{n + 1:02}", attention_figure(stacks[n], title)


def shares_figure(stacks: Sequence[StackSummary]) -> Figure:
    """Draws the shares of the patterns, one row per stack (Kovaleva et al. 2019, figure 2), with 95 % intervals."""
    first = stacks[:_MOST_ROWS]
    rows = np.arange(len(first))
    figure = Figure(figsize=(7.2, 1.1 + 0.24 * len(first)), layout="constrained")
    axes = figure.subplots(1, 1 + len(PATTERNS), sharey=True, width_ratios=[2.2, *[1] * len(PATTERNS)])
    left = np.zeros(len(first))
    for n, pattern in enumerate(PATTERNS):
        share, low, high = (
            100 * np.array([getattr(stack.of_all, end)[n] for stack in first]) for end in ("share", "low", "high")
        )
        axes[0].barh(rows, share, left=left, color=COLOUR_ORDER[n], height=0.7, edgecolor="white", linewidth=0.5)
        left += np.nan_to_num(share)
        beside = axes[1 + n]
        reach = np.clip(np.nan_to_num([share - low, high - share]), 0, None)
        beside.errorbar(share, rows, xerr=reach, fmt="none", linewidth=6, color=COLOUR_ORDER[n])
        beside.plot(share, rows, "|", markersize=9, color="black")
        beside.xaxis.set_major_locator(MaxNLocator(2, integer=True))
        beside.set_title(f"{LETTER_ORDER[n]}  {pattern}".replace("+", "+\n"), loc="left", fontsize=7)
        beside.set_xlim(0, max(5.0, float(np.nanmax(np.nan_to_num([share, high]))) * 1.15))
        beside.grid(axis="x", linewidth=0.4, alpha=0.5)
        beside.tick_params(axis="y", left=False)
    titles = [visible(title_of(stack, stacks), longest=_LONGEST_TITLE) for stack in first]
    axes[0].set_yticks(rows, titles, parse_math=False)
    axes[0].invert_yaxis()
    axes[0].set_xlim(0, 100)
    axes[0].set_xlabel("per cent of the maps")
    return figure


def patterns_figure(stack: StackSummary, title: str) -> Figure:
    """Draws the commonest pattern of each head; a corner shows the second of a mixed head."""
    rows, columns = stack.counts.shape[:2]
    figure = Figure(figsize=_figure_size(rows, columns), layout="constrained")
    axes = figure.subplots()
    _draw_heads(axes, stack, size=_letter_size(rows, columns))
    _label_axes(axes, stack, title)
    marks = [Polygon([(0, 0)] * 3, facecolor=colour) for colour in COLOUR_ORDER]
    names = [f"{letter}  {pattern}" for letter, pattern in zip(LETTER_ORDER, PATTERNS, strict=True)]
    figure.legend(marks, names, loc="outside lower center", ncols=3 if columns < 16 else 5, frameon=False)
    return figure


def _draw_heads(axes: Axes, stack: StackSummary, *, size: float) -> None:
    """Draws squares, corners and letters, each kind as one collection, since a grid may hold a thousand heads."""
    ranked = np.argsort(-stack.counts, axis=-1, kind="stable")
    labelled = stack.counts.sum(axis=-1) > 0
    second_counts = np.take_along_axis(stack.counts, ranked[..., 1:2], axis=-1)[..., 0]
    squares, corners = np.argwhere(labelled), np.argwhere(labelled & ~stack.stable & (second_counts > 0))
    for shapes, places, rank, edge in ((_SQUARE, squares, 0, "white"), (_CORNER, corners, 1, "none")):
        colours = [COLOUR_ORDER[ranked[row, column, rank]] for row, column in places]
        outlines = [shapes + np.array([column, row]) for row, column in places]
        axes.add_collection(PolyCollection(outlines, facecolors=colours, edgecolors=edge, linewidths=0.5))
    for n, letter in enumerate(LETTER_ORDER):
        row, column = np.nonzero(labelled & (ranked[..., 0] == n))
        mark = TextPath((0, 0), letter, size=1)
        centred = mark.transformed(Affine2D().translate(*-mark.get_extents().get_points().mean(axis=0)))
        axes.scatter(column - 0.05, row, marker=centred, s=(1.1 * size) ** 2, color="black", linewidths=0)


def attention_figure(stack: StackSummary, title: str) -> Figure:
    """Draws ``max_token_share`` by layer and head, one panel per token group (Kovaleva et al. 2019, figure 6)."""
    groups, (rows, columns) = groups_of(stack), stack.counts.shape[:2]
    width, height = _figure_size(rows, columns)
    across = min(len(groups), 3)
    down = -(-len(groups) // across)
    figure = Figure(figsize=(min(width * across, 16) + 0.8, height * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, name in zip(panels, groups, strict=False):
        values = stack.attention_to[name].means["max_token_share"]
        picture = axes.imshow(values, cmap="Blues", vmin=0, aspect="equal", interpolation="nearest")
        _label_axes(axes, stack, title_of_group(stack, name))
        figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.02)
    for unused in panels[len(groups) :]:
        unused.set_visible(False)
    caption = f"{visible(title, longest=_LONGEST_TITLE)}: mean attention to the most attended token of a group"
    figure.suptitle(caption, parse_math=False, fontsize=9)
    return figure


def _figure_size(rows: int, columns: int) -> tuple[float, float]:
    cell = min(_CELL, _TALLEST / max(rows, columns, 1))
    return max(2.8, columns * cell + 0.9), max(1.8, rows * cell + 1.1)


def _letter_size(rows: int, columns: int) -> float:
    return min(8.0, 36 * _TALLEST / max(rows, columns))


def _label_axes(axes: Axes, stack: StackSummary, title: str) -> None:
    rows, columns = stack.counts.shape[:2]
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_aspect("equal")
    for ticks, names in ((axes.set_xticks, stack.heads), (axes.set_yticks, stack.layers)):
        step = 1 if len(names) <= 16 else 4
        places: Any = range(0, len(names), step)
        ticks(places, [str(names[n]) for n in places])
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title(visible(title, longest=_LONGEST_TITLE), loc="left", parse_math=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
