"""The classifier: every door of the project (matrix, list, file, RPC, batch) ends in ``PatternClassifier``."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classifier.attention_map import (
    SHORTEST_LABELLED,
    AttentionMaps,
    DataType,
    Declaration,
    read_attention,
    read_declaration,
)
from classifier.bundle import ModelBundle
from classifier.errors import InvalidDeclarationError, ShapeError
from classifier.measures import AttentionTo, Evidence, attention_to, evidence
from classifier.patterns import PATTERNS, Pattern
from classifier.rendering import Survey, find_causal, survey
from classifier.session import NetSession

CHUNK = 36  # maps rendered and classified at a time: their images stay in the second-level cache
_NAMES = np.array([str(pattern) for pattern in PATTERNS])
_BLOCK = PATTERNS.index(Pattern.BLOCK)


@dataclass(frozen=True)
class Classification:
    """The patterns and measures of all maps of one input.

    Attributes:
        patterns: the answer for each map, an array of strings (equal to ``Pattern`` members) of the leading axes.
        probabilities: what the net said, float32, leading axes + [5], in the order of ``Pattern``; they sum to 1.
        margin: difference of the two highest probabilities, float32, leading axes.
        overruled: where the answer is not the net's first: Block on an input declared as one segment; bool, leading axes.
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
    overruled: bool
    causal: bool
    length: int
    too_short: bool


class PatternClassifier:
    """Classifies self-attention maps and measures their heads. Safe to share between threads."""

    def __init__(self, bundle: ModelBundle, *, threads: int | None = None) -> None:
        """Loads the net of ``bundle``; ``threads`` is the number of cores to use, all by default."""
        self.bundle = bundle
        self.model = f"{bundle.name} {bundle.version}"
        self._session = NetSession(bundle)
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="classify")

    @classmethod
    def load(cls, folder: str | os.PathLike[str] | None = None, *, threads: int | None = None) -> "PatternClassifier":
        """Loads the bundled model, or the bundle in ``folder``.

        Raises:
            BundleError: the bundle is missing, damaged, or made for another rendering.
        """
        return cls(ModelBundle.read(None if folder is None else Path(folder)), threads=threads)

    def warm_up(self) -> None:
        """Loads the compiled kernel for every data type, compiling it on a machine's first run (10 seconds)."""
        one = np.ones((1, 1))
        for array in (one, one.astype(np.float32), one.astype(np.float16)):
            self.classify(array)

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
        first_layer: int = 0,
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
            causal: True or False, or None to find it layer by layer: causal where no head has anything above the diagonal.
            data_type: "bfloat16" when ``attention`` is uint16 holding its bits.
            first_layer: the index of the first layer, for messages, when a tensor comes in parts.

        Raises:
            InvalidAttentionError: the array is not a self-attention map; subclasses say why.
            InvalidDeclarationError: a declaration does not fit it; subclasses say which.
        """
        maps = read_attention(attention, data_type, first_layer=first_layer)
        declaration = read_declaration(
            maps.length,
            tokens=tokens,
            token_groups=token_groups,
            segments=segments,
            valid_length=valid_length,
            mask=mask,
            causal=causal,
        )
        return self.classify_read(maps, declaration)

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
                leading=(len(indices),),
                names=("map",),
                indices=tuple(indices),
            )
            result = self.classify_read(together, read_declaration(length, segments=declared_segments))
            found |= {index: _prediction(result, n) for n, index in enumerate(indices)}
        return [found[index] for index in range(len(read))]

    def classify_read(self, maps: AttentionMaps, declaration: Declaration) -> Classification:
        """Classifies maps that were read and declared: where all doors meet."""
        seen, probabilities = self._survey_and_classify(maps, declaration)
        net = probabilities.argmax(axis=1)
        allowed = probabilities.copy()
        if declaration.one_segment:
            allowed[:, _BLOCK] = -1.0
        answer = allowed.argmax(axis=1)
        top = np.sort(probabilities, axis=1)
        return Classification(
            patterns=_NAMES[answer].reshape(maps.leading),
            probabilities=probabilities.reshape(*maps.leading, len(PATTERNS)),
            margin=(top[:, -1] - top[:, -2]).reshape(maps.leading),
            overruled=(answer != net).reshape(maps.leading),
            causal=seen.causal.reshape(maps.leading),
            evidence=evidence(maps, declaration, seen),
            attention_to=MappingProxyType(
                {group.name: attention_to(maps, declaration, seen, group) for group in declaration.groups}
            ),
            length=declaration.length,
            too_short=declaration.length < SHORTEST_LABELLED,
            model=self.model,
            warnings=declaration.warnings,
        )

    def _survey_and_classify(
        self, maps: AttentionMaps, declaration: Declaration
    ) -> tuple[Survey, NDArray[np.float32]]:
        """Runs kernel and net over chunks of maps, side by side on the cores."""

        causal = find_causal(maps, declaration)

        def chunk(bounds: tuple[int, int]) -> tuple[Survey, NDArray[np.float32]]:
            begin, end = bounds
            seen = survey(maps, declaration, causal, image_size=self.bundle.image_size, begin=begin, end=end)
            return seen, self._session.probabilities(seen.images)

        count = len(maps.values)
        chunks = list(pairwise([*range(0, count, CHUNK), count]))
        # The calling thread waits anyway: one chunk is done by it, without the pool.
        done = list(self._pool.map(chunk, chunks)) if len(chunks) > 1 else [chunk(chunks[0])]
        surveys, probabilities = zip(*done, strict=True)
        return Survey.joined(surveys), np.concatenate(probabilities)


def _prediction(result: Classification, n: int) -> Prediction:
    return Prediction(
        pattern=Pattern(str(result.patterns[n])),
        probabilities=result.probabilities[n],
        margin=float(result.margin[n]),
        overruled=bool(result.overruled[n]),
        causal=bool(result.causal[n]),
        length=result.length,
        too_short=result.too_short,
    )
