"""The classifier in this process: check, render, measure, classify."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from classifier.attention_map import SHORTEST_LABELLED, AttentionMaps, Declaration
from classifier.bundle import ModelBundle
from classifier.classification import Classification, Classifier
from classifier.measures import attention_to, evidence
from classifier.patterns import PATTERN_NAMES, PATTERNS, Pattern
from classifier.rendering import Survey, find_causal, survey
from classifier.session import NetSession

CHUNK = 36  # maps rendered and classified at a time: their images stay in the second-level cache
_BLOCK = PATTERNS.index(Pattern.BLOCK)


class PatternClassifier(Classifier):
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
        one = np.full((2, 2), 0.5)
        for array in (one, one.astype(np.float32), one.astype(np.float16)):
            self.classify(array)

    def classify_read(self, maps: AttentionMaps, declaration: Declaration) -> Classification:
        """Classifies maps that were read and declared, in chunks side by side on the cores."""
        seen, probabilities = self._survey_and_classify(maps, declaration)
        net = probabilities.argmax(axis=1)
        allowed = probabilities.copy()
        if declaration.one_segment:
            allowed[:, _BLOCK] = -1.0
        answer = allowed.argmax(axis=1)
        top = np.sort(probabilities, axis=1)
        return Classification(
            patterns=PATTERN_NAMES[answer].reshape(maps.leading),
            probabilities=probabilities.reshape(*maps.leading, len(PATTERNS)),
            margin=(top[:, -1] - top[:, -2]).reshape(maps.leading),
            uncertain=(probabilities[np.arange(len(answer)), answer] < self.bundle.uncertain_below).reshape(
                maps.leading
            ),
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

    def _survey_and_classify(self, maps: AttentionMaps, declaration: Declaration) -> tuple[Survey, NDArray[np.float32]]:
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
