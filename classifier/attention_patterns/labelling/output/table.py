"""The tables of a run, labels, inputs, maps and heads: the one place that declares their columns.

``labels`` has one row per input, layer and head; ``inputs`` one row per input; ``maps`` one image per head of some
inputs, or of all with ``--keep-maps``. Rows of the three belong together by task, input_id, part and model. ``heads``
sums them up: one row per task, model, part, layer and head.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from attention_patterns.classification import Classification
from attention_patterns.labelling.sources.source import InputName, MeasuredInput
from attention_patterns.measures import EVIDENCE, GROUP_MEASURES, Evidence, Measure
from attention_patterns.patterns import PATTERN_NAMES, PATTERNS
from attention_patterns.rendering import RENDERING_VERSION

SCHEMA_VERSION = 4  # raised whenever a column changes its name, type or meaning

_NAME = pa.dictionary(pa.int32(), pa.string())  # few values, each many times
_KEY = [
    ("task", _NAME),  # given as TASK=PATH, or the name of the file, folder or data set
    ("input_id", pa.string()),  # unique within the task
    ("part", _NAME),  # "encoder", "decoder", or null where the source does not know
    ("model", _NAME),  # the transformer's folder or hub name; null for dumps
]
# Null where a measure is NaN: share_from_outside, where the group is the whole input.
_ATTENTION_TO = pa.struct([("group", pa.string()), *((name, pa.float32()) for name in GROUP_MEASURES)])
PATTERN_COLUMNS = tuple(pattern.lower().replace("+", "_") for pattern in PATTERNS)
PROBABILITIES = tuple(f"probability_{name}" for name in PATTERN_COLUMNS)
HEAD_MEASURES = tuple(name for name, measure in EVIDENCE.items() if measure.of_heads)  # with their means in ``heads``
HEAD_GROUP_MEASURES = tuple(name for name, measure in GROUP_MEASURES.items() if measure.of_heads)


def _column_type(measure: Measure) -> pa.DataType:
    """Returns the type of a measure's column; a measure of each token is the list of key positions where it holds."""
    return pa.list_(pa.int32()) if measure.per_token else pa.from_numpy_dtype(np.dtype(measure.dtype))


LABELS = pa.schema(
    [
        *_KEY,
        ("revision", _NAME),  # the model's commit on the hub; null where it has none
        ("layer", pa.int32()),  # 0 where the tensor has no layer axis
        ("head", pa.int32()),  # 0 where the tensor has no head axis
        ("length", pa.int32()),  # tokens, padding not counted
        ("pattern", pa.dictionary(pa.int8(), pa.string())),
        *((name, pa.float32()) for name in PROBABILITIES),  # the answer of the net
        ("margin", pa.float32()),
        ("uncertain", pa.bool_()),
        ("overruled", pa.bool_()),
        ("causal", pa.bool_()),
        ("too_short", pa.bool_()),
        *((name, _column_type(measure)) for name, measure in EVIDENCE.items()),  # null where an input has none
        ("attention_to", pa.list_(_ATTENTION_TO)),  # special tokens, then others
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
        ("segments", pa.list_(pa.int32())),  # without padding; null where they were not declared
        ("layers", pa.int32()),  # number of labelled layers
        ("heads", pa.int32()),  # number of labelled heads of each layer
        ("warnings", pa.list_(pa.string())),
    ]
)
MAPS = pa.schema([*_KEY, ("layer", pa.int32()), ("head", pa.int32()), ("image", pa.binary())])  # uint8 [3, size, size]
_MEAN = pa.float32()  # over the inputs that have the measure; null where none has
_MEANS_TO = pa.struct(
    [
        ("group", pa.string()),
        ("inputs", pa.int64()),  # that hold the group
        *((name, _MEAN) for name in HEAD_GROUP_MEASURES),
    ]
)
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
        ("pattern", _NAME),  # the commonest over the inputs
        *(
            (f"{end}_{name}", pa.float32()) for name in PATTERN_COLUMNS for end in ("share", "low", "high")
        ),  # 0 to 1; Wilson's
        ("entropy", pa.float32()),  # of the pattern over inputs, bits
        ("uncertain", pa.float32()),  # share of the inputs
        *((name, _MEAN) for name in HEAD_MEASURES),
        (
            "attention_to",
            pa.list_(_MEANS_TO),
        ),
    ]
)

