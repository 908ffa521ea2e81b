"""Tensors in parts: the parts that a large one is sent in, and selections of layers and heads."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from attention_patterns.attention_map import AttentionMaps
from attention_patterns.errors import MessageTooLargeError

PART_BYTES = 4 << 20  # whole layers up to here go into one part: larger messages are slower a byte


def picked(maps: AttentionMaps, *picks: list[int] | slice) -> AttentionMaps:
    """The maps at these places, one pick for each leading axis; slices of the outer axis copy nothing."""
    tensor = maps.values.reshape(*maps.leading, maps.length, maps.length)
    for number, pick in enumerate(picks):
        tensor = tensor[(slice(None),) * number + (pick,)]
    return replace(
        maps,
        values=np.ascontiguousarray(tensor).reshape(-1, maps.length, maps.length),
        axes=tuple(np.array(axis)[pick].tolist() for axis, pick in zip(maps.axes, picks, strict=True)),
    )


def parts_of(maps: AttentionMaps, *, limit: int, most: int) -> Iterator[AttentionMaps]:
    """Parts of whole layers, or of some heads of one layer where a layer is over the limit, in order.

    Args:
        maps: the whole tensor.
        limit: bytes a part may have.
        most: maps a part may have.

    Raises:
        MessageTooLargeError: a single map is over the limit.
    """
    size = maps.values[0].nbytes
    if size > limit:
        raise MessageTooLargeError(
            f"one map of {maps.length} tokens in {maps.data_type} has {size} bytes, expected at most {limit}, what the "
            "server takes in a message; send float16, or start the server with a higher --max-message-mib"
        )
    if not maps.leading:
        yield maps
        return
    most = min(most, limit // size)
    # Heads in a part: all of a layer, or where it is over the limit as few as make a part of the best size.
    heads = maps.leading[-1] if maps.leading[-1] <= most else max(1, min(most, PART_BYTES // size))
    whole = heads == maps.leading[-1] and len(maps.leading) > 1
    layers = max(1, min(most, PART_BYTES // size) // heads) if whole else 1
    outer = [(slice(n, n + layers),) for n in range(0, maps.leading[0], layers)] if len(maps.leading) > 1 else [()]
    for layer in outer:
        for head in range(0, maps.leading[-1], heads):
            yield picked(maps, *layer, slice(head, head + heads))
