"""Rendering and measuring in this process, in chunks side by side on its cores; the net may be anywhere."""

import os
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import SHORTEST_LABELLED, AttentionMaps, Declaration
from attention_patterns.classification import Classification, Classifier
from attention_patterns.errors import AbandonedError, ModelReplacedError
from attention_patterns.measures import AttentionTo, Evidence, attention_to, evidence
from attention_patterns.patterns import PATTERN_NAMES, PATTERNS, Pattern
from attention_patterns.rendering import Survey, find_causal, survey

CHUNK = 36  # maps rendered and classified at a time: few enough to share out, enough to pay
_BLOCK = PATTERNS.index(Pattern.BLOCK)
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class NetAnswer:
    """What a net said of some images.

    Attributes:
        probabilities: float32 [images, 5], in the order of ``Pattern``.
        model: name and version of the net, "name version".
        sha256: of the net's ONNX file, hexadecimal.
        uncertain_below: answers of a lower probability are uncertain, 0 to 1.
    """

    probabilities: NDArray[np.float32]
    model: str
    sha256: str
    uncertain_below: float


@dataclass(frozen=True)
class Oversight:
    """How a caller follows a call and ends it; all are called by several threads at once.

    Attributes:
        wanted: asked before each chunk of maps; once it says False the call raises AbandonedError.
        spent: told a stage, "render" or "classify", and the seconds that a chunk took in it.
        seen: told the images of a chunk and what the net said of them.
    """

    wanted: Callable[[], bool] = lambda: True
    spent: Callable[[str, float], None] = lambda _stage, _seconds: None
    seen: Callable[[NDArray[np.uint8], NetAnswer], None] = lambda _images, _answer: None


UNWATCHED = Oversight()


@dataclass(frozen=True)
class MeasuredMaps:
    """What stays of the maps of one input when they are dropped: all that a net and a table ask for.

    Attributes:
        images: uint8 [maps, 3, size, size], as ``rendering.render`` makes them.
        causal: bool, leading axes.
        evidence: the pattern's elements; its arrays have the leading axes of the maps.
        attention_to: token group -> measures of the attention to it.
        declaration: what was declared of the input.
    """

    images: NDArray[np.uint8]
    causal: NDArray[np.bool_]
    evidence: Evidence
    attention_to: Mapping[str, AttentionTo]
    declaration: Declaration

    def without_images(self) -> "MeasuredMaps":
        """What is left to be told once the net has seen the images."""
        return replace(self, images=self.images[:0].copy())

    @classmethod
    def joined(cls, slabs: Sequence["MeasuredMaps"]) -> "MeasuredMaps":
        """One input of several slabs of its layers, each [layers, heads, L, L]."""
        if len(slabs) == 1:
            return slabs[0]
        return cls(
            images=np.concatenate([slab.images for slab in slabs]),
            causal=np.concatenate([slab.causal for slab in slabs]),
            evidence=_stacked([slab.evidence for slab in slabs]),
            attention_to={
                name: _stacked([slab.attention_to[name] for slab in slabs], same="positions")
                for name in slabs[0].attention_to
            },
            declaration=slabs[0].declaration,
        )


_Measures = TypeVar("_Measures", AttentionTo, Evidence)


def _stacked(slabs: Sequence[_Measures], same: str = "") -> _Measures:
    """Measures of layers, of which each has the first axis; the field ``same`` is of them all."""
    first = slabs[0]
    arrays = {field.name: [getattr(slab, field.name) for slab in slabs] for field in fields(first)}
    joint = {
        name: values[0] if name == same or values[0] is None else np.concatenate(values)
        for name, values in arrays.items()
    }
    return type(first)(**joint)


class _Caller(threading.local):
    alone = False


