"""The classifier: the ways in, and the one road on which all of them end."""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attention_patterns.attention_map import (
    AttentionMaps,
    DataType,
    Declaration,
    read_attention,
    read_declaration,
    read_input,
)
from attention_patterns.classification import Classification, MeasuredMaps, NetAnswer, Prediction, with_doubts
from attention_patterns.errors import AbandonedError, InvalidDeclarationError, ShapeError
from attention_patterns.measures import AttentionTo, SurveyedMaps, measure_attention_to, measure_evidence
from attention_patterns.outputs import ModelInput, Tokenizer, inputs_of
from attention_patterns.per_process import PerProcess
from attention_patterns.programs.threads import start_pool
from attention_patterns.rendering import Survey, find_causal, survey
from attention_patterns.row_sums import divide_rows

SPAN = 36  # maps that one thread renders or classifies at a time: few enough to share out, enough to pay
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Oversight:
    """The functions by which a caller follows and ends a call; several threads call them at once.

    Attributes:
        wanted: Asked before each span of maps and each group of tokens; once it answers False the call raises
            AbandonedError.
        spent: Receives a stage, "render" or "classify", and the seconds that a span took in it.
        seen: Receives the images of a span and the net's answer to them.
    """

    wanted: Callable[[], bool] = lambda: True
    spent: Callable[[str, float], None] = lambda _stage, _seconds: None
    seen: Callable[[NDArray[np.uint8], NetAnswer], None] = lambda _images, _answer: None

    def check(self) -> None:
        """Asks whether the answer is still wanted.

        Raises:
            AbandonedError: It is not.
        """
        if not self.wanted():
            raise AbandonedError("the call was cancelled or its deadline is over")


UNWATCHED = Oversight()


class _Caller(threading.local):
    alone = False


