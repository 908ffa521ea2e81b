"""Letters and colours of the patterns, and what a stack of layers is called; the page and the figures share them."""

from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np

from attention_patterns.labelling.summary.summary import StackSummary
from attention_patterns.patterns import PATTERNS
from attention_patterns.programs.terminal import COLOURS, LETTERS

COLOUR_ORDER = [COLOURS[pattern] for pattern in PATTERNS]
LETTER_ORDER = [LETTERS[pattern] for pattern in PATTERNS]
_MOST_GROUPS = 6  # of tokens, that a figure or a table has room for


def title_of(stack: StackSummary, among: Iterable[StackSummary]) -> str:
    """What tells the stack from the others: its task, and its model and part where they differ."""
    every = list(among)
    words = [stack.task]
    if len({other.model for other in every}) > 1:
        words.append(PurePosixPath(stack.model or "dumps").name)
    if len({other.part for other in every}) > 1:
        words.append(stack.part or "part not told")
    return " · ".join(words)


def groups_of(stack: StackSummary) -> list[str]:
    """The token groups to show: in order of appearance, the six that receive most attention."""
    means = {name: _mean(measures["share"]) for name, measures in stack.attention_to.items()}
    most = sorted(means, key=lambda name: -means[name])[:_MOST_GROUPS]
    return [name for name in stack.attention_to if name in most]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else 0.0