_KEYS = len(_KEY) + 1  # columns that name the input, with the revision, in ``labels`` and ``inputs``
_ANSWER_COLUMNS = ("margin", "uncertain", "overruled", "causal")


def with_versions(schema: pa.Schema) -> pa.Schema:
    """Returns the schema with the versions of the columns and of the rendering as the file's metadata."""
    versions = {"schema_version": SCHEMA_VERSION, "rendering_version": RENDERING_VERSION}
    return schema.with_metadata({name: str(version) for name, version in versions.items()})


Labelled = tuple[MeasuredInput, Classification]


def label_rows(inputs: Sequence[Labelled]) -> pa.RecordBatch:
    """Returns the rows of inputs in ``labels``, those of each input layer by layer."""
    measured, results = [each for each, _ in inputs], [result for _, result in inputs]
    evidence = [result.evidence for result in results]
    maps = [result.patterns.size for result in results]
    rows = np.repeat(np.arange(len(inputs)), maps)
    columns = {
        "layer": _layers(measured),
        "head": _heads(measured),
        "length": np.array([result.length for result in results], np.int32)[rows],
        "pattern": _encode_patterns(_concatenate([result.patterns for result in results])),
        **dict(zip(PROBABILITIES, _probabilities(results).T, strict=True)),
        **{name: _concatenate([getattr(result, name) for result in results]) for name in _ANSWER_COLUMNS},
        "too_short": np.array([result.too_short for result in results])[rows],
        **{name: _evidence_column(name, measure, evidence, maps) for name, measure in EVIDENCE.items()},
        "attention_to": _attention_to(results),
        "classifier": _encode_names([result.model for result in results], rows),
        "rendering_version": np.full(len(rows), RENDERING_VERSION, np.int16),
    }
    others = [columns[field.name] for field in list(LABELS)[_KEYS:]]
    return pa.record_batch([*_name_columns(measured, rows), *others], schema=LABELS)


def input_rows(inputs: Sequence[Labelled]) -> pa.RecordBatch:
    """Returns the row of each input in ``inputs``; the source's warnings stand before those of the classification."""
    measured = [each for each, _ in inputs]
    columns = {
        "length": [result.length for _, result in inputs],
        "tokens": [each.maps.declaration.tokens for each in measured],
        "segments": [each.maps.declaration.segments for each in measured],
        "layers": [len(each.layers) for each in measured],
        "heads": [len(each.heads) for each in measured],
        "warnings": [[*each.warnings, *result.warnings] for each, result in inputs],
    }
    others = [pa.array(columns[field.name], field.type) for field in list(INPUTS)[_KEYS:]]
    return pa.record_batch([*_name_columns(measured, np.arange(len(measured))), *others], schema=INPUTS)


def map_rows(inputs: Sequence[MeasuredInput]) -> pa.RecordBatch:
    """Returns the rows of inputs in ``maps``."""
    rows = np.repeat(np.arange(len(inputs)), [len(measured.maps.images) for measured in inputs])
    images = pa.array([image.tobytes() for measured in inputs for image in measured.maps.images], pa.binary())
    columns = [*_name_columns(inputs, rows)[: len(_KEY)], _layers(inputs), _heads(inputs), images]
    return pa.record_batch(columns, schema=MAPS)


def error_row(name: InputName, error: Exception) -> dict[str, str | None]:
    """Returns a failure as a line of the errors file."""
    return {**vars(name), "error": type(error).__name__, "message": str(error)}


