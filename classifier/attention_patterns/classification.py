"""The results: measures of maps, answers of the net, and the classification that both make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import SHORTEST_LABELLED, Declaration
from attention_patterns.errors import ModelReplacedError
from attention_patterns.measures import AttentionTo, Evidence
from attention_patterns.patterns import PATTERN_NAMES, PATTERNS, Pattern

FORMLESS = 0.02  # mass of stripes and lines below which a Heterogeneous map may as well be noise
_BLOCK = PATTERNS.index(Pattern.BLOCK)


@dataclass(frozen=True)
class Classification:
    """The patterns and measures of all maps of one input.

    Attributes:
        patterns: Pattern of each map, an array of strings (equal to ``Pattern`` members) of the leading axes.
        probabilities: Answer of the net, float32, leading axes + [5], in the order of ``Pattern``; they sum to 1.
        margin: Difference of the two highest probabilities, float32, leading axes.
        uncertain: Whether the answer's probability is below the model's threshold, below which it is often wrong; bool,
            leading axes. ``patterns`` holds the best answer there too.
        overruled: Whether the answer is not the net's first: Block on an input of one segment; bool, leading axes.
        causal: Whether the map is causal, as declared or, layer by layer, as found; bool, leading axes.
        evidence: The pattern's elements, measured from the matrix.
        attention_to: Token group -> measures of the attention to it.
        length: Number of tokens, padding not counted.
        too_short: Whether there are fewer than 8 tokens, which the annotation guide does not label.
        model: Name and version of the net, "name version".
        warnings: Sentences on what may be wrong with the input.
        layers: Index in the model of each layer, where the leading axes have layers; else (). They rise from 0, with
            gaps where ``classify_outputs`` was given layers without attention.
    """

    patterns: NDArray[np.str_]
    probabilities: NDArray[np.float32]
    margin: NDArray[np.float32]
    uncertain: NDArray[np.bool_]
    overruled: NDArray[np.bool_]
    causal: NDArray[np.bool_]
    evidence: Evidence
    attention_to: Mapping[str, AttentionTo]
    length: int
    too_short: bool
    model: str
    warnings: tuple[str, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """The pattern of one map; the attributes are those of ``Classification`` for a single map."""

    pattern: Pattern
    probabilities: NDArray[np.float32]
    margin: float
    uncertain: bool
    overruled: bool
    causal: bool
    length: int
    too_short: bool

    @classmethod
    def of_map(cls, result: Classification, index: int) -> "Prediction":
        """Returns the prediction of one of the maps [maps] that ``result`` classifies."""
        return cls(
            pattern=Pattern(str(result.patterns[index])),
            probabilities=result.probabilities[index],
            margin=float(result.margin[index]),
            uncertain=bool(result.uncertain[index]),
            overruled=bool(result.overruled[index]),
            causal=bool(result.causal[index]),
            length=result.length,
            too_short=result.too_short,
        )


@dataclass(frozen=True)
class NetAnswer:
    """The answer of a net to images.

    Attributes:
        probabilities: Probabilities float32 [images, 5], in the order of ``Pattern``.
        model: Name and version of the net, "name version".
        sha256: Digest of the net's ONNX file, hexadecimal.
        uncertain_below: Probability below which an answer is uncertain, 0 to 1.
    """

    probabilities: NDArray[np.float32]
    model: str
    sha256: str
    uncertain_below: float

    @classmethod
    def join(cls, answers: Sequence["NetAnswer"]) -> "NetAnswer":
        """Returns the answer to the images of several answers, in their order.

        Raises:
            ModelReplacedError: The answers are of different nets.
        """
        first = answers[0]
        if len(answers) == 1:
            return first
        if any(answer.sha256 != first.sha256 for answer in answers):
            raise ModelReplacedError(f"some of the maps were read by {first.model}, others by its successor")
        return replace(first, probabilities=np.concatenate([answer.probabilities for answer in answers]))


@dataclass(frozen=True)
class MeasuredMaps:
    """The maps of one input once they are measured and dropped: all that a net and a table need.

    Attributes:
        images: Images of the maps, uint8 [maps, 3, size, size], as ``rendering.render`` makes them.
        causal: Whether the map is causal, bool, leading axes.
        evidence: The pattern's elements; its arrays have the leading axes of the maps.
        attention_to: Token group -> measures of the attention to it.
        declaration: What the caller declared of the input.
        layers: Index in the model of each layer; () where the maps have no axis of layers.
    """

    images: NDArray[np.uint8]
    causal: NDArray[np.bool_]
    evidence: Evidence
    attention_to: Mapping[str, AttentionTo]
    declaration: Declaration
    layers: tuple[int, ...]

    def without_images(self) -> "MeasuredMaps":
        """Returns the measures alone, for when the net has read the images."""
        return replace(self, images=self.images[:0].copy())

    @classmethod
    def join(cls, slabs: Sequence["MeasuredMaps"]) -> "MeasuredMaps":
        """Returns one input of several slabs of its layers, each [layers, heads, L, L]."""
        if len(slabs) == 1:
            return slabs[0]
        return cls(
            images=np.concatenate([slab.images for slab in slabs]),
            causal=np.concatenate([slab.causal for slab in slabs]),
            evidence=_stack([slab.evidence for slab in slabs]),
            attention_to={
                name: _stack([slab.attention_to[name] for slab in slabs], shared="positions")
                for name in slabs[0].attention_to
            },
            declaration=slabs[0].declaration.warn(*(w for slab in slabs for w in slab.declaration.warnings)),
            layers=tuple(layer for slab in slabs for layer in slab.layers),
        )

    def classify(self, answer: NetAnswer) -> Classification:
        """Returns the classification that these measures make with the net's answer to the images."""
        probabilities, leading = answer.probabilities, self.causal.shape
        codes = answer_codes(probabilities, one_segment=self.declaration.one_segment)
        top = np.sort(probabilities, axis=1)
        uncertain = probabilities[np.arange(len(codes)), codes] < answer.uncertain_below
        return Classification(
            patterns=PATTERN_NAMES[codes].reshape(leading),
            probabilities=probabilities.reshape(*leading, len(PATTERNS)),
            margin=(top[:, -1] - top[:, -2]).reshape(leading),
            uncertain=uncertain.reshape(leading),
            overruled=(codes != probabilities.argmax(axis=1)).reshape(leading),
            causal=self.causal,
            evidence=self.evidence,
            attention_to=self.attention_to,
            length=self.declaration.length,
            too_short=self.declaration.length < SHORTEST_LABELLED,
            model=answer.model,
            warnings=self.declaration.warnings,
            layers=self.layers,
        )


