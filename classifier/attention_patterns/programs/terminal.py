"""Grids of patterns, shares and attention in the terminal: rich renderables made from plain arrays.

Colour only repeats what the letters of the patterns show.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.bar import Bar
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from attention_patterns.patterns import PATTERN_NAMES, PATTERNS, Pattern
from attention_patterns.programs.foreign_text import spell_out, visible

# Okabe and Ito's palette, which the colour-blind can tell apart; black letters are legible on all of it.
COLOURS = {
    Pattern.VERTICAL: "#e69f00",
    Pattern.DIAGONAL: "#56b4e9",
    Pattern.VERTICAL_DIAGONAL: "#009e73",
    Pattern.BLOCK: "#cc79a7",
    Pattern.HETEROGENEOUS: "#bbbbbb",
}
LETTERS = {
    Pattern.VERTICAL: "V",
    Pattern.DIAGONAL: "D",
    Pattern.VERTICAL_DIAGONAL: "X",  # a stripe crossed by a line
    Pattern.BLOCK: "B",
    Pattern.HETEROGENEOUS: "H",
}
_ROOMY, _COMPACT = 3, 2  # columns of a cell: "V8 " or "V "
_BAR = 30  # columns
_MOST_GROUPS = 6  # columns of an attention table that fit into 80
_LONGEST_GROUP = 40  # characters of a group's name
_EXPLANATIONS = {  # by whether the cells are roomy
    True: "The commonest pattern of the head; digit: tenths of the inputs that show it (none: all).",
    False: "The commonest pattern of the head; small letter: fewer than half of the inputs show it.",
}


class SafeConsole(Console):
    """A console for text that others wrote: none of it is markup, names an emoji or acts upon the terminal."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, *arguments: Any, **options: Any) -> Text:
        """Makes a text of a string, before rich measures it and drops what it takes for codes."""
        return super().render_str(_spell_out_lines(text), *arguments, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders an object to segments, and makes their text safe; those that control the terminal are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_spell_out_lines(segment.text))


def _spell_out_lines(text: str) -> str:
    return "\n".join(map(spell_out, text.split("\n")))


def show(*objects: object) -> None:
    """Prints objects on standard output through a ``SafeConsole``."""
    SafeConsole().print(*objects)


def pattern_counts(patterns: ArrayLike) -> NDArray[np.int64]:
    """Returns patterns by name [...] as counts [..., 5] in the order of ``Pattern``; counts stay as they are."""
    given = np.asarray(patterns)
    if given.dtype.kind != "U":
        return given.astype(np.int64)
    return np.asarray(given[..., None] == PATTERN_NAMES, np.int64)


@dataclass(frozen=True)
class PatternGrid:
    """A layer x head grid of the most frequent pattern of each head over one or many inputs.

    Attributes:
        counts: Number of inputs by pattern, [layers, heads, 5].
    """

    counts: NDArray[np.int64]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders cells with a digit where they fit, else without, in as many blocks of heads as the width needs."""
        layers, heads, _ = self.counts.shape
        margin = len(f"layer {layers - 1} ")
        roomy = margin + _ROOMY * heads <= options.max_width
        cell = _ROOMY if roomy else _COMPACT
        block = max(1, (options.max_width - margin) // cell)
        for begin in range(0, heads, block):
            yield from self._render_block(range(begin, min(begin + block, heads)), margin, roomy=roomy)
        if self.counts.sum(axis=-1).max() > 1:
            yield Text(_EXPLANATIONS[roomy], style="dim")

    def _render_block(self, heads: range, margin: int, *, roomy: bool) -> RenderResult:
        numbers = (
            (f"{head:<{_ROOMY}}" for head in heads) if roomy else (f"{head:<{4 * _COMPACT}}" for head in heads[::4])
        )
        yield Text("head".ljust(margin) + "".join(numbers), style="dim")
        for layer in range(len(self.counts)):
            line = Text(f"layer {layer}".ljust(margin), style="dim")
            for head in heads:
                line.append_text(_render_cell(self.counts[layer, head], roomy=roomy))
            yield line


def _render_cell(counts: NDArray[np.int64], *, roomy: bool) -> Text:
    total, best = int(counts.sum()), int(counts.argmax())
    if not total:
        return Text("·".ljust(_ROOMY if roomy else _COMPACT), style="dim")
    pattern, share = PATTERNS[best], counts[best] / total
    letter, style = LETTERS[pattern], f"not dim #000000 on {COLOURS[pattern]}"
    if roomy:
        digit = " " if share == 1 else str(int(share * 10))
        return Text.assemble((letter + digit, style), " ")
    return Text(f"{letter if share >= 1 / 2 else letter.lower():<{_COMPACT}}", style=style)


def pattern_grid(patterns: ArrayLike) -> PatternGrid:
    """Returns the grid of ``patterns`` by name, [layers, heads], or of counts over many inputs, [layers, heads, 5]."""
    return PatternGrid(pattern_counts(patterns))


def pattern_shares(patterns: ArrayLike) -> Table:
    """Returns a rich table of how often each pattern occurs, which is also the legend of the grid.

    Args:
        patterns: Patterns by name, [...], or counts, [..., 5].
    """
    totals = pattern_counts(patterns).reshape(-1, len(PATTERNS)).sum(axis=0)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading, justify in (("", "left"), ("pattern", "left"), ("maps", "right"), ("share", "right"), ("", "left")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for pattern, count in zip(PATTERNS, totals.tolist(), strict=True):
        share = count / max(1, totals.sum())
        letter = Text(f"{LETTERS[pattern]} ", style=f"not dim #000000 on {COLOURS[pattern]}")
        bar = Bar(size=1, begin=0, end=share, width=_BAR, color=COLOURS[pattern])
        table.add_row(letter, str(pattern), f"{count:,}", f"{share:.1%}", bar)
    return table


def attention_table(shares: Mapping[str, ArrayLike], *, inputs: Mapping[str, int] | None = None) -> Table:
    """Returns the table of the attention to groups of tokens by layer, mean over heads.

    Args:
        shares: Token group -> share of attention, [layers, heads]. The six groups with the most attention have a
            column, largest first.
        inputs: Token group -> number of inputs that its mean is over, for a row of them.
    """
    means = {group: np.asarray(share, np.float64).mean(axis=1) for group, share in shares.items()}
    groups = sorted(means, key=lambda group: -means[group].mean())[:_MOST_GROUPS]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("layer", justify="right")
    for group in groups:
        table.add_column(Text(visible(group, longest=_LONGEST_GROUP)), justify="right", no_wrap=True)
    for layer in range(len(means[groups[0]]) if groups else 0):
        table.add_row(str(layer), *(f"{means[group][layer]:.3f}" for group in groups))
    if groups:
        table.add_row("all", *(f"{means[group].mean():.3f}" for group in groups), style="bold")
    if groups and inputs:
        table.add_row("inputs", *(f"{inputs[group]:,}" for group in groups), style="dim")
    return table


def with_title(title: str, body: PatternGrid | Table) -> Group:
    """Returns a renderable under its title, with an empty line after it."""
    return Group(Text(visible(title), style="bold"), body, Text(""))
