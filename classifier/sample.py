"""The bundled sample: attention of the MiniLM encoder (6 layers x 12 heads) for a pair of sentences."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SAMPLE = Path(__file__).parent / "assets" / "sample.npz"


@dataclass(frozen=True)
class Sample:
    """Attention float16 [6, 12, L, L], the tokens and their segment ids, int64 [L]."""

    attention: NDArray[np.float16]
    tokens: tuple[str, ...]
    segments: NDArray[np.int64]


def load_sample() -> Sample:
    """Reads the bundled sample."""
    with np.load(SAMPLE, allow_pickle=False) as archive:
        return Sample(archive["attention"], tuple(str(token) for token in archive["tokens"]), archive["segments"])