_Measures = TypeVar("_Measures", AttentionTo, Evidence)


def _stack(slabs: Sequence[_Measures], shared: str = "") -> _Measures:
    """Returns measures of layers as those of one stack, along the first axis; all layers share the field ``shared``."""
    first = slabs[0]
    arrays = {field.name: [getattr(slab, field.name) for slab in slabs] for field in fields(first)}
    joint = {
        name: values[0] if name == shared or values[0] is None else np.concatenate(values)
        for name, values in arrays.items()
    }
    return type(first)(**joint)


def answer_codes(probabilities: NDArray[np.float32], *, one_segment: bool | NDArray[np.bool_]) -> NDArray[np.intp]:
    """Returns the index in ``Pattern`` of each map's answer; an input of one segment is never answered with Block.

    Args:
        probabilities: Answer of the net, float32 [maps, 5].
        one_segment: Whether the input was declared to be one segment: of all maps, or bool [maps].
    """
    allowed = probabilities
    if one_segment if isinstance(one_segment, bool) else one_segment.any():
        allowed = probabilities.copy()
        allowed[:, _BLOCK] = np.where(one_segment, -1.0, allowed[:, _BLOCK])
    codes: NDArray[np.intp] = allowed.argmax(axis=1)
    return codes


def with_doubts(result: Classification) -> Classification:
    """Returns the result with a warning where half of its maps are uncertain or formless.

    Attention of a trained model hardly ever is.
    """
    if result.too_short:
        return result
    formless = (result.patterns == Pattern.HETEROGENEOUS) & (result.evidence.stripe_or_line_mass < FORMLESS)
    doubtful = np.count_nonzero(result.uncertain | formless)
    if 2 * doubtful < result.patterns.size:
        return result
    warning = (
        f"{doubtful} of {result.patterns.size} maps are uncertain ({np.count_nonzero(result.uncertain)}) or, like "
        f"noise, without stripe, line or square ({np.count_nonzero(formless)}): attention of a trained model?"
    )
    return replace(result, warnings=(*result.warnings, warning))
