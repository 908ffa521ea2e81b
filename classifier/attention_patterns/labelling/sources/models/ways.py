"""The way in which a model's attention is taken: as deep inside as leaves the rest of the model's output as it is.

Nothing here imports torch: tensors and modules are used by their methods.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.models.taps import Emitted, Tap, find_taps, tap_layers

RETURNED = {"output_attentions": True}  # the setting with which a model returns all its layers
CROSS = "cross_attentions"  # taken so that they are dropped with the rest
_CLOSE = 1e-3  # of the largest value, or of 1: GPUs round


@dataclass(frozen=True)
class Way:
    """A way of taking the attention of each layer.

    Attributes:
        taps: Places where the layers leave the model's modules.
        settings: Arguments with which the model is called.
    """

    taps: tuple[Tap, ...]
    settings: Mapping[str, Any]

    @property
    def layers_kept(self) -> int:
        """The number of layers that the model keeps until it returns them."""
        return sum(len(tap.key) > 1 for tap in self.taps)


@dataclass(frozen=True, eq=False)
class Probe:
    """A call of a model for short inputs, with ``RETURNED``.

    Attributes:
        model: Torch module.
        run: Function that calls it again for the same inputs, with settings.
        outputs: Output of the call.
        emitted: Tensors of four axes that left the modules.
        layers: Field of the output -> the layers that it lists, with None in place of those without self-attention.
        indices: Field of the output -> index in the model of each layer that has self-attention.
    """

    model: Any
    run: Callable[[Mapping[str, Any]], Any]
    outputs: Mapping[str, Any]
    emitted: Sequence[Emitted]
    layers: Mapping[str, Sequence[Any]]
    indices: Mapping[str, Sequence[int]]

    def find_way(self) -> Way:
        """Returns the first way that gives the attention which the model returns, and changes nothing else it returns.

        The layers of most models give their weights away in any case, and then the model need not return them. Where
        what follows inside a module does without them no longer, they are taken further outside; at last from the
        output of the model itself, which then keeps all layers until its end.

        Raises:
            SourceError: No way does.
        """
        for settings in ({}, RETURNED):
            for taps in self._from_inside():
                way = Way(taps, settings)
                if self._is_right(way):
                    return way
        raise SourceError("what it returns differs from call to call, expected the same attention for the same input")

    def _from_inside(self) -> Iterator[tuple[Tap, ...]]:
        """Yields the taps of all layers, from the innermost places to the model's own output."""
        depth, before = 0, None
        while (taps := tuple(self._taps_at(depth))) != before:
            yield taps
            depth, before = depth + 1, taps

    def _taps_at(self, depth: int) -> Iterator[Tap]:
        for field, layers in self.layers.items():
            taps = find_taps(self.emitted, field, layers, depth=depth)
            indices = self.indices.get(field, range(len(taps)))
            yield from (replace(tap, layer=index) for tap, index in zip(taps, indices, strict=True))

    def _is_right(self, way: Way) -> bool:
        """Returns whether a way gives each layer, and leaves the rest of the output as it is."""
        seen: dict[tuple[str, int], Any] = {}

        def take(tap: Tap, weights: Any) -> None:
            seen[tap.field, tap.layer] = weights

        try:
            with tap_layers(self.model, way.taps, take):
                outputs = self.run(way.settings)
        except SourceError:  # it cannot do without the weights there
            return False
        kept = {name: value for name, value in self.outputs.items() if hasattr(value, "shape")}
        return all(_is_close(seen.get(key), layer) for key, layer in self._expected()) and all(
            _is_close(outputs.get(name), value) for name, value in kept.items()
        )

    def _expected(self) -> Iterator[tuple[tuple[str, int], Any]]:
        """Yields the self-attention that the model returned, by field and index of the layer."""
        for field, indices in self.indices.items():
            layers = [layer for layer in self.layers[field] if layer is not None]
            yield from (((field, index), layer) for index, layer in zip(indices, layers, strict=True))


def _is_close(values: Any, expected: Any) -> bool:
    """Returns whether a tensor, or None, holds the expected values."""
    if values is None or values.shape != expected.shape:
        return False
    one, other = values.float(), expected.float()
    most = max(1.0, float(other.abs().nan_to_num(0, 0, 0).max())) if other.numel() else 1.0
    return bool(one.allclose(other, rtol=0, atol=_CLOSE * most, equal_nan=True))
