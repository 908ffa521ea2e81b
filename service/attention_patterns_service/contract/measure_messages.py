"""Measures as messages and back, field by field as they are declared: a measure has one name in both."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import DTypeLike, NDArray

from attention_patterns.measures import EVIDENCE, GROUP_MEASURES, AttentionTo, Evidence
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb

_Message = TypeVar("_Message", bound=Message)


def write_evidence(evidence: Evidence, length: int) -> list[pb.Evidence]:
    """Returns the message of each map of ``length`` tokens, padding included.

    A measure per token travels as the positions where it holds; a measure that a map does not have is left out.
    """
    columns: dict[str, list[Any]] = {}
    for name, measure in EVIDENCE.items():
        values = getattr(evidence, name)
        if values is None:
            continue
        if measure.per_token:
            columns[name] = [np.flatnonzero(row).tolist() for row in values.reshape(-1, length)]
        else:
            columns[name] = flat(values)
    for name, measure in EVIDENCE.items():
        if measure.given:
            given = zip(columns[name], columns[measure.given], strict=True)
            columns[name] = [value if condition else None for value, condition in given]
    return write_rows(pb.Evidence, columns)


def read_evidence(messages: Sequence[pb.Evidence], leading: tuple[int, ...], length: int) -> Evidence:
    """Returns the evidence that the messages of maps of ``length`` tokens hold, in the shape ``leading``."""
    values: dict[str, Any] = {}
    for name, measure in EVIDENCE.items():
        if measure.needs and not messages[0].HasField(name):
            values[name] = None
        elif measure.per_token:
            flags = np.zeros((len(messages), length), np.bool_)
            for row, message in zip(flags, messages, strict=True):
                row[list(getattr(message, name))] = True
            values[name] = flags.reshape(*leading, length)
        else:
            values[name] = read_column(messages, name, leading, measure.dtype)
    return Evidence(**values)


def write_attention_to(name: str, group: AttentionTo) -> list[pb.AttentionTo]:
    """Returns the message of each map on its attention to the group of that name."""
    shares = {measure: flat(getattr(group, measure)) for measure in GROUP_MEASURES}
    return write_rows(pb.AttentionTo, {"group": [name] * group.share.size, **shares})


def read_attention_to(
    group: pb.TokenGroupPositions, messages: Sequence[pb.AttentionTo], leading: tuple[int, ...]
) -> AttentionTo:
    """Returns the measures of one group that the messages of maps hold, in the shape ``leading``."""
    positions = np.array(group.positions, np.int64)
    measures = {name: read_column(messages, name, leading, measure.dtype) for name, measure in GROUP_MEASURES.items()}
    return AttentionTo(positions, **measures)


def flat(values: NDArray[Any]) -> list[Any]:
    """Returns an array's values as a list of one axis."""
    return list(values.ravel().tolist())


def write_rows(kind: Callable[..., _Message], columns: Mapping[str, Sequence[Any]]) -> list[_Message]:
    """Returns one message per entry of the columns, which are named like its fields."""
    return [kind(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def read_column(
    messages: Iterable[Message], name: str, leading: tuple[int, ...], dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """Returns a field of all messages as an array of the shape ``leading``."""
    return np.array([getattr(message, name) for message in messages], dtype).reshape(leading)