def _concatenate(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Joins arrays of any shapes into one of one axis."""
    return np.concatenate([array.ravel() for array in arrays])


def _layers(inputs: Sequence[MeasuredInput]) -> NDArray[np.int32]:
    """Returns the layer of each map, int32 [maps]."""
    return _concatenate([np.repeat(np.asarray(measured.layers, np.int32), len(measured.heads)) for measured in inputs])


def _heads(inputs: Sequence[MeasuredInput]) -> NDArray[np.int32]:
    """Returns the head of each map, int32 [maps]."""
    return _concatenate([np.tile(np.asarray(measured.heads, np.int32), len(measured.layers)) for measured in inputs])


def _name_columns(inputs: Sequence[MeasuredInput], rows: NDArray[np.int64]) -> list[pa.Array]:
    """Returns the columns that name the input, with the revision; ``rows`` holds the place of each row's input."""
    names = [measured.name for measured in inputs]
    ids = pa.array([name.input_id for name in names], pa.string()).take(pa.array(rows))
    task, part, model, revision = (
        _encode_names([getattr(name, field) for name in names], rows) for field in ("task", "part", "model", "revision")
    )
    return [task, ids, part, model, revision]


def _encode_names(values: Sequence[str | None], rows: NDArray[np.int64]) -> pa.DictionaryArray:
    """Returns the value of each row's input, where few values differ."""
    coded = pa.array(values, pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(coded.indices.take(pa.array(rows)), coded.dictionary)


def _encode_patterns(names: NDArray[np.str_]) -> pa.DictionaryArray:
    codes = (names[:, None] == PATTERN_NAMES).argmax(axis=1)
    return pa.DictionaryArray.from_arrays(codes.astype(np.int8), pa.array(PATTERN_NAMES))


def _probabilities(results: Sequence[Classification]) -> NDArray[np.float32]:
    return np.concatenate([result.probabilities.reshape(-1, len(PATTERNS)) for result in results])


def _evidence_column(name: str, measure: Measure, evidence: Sequence[Evidence], maps: Sequence[int]) -> pa.Array:
    """Returns a measure of all maps; ``maps`` are the numbers of maps of the inputs."""
    values = [getattr(each, name) for each in evidence]
    if measure.per_token:
        return _positions([flags.reshape(n, -1) for flags, n in zip(values, maps, strict=True)])
    absent = np.repeat([array is None for array in values], maps)
    filled = [np.zeros(n, measure.dtype) if array is None else array for array, n in zip(values, maps, strict=True)]
    if measure.given:
        absent |= _concatenate([getattr(each, measure.given) for each in evidence]) == 0
    return pa.array(_concatenate(filled), mask=absent)


def _positions(flags: Sequence[NDArray[np.bool_]]) -> pa.ListArray:
    """Returns the positions of True in each row; ``flags`` holds [maps, L] per input."""
    counts = _concatenate([maps.sum(axis=1) for maps in flags])
    positions = _concatenate([maps.nonzero()[1] for maps in flags])
    return pa.ListArray.from_arrays(_offsets(counts), positions.astype(np.int32))


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.concatenate([[0], counts.cumsum()]).astype(np.int32)


def _attention_to(results: Sequence[Classification]) -> pa.ListArray:
    """Returns the attention of each map to each token group, one struct per group."""
    names = [name for result in results for name in list(result.attention_to) * result.patterns.size]
    arrays = [pa.array(names, pa.string())]
    for field in list(_ATTENTION_TO)[1:]:
        stacked = [
            np.stack([getattr(group, field.name).ravel() for group in result.attention_to.values()], axis=1)
            for result in results
            if result.attention_to
        ]  # each [maps, groups]
        values = _concatenate(stacked).astype(np.float32) if stacked else np.empty(0, np.float32)
        arrays.append(pa.array(values, mask=np.isnan(values)))
    groups = np.repeat([len(result.attention_to) for result in results], [result.patterns.size for result in results])
    return pa.ListArray.from_arrays(_offsets(groups), pa.StructArray.from_arrays(arrays, fields=list(_ATTENTION_TO)))
