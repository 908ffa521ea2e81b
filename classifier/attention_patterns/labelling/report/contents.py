"""What the page's script is given, as plain values: stacks by layer and head, and the maps of a few inputs.

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
from attention_patterns.labelling.report.examples import Example, choose, read_examples
from attention_patterns.labelling.report.palette import COLOUR_ORDER, LETTER_ORDER, groups_of, title_of
from attention_patterns.labelling.summary.summary import StackSummary
from attention_patterns.patterns import PATTERNS

STACK_BYTES = 1_800_000  # of the page, for the numbers of all stacks
ALL_BYTES = 7_000_000  # with the maps; the page is under 8 MB then
_FINE, _COARSE = 4, 8  # steps between shades: what no eye sees would take a third of the bytes
_FEWEST_CELLS = 12  # of a map that says anything
_MANY = 400  # heads, of which the maps are coarse
_LONGEST_TOKEN, _LONGEST_NAME, _MOST_WARNINGS = 40, 200, 5


def contents(folder: RunFolder, stacks: Sequence[StackSummary]) -> dict[str, Any]:
    """All that the script draws from; stacks without room are left out and counted."""
    shown: list[dict[str, Any]] = []
    room = STACK_BYTES
    for stack in stacks:
        numbers = stack_numbers(stack, title_of(stack, stacks))
        room -= size_of(numbers)
        if room < 0 and shown:
            break
        shown.append(numbers)
    _add_examples(folder, stacks, shown)
    patterns = [
        {"name": str(pattern), "letter": letter, "colour": colour}
        for pattern, letter, colour in zip(PATTERNS, LETTER_ORDER, COLOUR_ORDER, strict=True)
    ]
    return {"patterns": patterns, "stacks": shown, "left": len(stacks) - len(shown)}


def size_of(value: Any) -> int:
    """Bytes of a value as JSON on the page."""
    return len(as_json(value).encode())


def as_json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def stack_numbers(stack: StackSummary, title: str) -> dict[str, Any]:
    """A stack's numbers, by layer and head."""
    return {
        "title": title[:_LONGEST_NAME],
        "task": stack.task[:_LONGEST_NAME],
        "model": stack.model and stack.model[:_LONGEST_NAME],
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
        "groups": [_group(stack, name) for name in groups_of(stack)],
        "examples": [],
    }


def _group(stack: StackSummary, name: str) -> dict[str, Any]:
    measures = stack.attention_to[name]
    return {
        "name": name[:_LONGEST_NAME],
        "share": thousandths(measures["share"]),
        "top": thousandths(measures["max_token_share"]),
        "baseline": thousandths(measures["baseline"]),
    }


def thousandths(values: NDArray[np.floating[Any]]) -> list[int | None]:
    """Values [...] as whole thousandths, flat; None for NaN."""
    return [None if value != value else round(1000 * value) for value in values.ravel().tolist()]  # noqa: PLR0124  NaN


def _add_examples(folder: RunFolder, stacks: Sequence[StackSummary], shown: Sequence[dict[str, Any]]) -> None:
    """Gives each stack as many examples as fit into its part of the room; what one leaves the next may use."""
    chosen, room = choose(folder), ALL_BYTES - sum(map(size_of, shown))
    for n, (stack, numbers) in enumerate(zip(stacks, shown, strict=False)):
        key = (stack.task, stack.model, stack.part)
        if key not in chosen:
            continue
        left = room // (len(shown) - n)
        found: dict[str, dict[str, Any]] = {}
        for one in read_examples(folder, key, chosen[key]):
            example = example_maps(one, stack)
            while size_of(example) > left and not found and example["cells"] > _FEWEST_CELLS:
                example = example_maps(one, stack, cells=-(-example["cells"] // 2))  # one coarse map rather than none
            left -= (cost := size_of(example))
            if left < 0:
                break
            room -= cost
            found[one.input_id] = example
        numbers["examples"] = [found[one] for one in chosen[key].order if one in found]


def example_maps(one: Example, stack: StackSummary, *, cells: int | None = None) -> dict[str, Any]:
    """An input's answers, and its maps as one picture a layer, the heads below each other.

    Args:
        one: the input.
        stack: its stack, which says where each head stands.
        cells: a side of its maps, where it is to have fewer than it has.
    """
    rows, columns = len(stack.layers), len(stack.heads)
    places = np.searchsorted(stack.layers, one.layers) * columns + np.searchsorted(stack.heads, one.heads)

    def placed(values: NDArray[Any], nothing: float) -> NDArray[Any]:
        """Values of the maps [maps, ...] by layer and head."""
        all_heads = np.full((rows * columns, *values.shape[1:]), nothing, values.dtype)
        all_heads[places] = values
        return all_heads

    cells, step = cells or one.shades.shape[1], _COARSE if rows * columns > _MANY else _FINE
    shades = placed(shrunk(one.shades, cells), 0)
    return {
        "id": one.input_id[-_LONGEST_NAME:],
        "length": one.length,
        "cells": cells,
        "tokens": cell_tokens(one, cells),
        "warnings": [warning[:_LONGEST_NAME] for warning in one.warnings[:_MOST_WARNINGS]],
        "patterns": placed(one.patterns, -1).tolist(),
        "probabilities": thousandths(placed(one.probabilities, np.nan)),
        "evidence": thousandths(placed(one.evidence, np.nan)),
        "uncertain": "".join(map(str, placed(one.uncertain, 0).astype(int))),
        "maps": [picture(layer, step) for layer in shades.reshape(rows, columns * cells, cells)],
    }


def shrunk(shades: NDArray[np.uint8], cells: int) -> NDArray[np.uint8]:
    """Shades [maps, side, side] as [maps, cells, cells]: the darkest of those that come together."""
    if cells == shades.shape[1]:
        return shades
    begins = np.arange(cells) * shades.shape[1] // cells
    rows = np.maximum.reduceat(shades, begins, axis=1)
    return np.asarray(np.maximum.reduceat(rows, begins, axis=2))


def cell_tokens(one: Example, cells: int) -> list[str] | None:
    """What stands at each cell of the map: its token, or the first and last of several."""
    if one.tokens is None:
        return None
    bounds = [cell * one.length // cells for cell in range(cells + 1)]
    spans = [one.tokens[begin:end] for begin, end in pairwise(bounds)]
    short = [[token[:_LONGEST_TOKEN] for token in span] for span in spans]
    return [span[0] if len(span) == 1 else f"{span[0]} … {span[-1]}" for span in short]


def picture(shades: NDArray[np.uint8], step: int) -> str:
    """Shades uint8 [height, width] as a grey PNG, base64, to the nearest multiple of ``step``."""
    coarse = np.minimum((shades.astype(np.int64) + step // 2) // step * step, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
