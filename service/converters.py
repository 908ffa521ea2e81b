"""All translation between messages and the library's types, as pairs: one writes what the other reads."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.attention_map import AttentionMaps, DataType, Declaration, read_attention, read_declaration
from classifier.bundle import ModelBundle
from classifier.classification import Classification
from classifier.errors import (
    DataTypeError,
    InvalidDeclarationError,
    SegmentsError,
    SelectionError,
    ServerError,
    ShapeError,
    TokenGroupsError,
)
from classifier.measures import AttentionTo, Evidence
from classifier.patterns import PATTERNS, Pattern
from service.errors import Failure
from service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb

LONGEST_REQUEST_ID = 256  # characters
_UINT32 = 2**32

_STORED = {
    pb.DATA_TYPE_FLOAT64: (DataType.FLOAT64, np.dtype("<f8")),
    pb.DATA_TYPE_FLOAT32: (DataType.FLOAT32, np.dtype("<f4")),
    pb.DATA_TYPE_FLOAT16: (DataType.FLOAT16, np.dtype("<f2")),
    pb.DATA_TYPE_BFLOAT16: (DataType.BFLOAT16, np.dtype("<u2")),
}
_DATA_TYPES = {stored: number for number, (stored, _) in _STORED.items()}
_CAUSAL = {
    pb.CAUSALITY_UNSPECIFIED: None,
    pb.CAUSALITY_CAUSAL: True,
    pb.CAUSALITY_BIDIRECTIONAL: False,
}
_CAUSALITIES = {causal: number for number, causal in _CAUSAL.items()}
# Numbers of the enum, in the order of PATTERNS.
_PATTERN_NUMBERS = [pb.Pattern.Value(f"PATTERN_{pattern.name}") for pattern in PATTERNS]
_NUMBER_OF = {str(pattern): number for pattern, number in zip(PATTERNS, _PATTERN_NUMBERS, strict=True)}
_NAME_OF = {number: name for name, number in _NUMBER_OF.items()}
_NAME_TYPE = np.array(list(_NUMBER_OF)).dtype


@dataclass(frozen=True)
class SentMaps(AttentionMaps):
    """Maps of a request, which may be a part or a selection of a tensor.

    Attributes:
        axes: for each leading axis, the index of each of its entries in the whole tensor.
    """

    axes: tuple[tuple[int, ...], ...] = ()

    def indices_of(self, index: int) -> tuple[int, ...]:
        """The indices of map ``index`` in the whole tensor, one for each leading axis."""
        place = np.unravel_index(index, self.leading) if self.leading else ()
        return tuple(axis[int(i)] for axis, i in zip(self.axes, place, strict=True))

    def where(self, index: int) -> str:
        """The name of a map in messages, by its indices in the whole tensor."""
        places = zip(self.names, self.indices_of(index), strict=True)
        inner = ", ".join(f"{name} {place}" for name, place in places)
        return f"attention[{inner}]" if inner else "attention"
