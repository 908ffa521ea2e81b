"""Letters and colours of the patterns, names of stacks and choice of token groups; page and figures share them."""

from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np

from attention_patterns.labelling.summary.summary import StackSummary
from attention_patterns.patterns import PATTERNS
from attention_patterns.programs.terminal import COLOURS, LETTERS

COLOUR_ORDER = [COLOURS[pattern] for pattern in PATTERNS]
LETTER_ORDER = [LETTERS[pattern] for pattern in PATTERNS]
_MOST_GROUPS = 6  # of tokens, in a figure or a table


def title_of(stack: StackSummary, among: Iterable[StackSummary]) -> str:
    """Returns a title that distinguishes a stack: its task, and its model and part where those differ."""
    stacks = list(among)
    words = [stack.task]
    if len({other.model for other in stacks}) > 1:
        words.append(PurePosixPath(stack.model or "dumps").name)
    if len({other.part for other in stacks}) > 1:
        words.append(stack.part or "unknown part")
    return " · ".join(words)


def groups_of(stack: StackSummary) -> list[str]:
    """Returns the six token groups that receive most attention, in order of appearance."""
    means = {name: _mean(group.means["share"]) for name, group in stack.attention_to.items()}
    most = sorted(means, key=lambda name: -means[name])[:_MOST_GROUPS]
    return [name for name in stack.attention_to if name in most]


def title_of_group(stack: StackSummary, name: str) -> str:
    """Returns the name of a token group, with the number of inputs that hold it where not all do."""
    inputs = stack.attention_to[name].inputs
    return name if inputs == stack.inputs else f"{name}, over {inputs:,} of {stack.inputs:,} inputs"


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else 0.0
