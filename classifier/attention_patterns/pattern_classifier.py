"""The classifier whose net runs in this process."""

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attention_patterns.bundle import ModelBundle
from attention_patterns.classification import NetAnswer
from attention_patterns.classifier import UNWATCHED, Classifier, Oversight
from attention_patterns.session import NetSession


class PatternClassifier(Classifier):
    """A classifier of attention maps whose net runs in this process. Safe to share between threads."""

    def __init__(self, bundle: ModelBundle, *, threads: int | None = None) -> None:
        """Loads the net of ``bundle``; ``threads`` is the number of cores to use, all by default."""
        super().__init__(threads=threads)
        self.bundle = bundle
        self.model = f"{bundle.name} {bundle.version}"
        self._session = NetSession(bundle)

    @classmethod
    def load(cls, folder: str | os.PathLike[str] | None = None, *, threads: int | None = None) -> "PatternClassifier":
        """Loads the bundled model, or the bundle in ``folder``.

        Raises:
            BundleError: The bundle is missing, damaged, or made for another rendering.
        """
        return cls(ModelBundle.read(None if folder is None else Path(folder)), threads=threads)

    def warm_up(self) -> None:
        """Loads the compiled kernel for every data type, compiling it on a machine's first run (15 seconds)."""
        even = np.full((2, 2), 0.5)
        for array in (even, even.astype(np.float32), even.astype(np.float16)):
            self.classify(array)

    @property
    def image_size(self) -> int:
        """Pixels per side of the images that the net reads."""
        return self.bundle.image_size

    def classify_images(self, images: NDArray[np.uint8], oversight: Oversight = UNWATCHED) -> NetAnswer:
        """Has the net read images uint8 [n, 3, size, size], as ``rendering.render`` makes them.

        Raises:
            AbandonedError: The caller does not want the answer any more.
        """
        bundle = self.bundle

        def read(begin: int, end: int) -> NetAnswer:
            started = time.perf_counter()
            probabilities = self._session.probabilities(images[begin:end])
            oversight.spent("classify", time.perf_counter() - started)
            answer = NetAnswer(probabilities, self.model, bundle.sha256, bundle.uncertain_below)
            oversight.seen(images[begin:end], answer)
            return answer

        return NetAnswer.join(self._share_out(len(images), read, oversight))