class Classifier(ABC):
    """A classifier of attention maps: it renders and measures maps in this process, and has a net read the images.

    Every way in ends in ``classify_read``, so that no two can answer differently. Subclasses decide where the net runs:
    they have ``image_size`` and ``classify_images``. Safe to share between threads and with forked processes.
    """

    def __init__(self, *, threads: int | None = None) -> None:
        """Uses ``threads`` cores, all by default."""
        count = threads or len(os.sched_getaffinity(0))
        self._threads = PerProcess(lambda: start_pool(count, "classify"))
        self._caller = _Caller()

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Pixels per side of the images that the net reads."""

    @abstractmethod
    def classify_images(self, images: NDArray[np.uint8], oversight: Oversight = UNWATCHED) -> NetAnswer:
        """Has the net read images uint8 [n, 3, size, size], as ``rendering.render`` makes them.

        Raises:
            AbandonedError: The caller does not want the answer any more.
        """

    def classify(
        self,
        attention: ArrayLike,
        *,
        tokens: Sequence[str] | None = None,
        special_tokens: Collection[str] = (),
        token_groups: Mapping[str, Iterable[int]] | None = None,
        segments: ArrayLike | None = None,
        valid_length: int | None = None,
        mask: ArrayLike | None = None,
        causal: bool | None = None,
        data_type: str | None = None,
        renormalise: bool = False,
    ) -> Classification:
        """Classifies all maps of one input and measures their attention to groups of tokens.

        Positions and lengths refer to the matrix as sent; ``tokens`` and ``segments`` may also leave the padding out.

        Args:
            attention: Maps [L, L], [heads, L, L] or [layers, heads, L, L]: row = query, column = key, rows sum to 1;
                float32, float16, float64, or bfloat16 bits in uint16; numpy, or anything with ``__array__``. An axis
                of a batch of one input, [layers, 1, heads, L, L], is left out.
            tokens: Tokens as strings; special tokens are found among them by name, one group each.
            special_tokens: Tokens that are special besides those known by name, such as
                ``tokenizer.all_special_tokens``.
            token_groups: Positions of any other group, by its name.
            segments: Lengths that sum to L, or one id per token. One segment never gets the answer Block.
            valid_length: Number of tokens before right-hand padding; the rest is cropped.
            mask: Flags [L] of 0 (padding) and 1, for padding anywhere; instead of ``valid_length``.
            causal: Whether the maps are causal, or None to find it layer by layer: no head has anything above the
                diagonal.
            data_type: "bfloat16" when ``attention`` is uint16 holding its bits.
            renormalise: Whether to divide each row by its sum, where weights were rounded, cut or scaled; the result
                says so in a warning. Weights rounded to 2 decimals or more, or to 8 bits, need it not.

        Raises:
            InvalidAttentionError: The array is not a self-attention map; subclasses name why.
            InvalidDeclarationError: A declaration does not fit it; subclasses name which.
        """
        maps = read_input(attention, data_type)
        declaration = read_declaration(
            maps.length,
            tokens=tokens,
            special_tokens=special_tokens,
            token_groups=token_groups,
            segments=segments,
            valid_length=valid_length,
            mask=mask,
            causal=causal,
        )
        if renormalise:
            maps = divide_rows(maps, declaration)
        return self._classify_input(maps, declaration)

    def classify_maps(
        self,
        maps: Iterable[ArrayLike],
        *,
        segments: Sequence[ArrayLike | None] | None = None,
        data_type: str | None = None,
    ) -> list[Prediction]:
        """Classifies square maps [L, L] of any sizes; those of one size are classified together.

        Args:
            maps: Maps, each as ``classify`` takes it.
            segments: Segments of each map, or None.
            data_type: "bfloat16" when the maps are uint16 holding its bits.

        Raises:
            InvalidAttentionError: A map is not a self-attention map; the message names the first such map by its index.
            InvalidDeclarationError: The segments of a map do not fit it.
        """
        inputs = [read_attention(each, data_type) for each in maps]
        if segments is not None and len(segments) != len(inputs):
            raise InvalidDeclarationError(f"{len(segments)} segments are declared for {len(inputs)} maps")
        groups: dict[tuple[int, DataType, tuple[int, ...] | None], list[int]] = defaultdict(list)
        for index, each in enumerate(inputs):
            if each.leading:
                raise ShapeError(
                    f"maps[{index}] has shape {[*each.leading, each.length, each.length]}, expected [L, L]"
                )
            declared = segments[index] if segments is not None else None
            key = None if declared is None else tuple(np.asarray(declared).ravel().tolist())
            groups[each.length, each.data_type, key].append(index)
        predictions: dict[int, Prediction] = {}
        for (length, stored, declared_segments), indices in groups.items():
            together = AttentionMaps(
                values=np.concatenate([inputs[i].values for i in indices]),
                data_type=stored,
                names=("map",),
                axes=(indices,),
            )
            result = self.classify_read(together, read_declaration(length, segments=declared_segments))
            predictions |= {index: Prediction.of_map(result, n) for n, index in enumerate(indices)}
        return [predictions[index] for index in range(len(inputs))]

    def classify_outputs(
        self, outputs: object, encoding: Mapping[str, Any], tokenizer: Tokenizer
    ) -> list[Classification]:
        """Classifies the outputs of a Hugging Face model: one result per text of the batch.

        Args:
            outputs: Outputs of a model loaded with ``attn_implementation="eager"`` and called with
                ``output_attentions=True``, or their ``attentions``; of an encoder-decoder, the encoder's
                self-attention is taken. Layers without attention, which hybrid models return as None, are left out: see
                ``Classification.layers``.
            encoding: Result of the tokenizer; it holds the padding and, for pairs, the segments.
            tokenizer: The tokenizer, which names the tokens and, if it is one of Hugging Face, those that are special.

        Raises:
            InvalidAttentionError: The outputs hold no attention, or not that of ``encoding``.
        """
        return [self._classify_model_input(each) for each in inputs_of(outputs, encoding, tokenizer)]

    def _classify_model_input(self, given: ModelInput) -> Classification:
        maps = read_attention(given.attention, given.data_type)
        declaration = read_declaration(
            maps.length,
            tokens=given.tokens,
            special_tokens=given.special_tokens,
            segments=given.segments,
            mask=given.mask,
        )
        return self._classify_input(replace(maps, axes=(given.layers, *maps.axes[1:])), declaration)

    def _classify_input(self, maps: AttentionMaps, declaration: Declaration) -> Classification:
        result = with_doubts(self.classify_read(maps, declaration))
        return replace(result, warnings=(*maps.warnings, *result.warnings))

    def classify_read(
        self, maps: AttentionMaps, declaration: Declaration, oversight: Oversight = UNWATCHED
    ) -> Classification:
        """Classifies maps that were read and declared.

        Raises:
            InvalidAttentionError: A map is not a self-attention map; subclasses name why.
            AbandonedError: The caller does not want the answer any more.
        """
        return self.classify_measured([self.measure_read(maps, declaration, oversight)], oversight)[0]

    def measure_read(
        self, maps: AttentionMaps, declaration: Declaration, oversight: Oversight = UNWATCHED
    ) -> MeasuredMaps:
        """Renders and measures maps, which may be dropped afterwards.

        Raises:
            InvalidAttentionError: A map is not a self-attention map; subclasses name why.
            AbandonedError: The caller does not want the answer any more.
        """
        causal, size = (
            find_causal(maps, declaration, map if self._caller.alone else self._threads.get().map),
            self.image_size,
        )

        def render(begin: int, end: int) -> Survey:
            started = time.perf_counter()
            result = survey(maps, declaration, causal, image_size=size, begin=begin, end=end)
            oversight.spent("render", time.perf_counter() - started)
            return result

        whole = Survey.join(self._share_out(len(maps.values), render, oversight))
        surveyed = SurveyedMaps(maps, declaration, whole)
        return MeasuredMaps(
            images=whole.images,
            causal=whole.causal.reshape(maps.leading),
            evidence=measure_evidence(surveyed),
            attention_to=MappingProxyType(dict(self._measure_groups(surveyed, oversight))),
            declaration=declaration.warn(*whole.warnings),
            layers=maps.layers,
        )

    def _measure_groups(self, surveyed: SurveyedMaps, oversight: Oversight) -> Iterator[tuple[str, AttentionTo]]:
        for group in surveyed.declaration.groups:
            oversight.check()
            yield group.name, measure_attention_to(surveyed, group)

    def classify_measured(
        self, inputs: Sequence[MeasuredMaps], oversight: Oversight = UNWATCHED
    ) -> list[Classification]:
        """Classifies inputs whose maps were measured; the net reads the images of all of them together.

        Raises:
            AbandonedError: The caller does not want the answer any more.
        """
        images = inputs[0].images if len(inputs) == 1 else np.concatenate([measured.images for measured in inputs])
        answer = self.classify_images(images, oversight)
        ends = np.cumsum([len(measured.images) for measured in inputs])[:-1]
        return [
            measured.classify(replace(answer, probabilities=probabilities))
            for measured, probabilities in zip(inputs, np.split(answer.probabilities, ends), strict=True)
        ]

    @contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """Makes the calling thread work alone inside, which is faster where all cores have callers."""
        before, self._caller.alone = self._caller.alone, True
        try:
            yield
        finally:
            self._caller.alone = before

    def _share_out(self, count: int, work: Callable[[int, int], _Result], oversight: Oversight) -> list[_Result]:
        """Works on maps ``begin`` to ``end - 1`` of each span, side by side on the cores."""

        def work_if_wanted(begin: int, end: int) -> _Result:
            oversight.check()
            return work(begin, end)

        bounds = list(pairwise([*range(0, count, SPAN), count]))
        if len(bounds) == 1 or self._caller.alone:  # the calling thread waits anyway
            return [work_if_wanted(*span) for span in bounds]
        return list(self._threads.get().map(work_if_wanted, *zip(*bounds, strict=True)))
