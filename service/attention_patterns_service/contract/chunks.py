"""Chunks: the pieces in which a large tensor is sent, and selections of layers and heads."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from attention_patterns.attention_map import AttentionMaps
from attention_patterns.errors import MessageTooLargeError

CHUNK_BYTES = 4 << 20  # whole layers up to here go into one chunk: larger messages take longer per byte


def select_maps(maps: AttentionMaps, *indices: list[int] | slice) -> AttentionMaps:
    """Returns the maps at ``indices``, given for each leading axis; slices of the outer axis copy nothing."""
    tensor = maps.values.reshape(*maps.leading, maps.length, maps.length)
    for axis, index in enumerate(indices):
        tensor = tensor[(slice(None),) * axis + (index,)]
    return replace(
        maps,
        values=np.ascontiguousarray(tensor).reshape(-1, maps.length, maps.length),
        axes=tuple(np.array(axis)[index].tolist() for axis, index in zip(maps.axes, indices, strict=True)),
    )


def cut_into_chunks(maps: AttentionMaps, *, limit: int, most: int) -> Iterator[AttentionMaps]:
    """Yields chunks of whole layers or, where a layer is over the limit, of some heads of one layer, in order.

    The indices of a chunk's layers have no gaps, since only the first of them travels.

    Args:
        maps: The whole tensor.
        limit: Largest size of a chunk, bytes.
        most: Largest number of maps in a chunk.

    Raises:
        MessageTooLargeError: A single map is over the limit.
    """
    size = maps.values[0].nbytes
    if size > limit:
        raise MessageTooLargeError(
            f"one map of {maps.length} tokens in {maps.data_type} has {size} bytes, expected at most {limit}, what the "
            "server takes in a message; send float16, or start the server with a higher --max-message-mib",
            name="message_bytes",
            limit=limit,
        )
    if not maps.leading:
        yield maps
        return
    most = min(most, limit // size)
    # Heads in a chunk: all of a layer, or where it is over the limit as few as make a chunk of the best size.
    heads = maps.leading[-1] if maps.leading[-1] <= most else max(1, min(most, CHUNK_BYTES // size))
    whole = heads == maps.leading[-1] and len(maps.leading) > 1
    layers = max(1, min(most, CHUNK_BYTES // size) // heads) if whole else 1
    outer = [(span,) for span in _cut_layers(maps.axes[0], layers)] if len(maps.leading) > 1 else [()]
    for layer in outer:
        for head in range(0, maps.leading[-1], heads):
            yield select_maps(maps, *layer, slice(head, head + heads))


def _cut_layers(indices: Sequence[int], most: int) -> Iterator[slice]:
    """Yields spans of at most ``most`` layers whose indices have no gaps."""
    begin = 0
    for end in range(1, len(indices) + 1):
        if end == len(indices) or end - begin == most or indices[end] != indices[end - 1] + 1:
            yield slice(begin, end)
            begin = end
