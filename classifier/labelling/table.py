"""The tables of a run: labels, inputs, maps and heads. This is the one place that says what their columns are.

``labels`` has one row an input, layer and head; ``inputs`` one row an input; ``maps`` the images of the heads of some
inputs, or of all with ``--keep-maps``. Rows of the three belong together by task, input_id, part and model. ``heads``
sums them up: one row a task, model, part, layer and head.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from classifier.classification import Classification
from classifier.labelling.source import InputName, MeasuredInput
from classifier.patterns import PATTERN_NAMES, PATTERNS
from classifier.rendering import RENDERING_VERSION

SCHEMA_VERSION = 3  # raised whenever a column changes its name, type or meaning

_NAME = pa.dictionary(pa.int32(), pa.string())  # few values, each many times
_KEY = [
    ("task", _NAME),  # the file, folder or data set
    ("input_id", pa.string()),  # unique within the task
    ("part", _NAME),  # "encoder", "decoder", or null where the source does not tell
    ("model", _NAME),  # the transformer's folder or hub name; null for dumps
]
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
PATTERN_COLUMNS = tuple(pattern.lower().replace("+", "_") for pattern in PATTERNS)
PROBABILITIES = tuple(f"probability_{name}" for name in PATTERN_COLUMNS)
MEASURES = ("visible_mass", "stripe_mass", "line_mass", "stripe_or_line_mass", "segment_mass", "row_entropy")
GROUP_MEASURES = ("share", "max_token_share", "baseline")  # that ``heads`` has the means of

LABELS = pa.schema(
    [
        *_KEY,
        ("revision", _NAME),  # the model's commit on the hub; null where it has none
        ("layer", pa.int32()),  # 0 where the tensor has no layer axis
        ("head", pa.int32()),  # 0 where the tensor has no head axis
        ("length", pa.int32()),  # tokens, padding not counted
        ("pattern", pa.dictionary(pa.int8(), pa.string())),
        *((name, pa.float32()) for name in PROBABILITIES),  # what the net said
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
        ("classifier", _NAME),  # "name version" of the net
        ("rendering_version", pa.int16()),
    ]
)
INPUTS = pa.schema(
    [
        *_KEY,
        ("revision", _NAME),
        ("length", pa.int32()),
        ("tokens", pa.list_(pa.string())),  # without padding; null where they were not declared
        ("segments", pa.list_(pa.int32())),  # likewise
        ("layers", pa.int32()),  # how many were labelled
        ("heads", pa.int32()),
        ("warnings", pa.list_(pa.string())),
    ]
)
MAPS = pa.schema([*_KEY, ("layer", pa.int32()), ("head", pa.int32()), ("image", pa.binary())])  # uint8 [3, size, size]
_MEAN = pa.float32()  # over the inputs that have the measure; null where none has
HEADS = pa.schema(
    [
        ("task", _NAME),
        ("part", _NAME),
        ("model", _NAME),
        ("revision", _NAME),
        ("layer", pa.int32()),
        ("head", pa.int32()),
        ("inputs", pa.int64()),
        ("verdict", _NAME),  # "stable" or "mixed"
        ("pattern", _NAME),  # the commonest
        *((f"{end}_{name}", pa.float32()) for name in PATTERN_COLUMNS for end in ("share", "low", "high")),  # Wilson's
        ("entropy", pa.float32()),  # of the pattern over inputs, bits
        ("uncertain", pa.float32()),  # share of the inputs
        *((name, _MEAN) for name in MEASURES),
        ("attention_to", pa.list_(pa.struct([("group", pa.string()), *((name, _MEAN) for name in GROUP_MEASURES)]))),
    ]
)


def versioned(schema: pa.Schema, **metadata: int | str) -> pa.Schema:
    """``schema`` with the versions of schema and rendering, and what else is given, as the file's metadata."""
    said = {"schema_version": SCHEMA_VERSION, "rendering_version": RENDERING_VERSION, **metadata}
    return schema.with_metadata({name: str(value) for name, value in said.items()})


def label_rows(one: MeasuredInput, result: Classification) -> pa.RecordBatch:
    """The rows of one input in ``labels``, layer by layer."""
    layers, heads = result.patterns.shape
    evidence = result.evidence
    columns = {
        "layer": np.repeat(np.asarray(one.layers, np.int32), heads),
        "head": np.tile(np.asarray(one.heads, np.int32), layers),
        "pattern": _patterns(result),
        **dict(zip(PROBABILITIES, result.probabilities.reshape(-1, len(PATTERNS)).T, strict=True)),
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
        **vars(one.name),
        "length": result.length,
        "too_short": result.too_short,
        "segment_mass": None,
        "classifier": result.model,
        "rendering_version": RENDERING_VERSION,
    }
    return _batch(LABELS, columns, same, layers * heads)


def input_row(one: MeasuredInput, result: Classification) -> pa.RecordBatch:
    """The row of one input in ``inputs``; the source's warnings stand before those of ``result``."""
    declared = one.maps.declaration
    same = {
        **vars(one.name),
        "length": result.length,
        "tokens": declared.tokens,
        "segments": declared.segments,
        "layers": len(one.layers),
        "heads": len(one.heads),
        "warnings": [*one.warnings, *result.warnings],
    }
    return _batch(INPUTS, {}, same, 1)


def map_rows(one: MeasuredInput) -> pa.RecordBatch:
    """The rows of one input in ``maps``."""
    layers, heads = len(one.layers), len(one.heads)
    columns = {
        "layer": np.repeat(np.asarray(one.layers, np.int32), heads),
        "head": np.tile(np.asarray(one.heads, np.int32), layers),
        "image": pa.array([image.tobytes() for image in one.maps.images], pa.binary()),
    }
    return _batch(MAPS, columns, vars(one.name), layers * heads)


def error_row(name: InputName, error: Exception) -> dict[str, str | None]:
    """A line of the errors file."""
    return {**vars(name), "error": type(error).__name__, "message": str(error)}


def _batch(schema: pa.Schema, columns: dict[str, Any], same: dict[str, Any], count: int) -> pa.RecordBatch:
    """Columns as they are; what is the same in all rows, repeated."""
    arrays = [columns[f.name] if f.name in columns else _repeated(same[f.name], f.type, count) for f in schema]
    return pa.record_batch(arrays, schema=schema)


def _repeated(value: Any, kind: pa.DataType, count: int) -> pa.Array:
    if not pa.types.is_dictionary(kind):
        return pa.repeat(pa.scalar(value, kind), count)
    codes = pa.nulls(count, kind.index_type) if value is None else np.zeros(count, np.int32)
    return pa.DictionaryArray.from_arrays(codes, pa.array([] if value is None else [value], pa.string()))


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


def one_table(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """All rows as a table of one chunk a column and one dictionary each."""
    return pa.Table.from_batches(batches, schema=schema).unify_dictionaries().combine_chunks()
