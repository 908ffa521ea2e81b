"""The numbers and maps that the page's scripts draw from, as plain values: stacks, and the maps of a few inputs.

Fractions are whole thousandths, null where there is none; every list of a stack is by layer and then by head.
"""

import base64
import io
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.output.table import HEAD_GROUP_MEASURES, HEAD_MEASURES
from attention_patterns.labelling.report.examples import Example, choose, read_examples
from attention_patterns.labelling.report.palette import COLOUR_ORDER, LETTER_ORDER, groups_of, title_of
from attention_patterns.labelling.summary.summary import StackSummary
from attention_patterns.measures import EVIDENCE
from attention_patterns.patterns import PATTERNS
from attention_patterns.programs.foreign_text import visible

STACK_BYTES = 1_800_000  # of the page, for the numbers of all stacks
ALL_BYTES = 7_000_000  # of the page, for numbers and maps; the whole page is under 8 MB then
_FINE, _COARSE = 4, 8  # steps between shades; finer ones, which no eye sees, would take a third of the bytes
_FEWEST_CELLS = 12  # on a side of a map that is still legible
_MANY = 400  # heads, above which maps have coarse shades
_LONGEST_TOKEN, _LONGEST_NAME, _MOST_WARNINGS = 40, 200, 5


def contents(folder: RunFolder, stacks: Sequence[StackSummary]) -> dict[str, Any]:
    """Returns the values that the scripts draw from; stacks without room are left out and counted."""
    entries: list[dict[str, Any]] = []
    room = STACK_BYTES
    for stack in stacks:
        entry = stack_entry(stack, title_of(stack, stacks))
        room -= size_of(entry)
        if room < 0 and entries:
            break
        entries.append(entry)
    _add_examples(folder, stacks, entries)
    patterns = [
        {"name": str(pattern), "letter": letter, "colour": colour}
        for pattern, letter, colour in zip(PATTERNS, LETTER_ORDER, COLOUR_ORDER, strict=True)
    ]
    measures = [{"name": name, "label": EVIDENCE[name].label, "unit": EVIDENCE[name].unit} for name in HEAD_MEASURES]
    return {"patterns": patterns, "measures": measures, "stacks": entries, "left": len(stacks) - len(entries)}


def size_of(value: Any) -> int:
    """Returns the bytes of a value as JSON on the page."""
    return len(as_json(value).encode())


