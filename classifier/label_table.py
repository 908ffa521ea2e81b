"""The labeller's table: one row a head and input. This is the one place that says what its columns are."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from classifier.classification import Classification
from classifier.patterns import PATTERN_NAMES, PATTERNS

SCHEMA_VERSION = 2  # raised whenever a column changes its name, type or meaning

_ATTENTION_TO = pa.struct(
    [
        ("group", pa.string()),
        ("share", pa.float32()),
        ("max_token_share", pa.float32()),
        ("baseline", pa.float32()),
        ("share_from_outside", pa.float32()),  # null where the group is the whole input
        ("share_from_inside", pa.float32()),
    ]
)
_PROBABILITIES = tuple(f"probability_{pattern.lower().replace('+', '_')}" for pattern in PATTERNS)

SCHEMA = pa.schema(
    [
        ("input_id", pa.string()),
        ("part", pa.string()),  # "encoder", "decoder", or null where the source does not tell
        ("layer", pa.int32()),  # 0 where the tensor has no layer axis
        ("head", pa.int32()),  # 0 where the tensor has no head axis
        ("length", pa.int32()),  # tokens, padding not counted
        ("pattern", pa.dictionary(pa.int8(), pa.string())),
        *((name, pa.float32()) for name in _PROBABILITIES),  # what the net said
        ("margin", pa.float32()),
        ("uncertain", pa.bool_()),
        ("overruled", pa.bool_()),
        ("causal", pa.bool_()),
        ("too_short", pa.bool_()),
        ("visible_mass", pa.float32()),
        ("stripe_mass", pa.float32()),
        ("stripes", pa.list_(pa.int32())),  # key positions in the matrix as sent
        ("line_mass", pa.float32()),
        ("line_offset", pa.int32()),  # key minus query; null where there is no line
        ("stripe_or_line_mass", pa.float32()),
        ("segment_mass", pa.float32()),  # null where segments were not declared
        ("row_entropy", pa.float32()),  # nats
        ("attention_to", pa.list_(_ATTENTION_TO)),  # special tokens in order of appearance
        ("warnings", pa.list_(pa.string())),
        ("model", pa.string()),  # "name version" of the net
    ]
)


def table_schema(rendering_version: int | None = None) -> pa.Schema:
    """``SCHEMA`` with its version, and the rendering's where it is known, as the file's metadata."""
    versions = {"schema_version": SCHEMA_VERSION, "rendering_version": rendering_version}
    return SCHEMA.with_metadata({name: str(version) for name, version in versions.items() if version is not None})


def head_rows(
    result: Classification, *, input_id: str, part: str | None = None, warnings: Sequence[str] = ()
) -> pa.RecordBatch:
    """The rows of one input, layer by layer; ``warnings`` are the source's, before those of ``result``."""
    layers, heads = (1,) * (2 - result.patterns.ndim) + result.patterns.shape
    evidence = result.evidence
    columns = {
        "layer": np.repeat(np.arange(layers, dtype=np.int32), heads),
        "head": np.tile(np.arange(heads, dtype=np.int32), layers),
        "pattern": _patterns(result),
        **dict(zip(_PROBABILITIES, result.probabilities.reshape(-1, len(PATTERNS)).T, strict=True)),
        **{name: getattr(result, name).ravel() for name in ("margin", "uncertain", "overruled", "causal")},
        **{name: getattr(evidence, name).ravel() for name in ("visible_mass", "stripe_mass", "line_mass")},
        "stripes": _positions(evidence.stripes.reshape(layers * heads, -1)),
        "line_offset": pa.array(evidence.line_offset.ravel(), mask=evidence.line_mass.ravel() == 0),
        "stripe_or_line_mass": evidence.stripe_or_line_mass.ravel(),
        "row_entropy": evidence.row_entropy.ravel(),
        "attention_to": _attention_to(result),
    }
    if evidence.segment_mass is not None:
        columns["segment_mass"] = evidence.segment_mass.ravel()
    same = {
        "input_id": input_id,
        "part": part,
        "length": result.length,
        "too_short": result.too_short,
        "segment_mass": None,
        "warnings": [*warnings, *result.warnings],
        "model": result.model,
    }
    for field in SCHEMA:
        if field.name not in columns:
            columns[field.name] = pa.repeat(pa.scalar(same[field.name], field.type), layers * heads)
    return pa.record_batch([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def _patterns(result: Classification) -> pa.DictionaryArray:
    codes = (result.patterns.reshape(-1, 1) == PATTERN_NAMES).argmax(axis=1)
    return pa.DictionaryArray.from_arrays(codes.astype(np.int8), pa.array(PATTERN_NAMES))


def _positions(flags: NDArray[np.bool_]) -> pa.ListArray:
    """For each row of [maps, L] where it is True."""
    offsets = np.concatenate([[0], flags.sum(axis=1).cumsum()])
    return pa.ListArray.from_arrays(offsets.astype(np.int32), flags.nonzero()[1].astype(np.int32))


def _attention_to(result: Classification) -> pa.ListArray:
    """For each map one struct a group."""
    names, groups, count = list(result.attention_to), list(result.attention_to.values()), result.patterns.size
    arrays = [pa.array(names * count, pa.string())]
    for field in list(_ATTENTION_TO)[1:]:
        measures = [getattr(group, field.name).ravel() for group in groups]  # each [maps]
        values = np.stack(measures, axis=1).ravel() if groups else np.empty(0, np.float32)
        arrays.append(pa.array(values, mask=np.isnan(values)))
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * len(names))
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=list(_ATTENTION_TO)))
