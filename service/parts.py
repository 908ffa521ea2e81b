"""Tensors in parts: what one message holds of a tensor, and which parts a large one is sent in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from classifier.attention_map import AttentionMaps
from classifier.errors import MessageTooLargeError

PART_BYTES = 4 << 20  # whole layers up to here go into one part: larger messages are slower a byte


@dataclass(frozen=True)
class SentMaps(AttentionMaps):
    """Maps of one request: a tensor, a part of it, or a selection from it.

    Attributes:
        axes: for each leading axis, the indices of its entries in the whole tensor.
    """

    axes: tuple[Sequence[int], ...] = ()

    @classmethod
    def of(cls, maps: AttentionMaps, *, first_head: int = 0) -> "SentMaps":
        """All of ``maps``, its first layer being ``maps.first``."""
        firsts = {"layer": maps.first, "head": first_head}
        sizes = zip(maps.names, maps.leading, strict=True)
        axes = tuple(range(firsts[name], firsts[name] + size) for name, size in sizes)
        return cls(maps.values, maps.data_type, maps.leading, maps.names, axes=axes)

    def picked(self, *picks: list[int] | slice) -> "SentMaps":
        """The maps at these places, one pick for each leading axis; slices of the outer axis copy nothing."""
        tensor = self.values.reshape(*self.leading, self.length, self.length)
        for number, pick in enumerate(picks):
            tensor = tensor[(slice(None),) * number + (pick,)]
        return SentMaps(
            values=np.ascontiguousarray(tensor).reshape(-1, self.length, self.length),
            data_type=self.data_type,
            leading=tensor.shape[:-2],
            names=self.names,
            axes=tuple(np.array(axis)[pick].tolist() for axis, pick in zip(self.axes, picks, strict=True)),
        )

    def where(self, index: int) -> str:
        """The name of a map in messages, by its indices in the whole tensor."""
        places = np.unravel_index(index, self.leading) if self.leading else ()
        inner = ", ".join(f"{n} {axis[int(i)]}" for n, axis, i in zip(self.names, self.axes, places, strict=True))
        return f"attention[{inner}]" if inner else "attention"


def parts_of(maps: SentMaps, *, limit: int) -> Iterator[SentMaps]:
    """Parts of whole layers, or of some heads of one layer where a layer is over the limit, in order.

    Args:
        maps: the whole tensor.
        limit: bytes a part may have.

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
    heads = min(maps.leading[-1], limit // size)  # heads in a part
    whole = heads == maps.leading[-1] and len(maps.leading) > 1
    layers = max(1, min(PART_BYTES, limit) // (heads * size)) if whole else 1
    outer = [(slice(n, n + layers),) for n in range(0, maps.leading[0], layers)] if len(maps.leading) > 1 else [()]
    for layer in outer:
        for head in range(0, maps.leading[-1], heads):
            yield maps.picked(*layer, slice(head, head + heads))