def as_json(value: Any) -> str:
    """Returns JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def stack_entry(stack: StackSummary, title: str) -> dict[str, Any]:
    """Returns the numbers of a stack, by layer and head, without examples."""
    return {
        "title": _name(title),
        "task": _name(stack.task),
        "model": stack.model and _name(stack.model),
        "part": stack.part,
        "inputs": stack.inputs,
        "length": round(stack.mean_length, 1),
        "layers": list(stack.layers),
        "heads": list(stack.heads),
        "counts": stack.counts.ravel().tolist(),
        "low": thousandths(stack.of_heads.low),
        "high": thousandths(stack.of_heads.high),
        "uncertain": thousandths(stack.uncertain),
        "entropy": thousandths(stack.entropy),
        "stable": "".join(map(str, stack.stable.ravel().astype(int))),
        "measures": {name: thousandths(values) for name, values in stack.measures.items()},
        "groups": [_group_entry(stack, name) for name in groups_of(stack)],
        "examples": [],
    }


def _group_entry(stack: StackSummary, group: str) -> dict[str, Any]:
    summary = stack.attention_to[group]
    means = {name: thousandths(summary.means[name]) for name in HEAD_GROUP_MEASURES}
    return {"name": _name(group), "inputs": summary.inputs, **means}


def thousandths(values: NDArray[np.floating[Any]]) -> list[int | None]:
    """Returns values [...] as whole thousandths, flat; None for NaN."""
    return [None if value != value else round(1000 * value) for value in values.ravel().tolist()]  # noqa: PLR0124  NaN


def _add_examples(folder: RunFolder, stacks: Sequence[StackSummary], entries: Sequence[dict[str, Any]]) -> None:
    """Gives each stack as many examples as fit into its share of the room; the next may use what one leaves."""
    choices, room = choose(folder), ALL_BYTES - sum(map(size_of, entries))
    for n, (stack, entry) in enumerate(zip(stacks, entries, strict=False)):
        key = (stack.task, stack.model, stack.part)
        if key not in choices:
            continue
        left = room // (len(entries) - n)
        taken: dict[str, dict[str, Any]] = {}
        for example in read_examples(folder, key, choices[key]):
            maps = example_entry(example, stack)
            while size_of(maps) > left and not taken and maps["cells"] > _FEWEST_CELLS:
                maps = example_entry(example, stack, cells=-(-maps["cells"] // 2))  # one coarse map rather than none
            left -= (cost := size_of(maps))
            if left < 0:
                break
            room -= cost
            taken[example.input_id] = maps
        entry["examples"] = [taken[input_id] for input_id in choices[key].order if input_id in taken]


def example_entry(example: Example, stack: StackSummary, *, cells: int | None = None) -> dict[str, Any]:
    """Returns an input's answers, and its maps as one picture per layer, the heads below each other.

    Args:
        example: Input to show.
        stack: Stack of the input, which has a place for each head.
        cells: Number of cells on a side of its maps, fewer than they have; None for all of them.
    """
    rows, columns = len(stack.layers), len(stack.heads)
    places = np.searchsorted(stack.layers, example.layers) * columns + np.searchsorted(stack.heads, example.heads)

    def arrange(values: NDArray[Any], absent: float) -> NDArray[Any]:
        """Arranges values of the maps, [maps, ...], by layer and head."""
        all_heads = np.full((rows * columns, *values.shape[1:]), absent, values.dtype)
        all_heads[places] = values
        return all_heads

    cells, step = cells or example.shades.shape[1], _COARSE if rows * columns > _MANY else _FINE
    shades = arrange(shrink(example.shades, cells), 0)
    return {
        "id": _name(example.input_id),
        "length": example.length,
        "cells": cells,
        "tokens": cell_tokens(example, cells),
        "warnings": [_name(warning) for warning in example.warnings[:_MOST_WARNINGS]],
        "patterns": arrange(example.patterns, -1).tolist(),
        "probabilities": thousandths(arrange(example.probabilities, np.nan)),
        "evidence": thousandths(arrange(example.evidence, np.nan)),
        "uncertain": "".join(map(str, arrange(example.uncertain, 0).astype(int))),
        "maps": [to_picture(layer, step) for layer in shades.reshape(rows, columns * cells, cells)],
    }


def shrink(shades: NDArray[np.uint8], cells: int) -> NDArray[np.uint8]:
    """Shrinks shades [maps, side, side] to [maps, cells, cells]; a cell takes the darkest of its shades."""
    if cells == shades.shape[1]:
        return shades
    begins = np.arange(cells) * shades.shape[1] // cells
    rows = np.maximum.reduceat(shades, begins, axis=1)
    return np.asarray(np.maximum.reduceat(rows, begins, axis=2))


def cell_tokens(example: Example, cells: int) -> list[str] | None:
    """Returns the token of each cell of a map, or the first and the last of several."""
    if example.tokens is None:
        return None
    bounds = [cell * example.length // cells for cell in range(cells + 1)]
    spans = [example.tokens[begin:end] for begin, end in pairwise(bounds)]
    short = [[visible(token, longest=_LONGEST_TOKEN) for token in span] for span in spans]
    return [span[0] if len(span) == 1 else f"{span[0]} … {span[-1]}" for span in short]


def to_picture(shades: NDArray[np.uint8], step: int) -> str:
    """Returns shades uint8 [height, width], rounded to multiples of ``step``, as a grey PNG in base64."""
    coarse = np.minimum((shades.astype(np.int64) + step // 2) // step * step, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _name(text: str) -> str:
    return visible(text, longest=_LONGEST_NAME)
