"""Rendering and measuring in this process, in chunks side by side on its cores; the net may be anywhere."""

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from classifier.attention_map import SHORTEST_LABELLED, AttentionMaps, Declaration
from classifier.classification import Classification, Classifier
from classifier.errors import AbandonedError, ModelReplacedError
from classifier.measures import attention_to, evidence
from classifier.patterns import PATTERN_NAMES, PATTERNS, Pattern
from classifier.rendering import Survey, find_causal, survey

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


class ImageClassifier(Classifier):
    """Renders and measures here, and has a net read the images. Safe to share between threads."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Uses ``threads`` cores, all by default."""
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), thread_name_prefix="classify")

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
        causal, size = find_causal(maps, declaration, self._pool.map), self._image_size()

        def look(begin: int, end: int) -> Survey:
            started = time.perf_counter()
            seen = survey(maps, declaration, causal, image_size=size, begin=begin, end=end)
            oversight.spent("render", time.perf_counter() - started)
            return seen

        seen = Survey.joined(self._in_chunks(len(maps.values), look, oversight))
        return _put_together(maps, declaration, seen, self.classify_images(seen.images, oversight))

    def _in_chunks(self, count: int, work: Callable[[int, int], _Done], oversight: Oversight) -> list[_Done]:
        """Works on maps ``begin`` to ``end - 1`` of each chunk, side by side on the cores."""

        def wanted(begin: int, end: int) -> _Done:
            if not oversight.wanted():
                raise AbandonedError("the call was cancelled or its deadline is over")
            return work(begin, end)

        bounds = list(pairwise([*range(0, count, CHUNK), count]))
        if len(bounds) == 1:  # the calling thread waits anyway
            return [wanted(*bounds[0])]
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


def _put_together(maps: AttentionMaps, declaration: Declaration, seen: Survey, answer: NetAnswer) -> Classification:
    probabilities = answer.probabilities
    net = probabilities.argmax(axis=1)
    allowed = probabilities
    if declaration.one_segment:
        allowed = probabilities.copy()
        allowed[:, _BLOCK] = -1.0
    answered = allowed.argmax(axis=1)
    top = np.sort(probabilities, axis=1)
    uncertain = probabilities[np.arange(len(answered)), answered] < answer.uncertain_below
    return Classification(
        patterns=PATTERN_NAMES[answered].reshape(maps.leading),
        probabilities=probabilities.reshape(*maps.leading, len(PATTERNS)),
        margin=(top[:, -1] - top[:, -2]).reshape(maps.leading),
        uncertain=uncertain.reshape(maps.leading),
        overruled=(answered != net).reshape(maps.leading),
        causal=seen.causal.reshape(maps.leading),
        evidence=evidence(maps, declaration, seen),
        attention_to=MappingProxyType(
            {group.name: attention_to(maps, declaration, seen, group) for group in declaration.groups}
        ),
        length=declaration.length,
        too_short=declaration.length < SHORTEST_LABELLED,
        model=answer.model,
        warnings=declaration.warnings,
    )