class ImageClassifier(Classifier):
    """Renders and measures here, and has a net read the images. Safe to share between threads."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Uses ``threads`` cores, all by default."""
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), thread_name_prefix="classify")
        self._caller = _Caller()

    @contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """What the calling thread asks for inside is done by itself, which is faster where all cores have callers."""
        before, self._caller.alone = self._caller.alone, True
        try:
            yield
        finally:
            self._caller.alone = before

    @abstractmethod
    def _image_size(self) -> int:
        """Pixels a side of the images that the net reads."""

    @abstractmethod
    def classify_images(self, images: NDArray[np.uint8], oversight: Oversight = UNWATCHED) -> NetAnswer:
        """What the net says of images uint8 [n, 3, size, size], as ``rendering.render`` makes them.

        Raises:
            AbandonedError: the caller does not want the answer any more.
        """

    def classify_read(
        self, maps: AttentionMaps, declaration: Declaration, oversight: Oversight = UNWATCHED
    ) -> Classification:
        """Classifies maps that were read and declared.

        Raises:
            InvalidAttentionError: a map is not a self-attention map; subclasses say why.
            AbandonedError: the caller does not want the answer any more.
        """
        return self.classify_measured([self.measure_read(maps, declaration, oversight)], oversight)[0]

    def measure_read(
        self, maps: AttentionMaps, declaration: Declaration, oversight: Oversight = UNWATCHED
    ) -> MeasuredMaps:
        """Renders and measures maps, which may be dropped then.

        Raises:
            InvalidAttentionError: a map is not a self-attention map; subclasses say why.
            AbandonedError: the caller does not want the answer any more.
        """
        causal, size = find_causal(maps, declaration, map if self._caller.alone else self._pool.map), self._image_size()

        def look(begin: int, end: int) -> Survey:
            started = time.perf_counter()
            seen = survey(maps, declaration, causal, image_size=size, begin=begin, end=end)
            oversight.spent("render", time.perf_counter() - started)
            return seen

        seen = Survey.joined(self._in_chunks(len(maps.values), look, oversight))
        return MeasuredMaps(
            images=seen.images,
            causal=seen.causal.reshape(maps.leading),
            evidence=evidence(maps, declaration, seen),
            attention_to=MappingProxyType(
                {group.name: attention_to(maps, declaration, seen, group) for group in declaration.groups}
            ),
            declaration=declaration,
        )

    def classify_measured(
        self, inputs: Sequence[MeasuredMaps], oversight: Oversight = UNWATCHED
    ) -> list[Classification]:
        """Classifies inputs whose maps were measured; the net reads the images of all of them together.

        Raises:
            AbandonedError: the caller does not want the answer any more.
        """
        images = inputs[0].images if len(inputs) == 1 else np.concatenate([one.images for one in inputs])
        answer = self.classify_images(images, oversight)
        ends = np.cumsum([len(one.images) for one in inputs])[:-1]
        return [
            _put_together(one, replace(answer, probabilities=probabilities))
            for one, probabilities in zip(inputs, np.split(answer.probabilities, ends), strict=True)
        ]

    def _in_chunks(self, count: int, work: Callable[[int, int], _Done], oversight: Oversight) -> list[_Done]:
        """Works on maps ``begin`` to ``end - 1`` of each chunk, side by side on the cores."""

        def wanted(begin: int, end: int) -> _Done:
            if not oversight.wanted():
                raise AbandonedError("the call was cancelled or its deadline is over")
            return work(begin, end)

        bounds = list(pairwise([*range(0, count, CHUNK), count]))
        if len(bounds) == 1 or self._caller.alone:  # the calling thread waits anyway
            return [wanted(*one) for one in bounds]
        return list(self._pool.map(wanted, *zip(*bounds, strict=True)))


def joined(answers: Sequence[NetAnswer]) -> NetAnswer:
    """The answer to the images of several answers, in their order.

    Raises:
        ModelReplacedError: they are of different nets.
    """
    first = answers[0]
    if len(answers) == 1:
        return first
    if any(answer.sha256 != first.sha256 for answer in answers):
        raise ModelReplacedError(f"some of the maps were read by {first.model}, others by its successor")
    return replace(first, probabilities=np.concatenate([answer.probabilities for answer in answers]))


def _put_together(measured: MeasuredMaps, answer: NetAnswer) -> Classification:
    declaration, leading, probabilities = measured.declaration, measured.causal.shape, answer.probabilities
    net = probabilities.argmax(axis=1)
    allowed = probabilities
    if declaration.one_segment:
        allowed = probabilities.copy()
        allowed[:, _BLOCK] = -1.0
    answered = allowed.argmax(axis=1)
    top = np.sort(probabilities, axis=1)
    uncertain = probabilities[np.arange(len(answered)), answered] < answer.uncertain_below
    return Classification(
        patterns=PATTERN_NAMES[answered].reshape(leading),
        probabilities=probabilities.reshape(*leading, len(PATTERNS)),
        margin=(top[:, -1] - top[:, -2]).reshape(leading),
        uncertain=uncertain.reshape(leading),
        overruled=(answered != net).reshape(leading),
        causal=measured.causal,
        evidence=measured.evidence,
        attention_to=measured.attention_to,
        length=declaration.length,
        too_short=declaration.length < SHORTEST_LABELLED,
        model=answer.model,
        warnings=declaration.warnings,
    )
