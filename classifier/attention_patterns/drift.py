"""The drift of incoming maps: their distance from the maps that the model was trained on."""

from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

HALF_LIFE = 5000  # maps after which an earlier map counts half
_FEWEST = 100  # maps below which every index is 0


def features(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Returns the features of images uint8 [n, 3, size, size] by name: mean darkness, float64 [n], 0 to 255."""
    darkness = images.mean(axis=(2, 3))  # [n, 3]
    return {"maximum": darkness[:, 0], "mean": darkness[:, 1], "relative_maximum": darkness[:, 2]}


def deciles(images: NDArray[np.uint8]) -> dict[str, list[float]]:
    """Returns the nine deciles of each feature over images uint8 [n, 3, size, size], as a bundle keeps them."""
    tenths = np.arange(1, 10) / 10
    return {name: np.quantile(values, tenths).round(3).tolist() for name, values in features(images).items()}


class Drift:
    """The population stability index of each feature over the latest maps.

    The index is sum (p - q) ln(p / q) over bins, with q of the training maps and p of the incoming maps; each bin holds
    a tenth of the training maps. By custom under 0.1 is no change and over 0.25 a shift (Siddiqi 2006, Credit Risk
    Scorecards, chapter 10).
    """

    def __init__(self, deciles: Mapping[str, Sequence[float]]) -> None:
        """Compares with training maps whose features have these nine ``deciles``."""
        self._edges = {name: np.asarray(edges, np.float64) for name, edges in deciles.items()}
        self._counts = {name: np.zeros(len(edges) + 1) for name, edges in deciles.items()}
        self._lock = Lock()

    def add(self, images: NDArray[np.uint8]) -> None:
        """Adds the images of incoming maps."""
        kept = 0.5 ** (len(images) / HALF_LIFE)
        for name, values in features(images).items():
            if name not in self._edges:
                continue
            added = np.bincount(np.searchsorted(self._edges[name], values), minlength=len(self._counts[name]))
            with self._lock:
                self._counts[name] = kept * self._counts[name] + added

    def indices(self) -> dict[str, float]:
        """Returns the index of each feature; 0 until a hundred maps have come."""
        return {name: _compute_index(n) if n.sum() >= _FEWEST else 0.0 for name, n in self._counts.items()}


def _compute_index(counts: NDArray[np.float64]) -> float:
    incoming = (counts + 0.5) / (counts + 0.5).sum()  # half a map more in each bin, since 0 has no logarithm
    training = 1 / len(counts)
    return float(((incoming - training) * np.log(incoming / training)).sum())
