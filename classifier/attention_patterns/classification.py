"""What a classifier answers, and the ways in that the library and the client share."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attention_patterns.attention_map import AttentionMaps, DataType, Declaration, read_attention, read_declaration
from attention_patterns.errors import InvalidDeclarationError, ShapeError
from attention_patterns.measures import AttentionTo, Evidence
from attention_patterns.patterns import Pattern

FORMLESS = 0.02  # mass of stripes and lines below which a Heterogeneous map may as well be noise


@dataclass(frozen=True)
class Classification:
    """The patterns and measures of all maps of one input.

    Attributes:
        patterns: the answer for each map, an array of strings (equal to ``Pattern`` members) of the leading axes.
        probabilities: what the net said, float32, leading axes + [5], in the order of ``Pattern``; they sum to 1.
        margin: difference of the two highest probabilities, float32, leading axes.
        uncertain: where the answer's probability is below the model's threshold, below which it is often wrong; bool,
            leading axes. ``patterns`` holds the best answer there too.
        overruled: where the answer is not the net's first: Block on an input of one segment; bool, leading axes.
        causal: where the map is causal, as declared or, layer by layer, as found; bool, leading axes.
        evidence: the pattern's elements, measured from the matrix.
        attention_to: token group -> measures of the attention to it.
        length: tokens, padding not counted.
        too_short: fewer than 8 tokens, which the annotation guide does not label.
        model: name and version of the net, "name version".
        warnings: sentences on what may be wrong with the input.
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


class Classifier(ABC):
    """Whatever classifies attention: every way in ends in ``classify_read``, so that no two can answer differently."""

    @abstractmethod
    def classify_read(self, maps: AttentionMaps, declaration: Declaration) -> Classification:
        """Classifies maps that were read and declared."""

    def classify(
        self,
        attention: ArrayLike,
        *,
        tokens: Sequence[str] | None = None,
        token_groups: Mapping[str, Iterable[int]] | None = None,
        segments: ArrayLike | None = None,
        valid_length: int | None = None,
        mask: ArrayLike | None = None,
        causal: bool | None = None,
        data_type: str | None = None,
    ) -> Classification:
        """Classifies all maps of one input and measures their attention to groups of tokens.

        Positions and lengths refer to the matrix as sent; ``tokens`` and ``segments`` may also leave the padding out.

        Args:
            attention: [L, L], [heads, L, L] or [layers, heads, L, L]: row = query, column = key, rows sum to 1;
                float32, float16, float64, or bfloat16 bits in uint16. numpy, or anything with ``__array__``.
            tokens: the tokens as strings; special tokens are found among them by name, one group for each.
            token_groups: name -> positions, for any other group.
            segments: lengths that sum to L, or one id a token. One segment never gets the answer Block.
            valid_length: the tokens before right-hand padding; the rest is cropped.
            mask: [L] of 0 (padding) and 1, for padding anywhere; instead of ``valid_length``.
            causal: True, False, or None to find it layer by layer: no head has anything above the diagonal.
            data_type: "bfloat16" when ``attention`` is uint16 holding its bits.

        Raises:
            InvalidAttentionError: the array is not a self-attention map; subclasses say why.
            InvalidDeclarationError: a declaration does not fit it; subclasses say which.
        """
        maps = read_attention(attention, data_type)
        declaration = read_declaration(
            maps.length,
            tokens=tokens,
            token_groups=token_groups,
            segments=segments,
            valid_length=valid_length,
            mask=mask,
            causal=causal,
        )
        return doubted(self.classify_read(maps, declaration))

    def classify_maps(
        self,
        maps: Iterable[ArrayLike],
        *,
        segments: Sequence[ArrayLike | None] | None = None,
        data_type: str | None = None,
    ) -> list[Prediction]:
        """Classifies square maps [L, L] of any sizes; those of one size are done together.

        Args:
            maps: the maps, each as ``classify`` takes it.
            segments: for each map its segments, or None.
            data_type: "bfloat16" when the maps are uint16 holding its bits.

        Raises:
            InvalidAttentionError, InvalidDeclarationError: for the first map concerned, by its index.
        """
        read = [read_attention(one, data_type) for one in maps]
        if segments is not None and len(segments) != len(read):
            raise InvalidDeclarationError(f"{len(segments)} segments are declared for {len(read)} maps")
        groups: dict[tuple[int, DataType, tuple[int, ...] | None], list[int]] = defaultdict(list)
        for index, one in enumerate(read):
            if one.leading:
                raise ShapeError(f"maps[{index}] has shape {[*one.leading, one.length, one.length]}, expected [L, L]")
            declared = segments[index] if segments is not None else None
            key = None if declared is None else tuple(np.asarray(declared).ravel().tolist())
            groups[one.length, one.data_type, key].append(index)
        found: dict[int, Prediction] = {}
        for (length, stored, declared_segments), indices in groups.items():
            together = AttentionMaps(
                values=np.concatenate([read[i].values for i in indices]),
                data_type=stored,
                names=("map",),
                axes=(indices,),
            )
            result = self.classify_read(together, read_declaration(length, segments=declared_segments))
            found |= {index: _prediction(result, n) for n, index in enumerate(indices)}
        return [found[index] for index in range(len(read))]


def doubted(result: Classification) -> Classification:
    """Warns where half of an input's maps are uncertain or formless, as a trained model's attention hardly is."""
    formless = (result.patterns == Pattern.HETEROGENEOUS) & (result.evidence.stripe_or_line_mass < FORMLESS)
    doubtful = int((result.uncertain | formless).sum())
    if result.too_short or 2 * doubtful < result.patterns.size:
        return result
    warning = (
        f"{doubtful} of {result.patterns.size} maps are uncertain ({int(result.uncertain.sum())}) or, like noise, "
        f"without stripe, line or square ({int(formless.sum())}): attention of a trained model?"
    )
    return replace(result, warnings=(*result.warnings, warning))


def _prediction(result: Classification, n: int) -> Prediction:
    return Prediction(
        pattern=Pattern(str(result.patterns[n])),
        probabilities=result.probabilities[n],
        margin=float(result.margin[n]),
        uncertain=bool(result.uncertain[n]),
        overruled=bool(result.overruled[n]),
        causal=bool(result.causal[n]),
        length=result.length,
        too_short=result.too_short,
    )
