"""The attention of a batch of inputs, rendered and measured layer by layer as it comes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import AttentionMaps, Declaration, read_attention
from attention_patterns.classification import MeasuredMaps
from attention_patterns.classifier import SPAN, Classifier
from attention_patterns.errors import AttentionPatternsError, SourceError
from attention_patterns.labelling.sources.source import SelectedHeads, without_traceback

SINK = "sink"  # name of the token and token group
SideBySide = Callable[..., Iterable[object]]  # like ``map``, perhaps on several cores


@dataclass(frozen=True)
class LayerStack:
    """The self-attention layers of a model, or of its encoder or decoder.

    Attributes:
        name: "encoder" or "decoder".
        causal: Whether a token sees only those before it; None where layers differ.
        layers: Indices, in the model, of the layers that return attention.
        heads: Number of heads per layer.
        layers_in_all: Number of layers, those that return no attention among them.
        field: Field of the model's output that lists the layers.
        sink: Whether a learned sink takes a share of each row, and is labelled as a first token.
    """

    name: str
    causal: bool | None
    layers: tuple[int, ...]
    heads: int
    layers_in_all: int
    field: str
    sink: bool = False

    @classmethod
    def from_layers(cls, field: str, indices: Sequence[int], layers: Sequence[Any], in_all: int) -> "LayerStack":
        """Describes the stack of layers that a model returned.

        Args:
            field: Field of the model's output that lists the layers.
            indices: Indices of the layers in the model that have attention.
            layers: Attention of the layers, tensors [inputs, heads, L, L] of which the first input has no padding, or
                None.
            in_all: Number of layers of the stack, those without attention among them.
        """
        layers = [layer for layer in layers if layer is not None]
        above = {bool(layer[0].triu(1).any()) for layer in layers}
        causal = None if len(above) > 1 else not above.pop()
        name = field.removesuffix("_attentions") if field != "attentions" else "decoder" if causal else "encoder"
        return cls(name, causal, tuple(indices), layers[0].shape[1], in_all, field)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what is not labelled, or labelled and no token of the input."""
        missing = self.layers_in_all - len(self.layers)
        left_out = f"{missing} of {self.layers_in_all} layers return no attention and are not labelled"
        added = f"the first token, {SINK!r}, stands for the model's learned sinks, with the share that each row lacks"
        return (*[left_out] * bool(missing), *[added] * self.sink)


class Slabs:
    """The attention of a batch of inputs in one stack. Measured maps stay, attention does not.

    Layers of short inputs are held for a moment and measured together, several in one call.
    """

    def __init__(
        self,
        stack: LayerStack,
        selected: SelectedHeads,
        declarations: Sequence[Declaration],
        *,
        classifier: Classifier,
        run: SideBySide,
        most_held: int,
    ) -> None:
        """Expects the selected layers of a batch.

        Args:
            stack: Stack of layers.
            selected: Layers and heads of it to label.
            declarations: Declaration of each input, in their order in the batch.
            classifier: Classifier that renders and measures.
            run: Function that calls another for each input, side by side.
            most_held: Bytes of layers that may be held before they are measured; a larger one is measured at once.
        """
        self._stack, self._selected = stack, selected
        self._declarations, self._classifier = declarations, classifier
        self._run, self._most_held = run, most_held
        self._held: dict[int, NDArray[Any]] = {}
        self._data_type: str | None = None
        self._seen: list[int] = []
        self._slabs: list[list[MeasuredMaps]] = [[] for _ in declarations]
        self._errors: dict[int, AttentionPatternsError] = {}

    def takes(self, layer: int) -> bool:
        """Returns whether the layer is to be labelled."""
        return layer in self._selected.layers

    def take(self, layer: int, weights: NDArray[Any], data_type: str | None) -> None:
        """Measures a layer, [batch, heads, L, L], padded on the right, or holds it until others have come.

        Raises:
            SourceError: The layer is not as wide as the longest input.
        """
        longest = max(declaration.length for declaration in self._declarations)
        expected = (len(self._declarations), self._stack.heads, longest, longest)
        if weights.shape != expected:
            raise SourceError(f"layer {layer} returned shape {list(weights.shape)}, expected {list(expected)}")
        self._held[layer], self._data_type = weights, data_type
        self._seen.append(layer)
        count = len(self._held) + 1
        if count * weights.nbytes > self._most_held or count * len(self._selected.heads) > SPAN:
            self._measure_held()

    def _measure_held(self) -> None:
        if self._held:
            list(self._run(self._measure, range(len(self._declarations))))
        self._held = {}

    def _measure(self, row: int) -> None:
        if row in self._errors:
            return
        try:
            self._slabs[row].append(self._classifier.measure_read(self._maps(row), self._declarations[row]))
        except AttentionPatternsError as error:
            self._errors[row] = without_traceback(error)

    def _maps(self, row: int) -> AttentionMaps:
        length, layers, heads = self._declarations[row].length, tuple(self._held), self._selected.heads
        of_layers = [weights[row, :, :length, :length] for weights in self._held.values()]
        attention = of_layers[0][None] if len(layers) == 1 else np.stack(of_layers)
        if len(heads) < self._stack.heads:
            attention = attention[:, list(heads)]
        return replace(read_attention(attention, self._data_type), axes=(layers, heads))

    def outcomes(self) -> list[MeasuredMaps | AttentionPatternsError]:
        """Returns for each input its maps, [layers, heads], or the error for which they could not be measured.

        Raises:
            SourceError: A layer is missing.
        """
        if tuple(self._seen) != self._selected.layers:
            raise SourceError(
                f"the {self._stack.name} returned attention of layers {self._seen}, "
                f"expected {list(self._selected.layers)}, as for the probes"
            )
        self._measure_held()
        return [self._errors.get(row) or MeasuredMaps.join(slabs) for row, slabs in enumerate(self._slabs)]
