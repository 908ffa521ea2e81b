"""The five self-attention patterns."""

from enum import StrEnum

import numpy as np


class Pattern(StrEnum):
    """The classes of Kovaleva et al. 2019, section 4.1, in the order used everywhere (arrays, bundle, wire, files)."""

    VERTICAL = "Vertical"
    DIAGONAL = "Diagonal"
    VERTICAL_DIAGONAL = "Vertical+Diagonal"
    BLOCK = "Block"
    HETEROGENEOUS = "Heterogeneous"


PATTERNS: tuple[Pattern, ...] = tuple(Pattern)
PATTERN_NAMES = np.array([str(pattern) for pattern in PATTERNS])  # [5], for arrays of names
