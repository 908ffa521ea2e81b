"""The attention of a batch of inputs, rendered and measured layer by layer as it comes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import AttentionMaps, Declaration, read_attention
from attention_patterns.classification import MeasuredMaps
from attention_patterns.classifier import CHUNK, Classifier
from attention_patterns.errors import AttentionPatternsError, SelectionError, SourceError
from attention_patterns.labelling.sources.source import Selection

SideBySide = Callable[..., Iterable[object]]  # as ``map``, perhaps on several cores


@dataclass(frozen=True)
class Part:
    """A stack of self-attention layers.

    Attributes:
        name: "encoder" or "decoder".
        causal: whether a token sees those before it only; None where layers differ.
        layers: the indices, in the model, of those that return attention.
        heads: of each layer.
        layers_in_all: those that return none among them.
        field: of the model's output that lists the layers.
    """

    name: str
    causal: bool | None
    layers: tuple[int, ...]
    heads: int
    layers_in_all: int
    field: str

    @classmethod
    def found(cls, field: str, indices: Sequence[int], layers: Sequence[Any], in_all: int) -> "Part":
        """The part whose layers, tensors [inputs, heads, L, L] of which the first input has no padding, were returned.

        Args:
            field: of the model's output that lists the layers.
            indices: of the layers in the model.
            layers: their attention.
            in_all: how many layers the part has, those that return no attention among them.
        """
        above = {bool(layer[0].triu(1).any()) for layer in layers}
        causal = None if len(above) > 1 else not above.pop()
        name = field.removesuffix("_attentions") if field != "attentions" else "decoder" if causal else "encoder"
        return cls(name, causal, tuple(indices), layers[0].shape[1], in_all, field)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what is not labelled."""
        missing = self.layers_in_all - len(self.layers)
        return (f"{missing} of {self.layers_in_all} layers return no attention and are not labelled",) * bool(missing)


@dataclass(frozen=True)
class Wanted:
    """The layers and heads of a part that are labelled, rising."""

    part: Part
    layers: tuple[int, ...]
    heads: tuple[int, ...]


def wanted(part: Part, selection: Selection, *, model: str) -> Wanted:
    """What a selection takes of a part.

    Raises:
        SelectionError: a layer or head is not there, or the layer returns no attention.
    """
    where, heads = f"the {part.name} of {model}", tuple(range(part.heads))
    for layer in selection.layers or ():
        if layer not in part.layers:
            there = f"{where} has layers 0 to {part.layers_in_all - 1}"
            some = "" if len(part.layers) == part.layers_in_all else f", attention of layers {list(part.layers)}"
            raise SelectionError(f"layer {layer} was asked for, {there}{some}")
    for head in selection.heads or ():
        if head not in heads:
            raise SelectionError(f"head {head} was asked for, {where} has heads 0 to {part.heads - 1}")
    return Wanted(part, _chosen(part.layers, selection.layers), _chosen(heads, selection.heads))


def _chosen(there: tuple[int, ...], asked: tuple[int, ...] | None) -> tuple[int, ...]:
    return there if asked is None else tuple(sorted(set(asked)))


class Slabs:
    """One part of a batch of inputs. What was measured of its layers stays, their attention does not.

    Layers of short inputs are held for a moment and measured together, several in one call.
    """

    def __init__(
        self,
        want: Wanted,
        declarations: Sequence[Declaration],
        *,
        classifier: Classifier,
        run: SideBySide,
        most_held: int,
    ) -> None:
        """Expects the layers that are wanted of a batch.

        Args:
            want: the part, its layers and heads.
            declarations: of the inputs, in their order in the batch.
            classifier: renders and measures.
            run: calls a function for each input, side by side.
            most_held: bytes of layers that may be held before they are measured; a larger one is measured at once.
        """
        self._want, self._declarations, self._classifier = want, declarations, classifier
        self._run, self._most_held = run, most_held
        self._held: dict[int, NDArray[Any]] = {}
        self._data_type: str | None = None
        self._seen: list[int] = []
        self._slabs: list[list[MeasuredMaps]] = [[] for _ in declarations]
        self._errors: dict[int, AttentionPatternsError] = {}

    def takes(self, layer: int) -> bool:
        """Whether the layer is to be labelled."""
        return layer in self._want.layers

    def take(self, layer: int, weights: NDArray[Any], data_type: str | None) -> None:
        """Measures a layer, [batch, heads, L, L], padded on the right, or holds it until others have come.

        Raises:
            SourceError: it is not as wide as the longest input.
        """
        longest = max(declaration.length for declaration in self._declarations)
        expected = (len(self._declarations), self._want.part.heads, longest, longest)
        if weights.shape != expected:
            raise SourceError(f"layer {layer} returned shape {list(weights.shape)}, expected {list(expected)}")
        self._held[layer], self._data_type = weights, data_type
        self._seen.append(layer)
        count = len(self._held) + 1
        if count * weights.nbytes > self._most_held or count * len(self._want.heads) > CHUNK:
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
            self._errors[row] = bare(error)

    def _maps(self, row: int) -> AttentionMaps:
        length, layers = self._declarations[row].length, tuple(self._held)
        of_layers = [weights[row, :, :length, :length] for weights in self._held.values()]
        attention = of_layers[0][None] if len(layers) == 1 else np.stack(of_layers)
        if len(self._want.heads) < self._want.part.heads:
            attention = attention[:, list(self._want.heads)]
        return replace(read_attention(attention, self._data_type), axes=(layers, self._want.heads))

    def outcomes(self) -> list[MeasuredMaps | AttentionPatternsError]:
        """For each input its maps, [layers, heads], or why they could not be measured.

        Raises:
            SourceError: a layer did not come.
        """
        if tuple(self._seen) != self._want.layers:
            raise SourceError(
                f"the {self._want.part.name} returned attention of layers {self._seen}, "
                f"expected {list(self._want.layers)}, as at first"
            )
        self._measure_held()
        return [self._errors.get(row) or MeasuredMaps.joined(slabs) for row, slabs in enumerate(self._slabs)]


def bare(error: AttentionPatternsError) -> AttentionPatternsError:
    """The same error without its traceback, whose frames would keep the attention."""
    return type(error)(str(error))
