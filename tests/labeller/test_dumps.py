"""Dumps of attention in every format, whole and damaged."""

import json
import os
import pickle
import shlex
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file
from transformers import AutoModel, AutoTokenizer

from attention_patterns.classification import with_doubts
from attention_patterns.errors import (
    AttentionPatternsError,
    DataTypeError,
    InvalidSettingsError,
    MissingExtraError,
    NotCausalError,
    RowSumError,
    SegmentsError,
    SelectionError,
    ShapeError,
    SourceError,
    TokensError,
)
from attention_patterns.labelling.sources.dumps import plan as dump_plan
from attention_patterns.labelling.sources.dumps import source as dumps
from attention_patterns.labelling.sources.dumps.byte_sources import FileBytes
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.dumps.plan import EXAMPLES, DumpSlice, dump_tasks
from attention_patterns.labelling.sources.dumps.safetensors_header import read_tensors
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.source import FailedInput, MeasuredInput, Selection
from attention_patterns.programs.extras import install_command
from attention_patterns.sample import sample_encoder
from tests.helpers.equality import assert_equal

TOKENS = ["[CLS]", *"abcdefg", "[SEP]"]
SEGMENTS = [0] * 5 + [1] * 4
ENOUGH = 2**30
FORMATS = ["npy", "npy_fortran", "npz", "npz_deflated", "safetensors", "parquet", "parquet_lists", "zarr2", "zarr3"]


def attention(*shape, dtype=np.float32, causal=False, seed=0):
    scores = np.exp(np.random.default_rng(seed).normal(size=shape))
    scores = np.tril(scores) if causal else scores
    return (scores / scores.sum(axis=-1, keepdims=True)).astype(dtype)


def save(folder, name, values, **declared):
    """Writes a dump in one of FORMATS and returns its path; ``declared`` are arrays, tokens a list."""
    folder.mkdir(exist_ok=True)
    path = folder / f"one.{name.partition('_')[0].rstrip('23')}"
    if name.startswith("npy"):
        np.save(path, np.asfortranarray(values) if "fortran" in name else values)
    elif name.startswith("npz"):
        (np.savez_compressed if "deflated" in name else np.savez)(path, attention=values, **declared)
    elif name == "safetensors":
        texts = {key: json.dumps(declared.pop(key)) for key in ("tokens", "special_tokens") if key in declared}
        save_file({"attention": values, **declared}, path, metadata=texts or None)
    elif name.startswith("parquet"):
        many = values if values.ndim == 5 else np.array(values[None], order="C")
        rows = {key: value if values.ndim == 5 else [value] for key, value in declared.items()}
        column = many.tolist() if "lists" in name else pa.FixedShapeTensorArray.from_numpy_ndarray(many)
        if "lists" in name:
            kind = pa.from_numpy_dtype(many.dtype)
            for _ in many.shape[1:]:
                kind = pa.list_(kind)
            column = pa.array(column, kind)
        columns = {
            key: [one.tolist() if hasattr(one, "tolist") else one for one in value] for key, value in rows.items()
        }
        pq.write_table(pa.table({"attention": column, **columns}), path, row_group_size=2)
    else:
        group = zarr.open_group(path, mode="w", zarr_format=int(name[-1]))
        group.create_array("attention", data=values, chunks=(*(1,) * (values.ndim - 2), *values.shape[-2:]))
        for key, value in declared.items():
            if key in ("tokens", "special_tokens"):
                strings = np.array(value, object)
                group.create_array(key, shape=strings.shape, dtype=str)[:] = strings
            else:
                group.create_array(key, data=np.asarray(value))
    return path


def source(*paths, axes=Axes.INPUTS_FIRST, **options):
    return DumpSource(dump_tasks([str(path) for path in paths]), axes=axes, **options)


def outcomes(dump_source, classifier, most_bytes=ENOUGH):
    found = {}
    for unit in dump_source.units():
        names = dump_source.names(unit)
        assert len(names) == unit.inputs
        for place, one in dump_source.measure(unit, classifier, most_bytes=most_bytes):
            assert one.name == names[place]
            assert one.name.input_id not in found
            found[one.name.input_id] = one
        assert list(found)[-unit.inputs :] == [name.input_id for name in names]
    return found


def failure(path, classifier, kind=SourceError, **options):
    (one,) = outcomes(source(path), classifier, **options).values()
    assert isinstance(one, FailedInput), one
    assert type(one.error) is kind, one.error
    assert one.error.__traceback__ is None
    return str(one.error)


def assert_as_classified(measured, classifier, values, **declared):
    """Checks that the input is classified to the last bit as ``classify`` does the array."""
    assert isinstance(measured, MeasuredInput), measured
    result = with_doubts(classifier.classify_measured([measured.maps])[0])
    layered = values.reshape((1,) * (4 - values.ndim) + values.shape)
    whole = classifier.classify(layered, **declared)
    assert_equal(replace(result, layers=whole.layers), whole)  # of a source, the input has them
    given_shape = classifier.classify(values, **declared)
    assert result.patterns.ravel().tolist() == given_shape.patterns.ravel().tolist()
    assert result.causal.ravel().tolist() == given_shape.causal.ravel().tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 9), (3, 9, 9), (2, 3, 9, 9), (5, 2, 3, 9, 9)])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_shape_and_dtype_is_classified_as_the_array(tmp_path, classifier, name, shape, dtype):
    values = attention(*shape, dtype=dtype)
    path = save(tmp_path, name, values)
    found = outcomes(source(path), classifier)
    rows = values if len(shape) == 5 else values[None]
    many = len(shape) == 5 or "parquet" in name
    assert list(found) == [f"{path.name}[{n}]" if many else path.name for n in range(len(rows))]
    for one, expected in zip(found.values(), rows, strict=True):
        assert_as_classified(one, classifier, expected)
        layers, heads = ((1,) * (4 - expected.ndim) + expected.shape)[:2]
        assert (list(one.layers), list(one.heads)) == (list(range(layers)), list(range(heads)))


@pytest.mark.parametrize("shape", [(3, 9, 9), (2, 3, 9, 9), (4, 2, 3, 9, 9)])
def test_bfloat16_of_safetensors(tmp_path, classifier, shape):
    values = torch.from_numpy(attention(*shape)).bfloat16()
    save_torch_file({"other": torch.ones(3), "attention": values}, tmp_path / "b.safetensors")
    bits = values.view(torch.int16).numpy().view(np.uint16).reshape(-1, *shape[-4:])
    for one, expected in zip(outcomes(source(tmp_path), classifier).values(), bits, strict=True):
        assert_as_classified(one, classifier, expected, data_type="bfloat16")


@pytest.mark.parametrize("many", [(), (3,)])
@pytest.mark.parametrize("name", FORMATS[2:])
def test_declarations_come_with_the_attention(tmp_path, classifier, name, many):
    values = attention(*many, 2, 3, 9, 9)
    path = save(
        tmp_path,
        name,
        values,
        tokens=np.broadcast_to(TOKENS, (*many, 9)).tolist(),
        segments=np.broadcast_to(SEGMENTS, (*many, 9)).copy(),
        valid_length=np.broadcast_to(9, many).copy(),
        causal=np.broadcast_to(False, many).copy(),
    )
    declared = {"tokens": TOKENS, "segments": SEGMENTS, "valid_length": 9, "causal": False}
    rows = values if many else values[None]
    for one, expected in zip(outcomes(source(path), classifier).values(), rows, strict=True):
        assert one.maps.declaration.tokens == tuple(TOKENS)
        assert one.warnings == ()
        assert_as_classified(one, classifier, expected, **declared)


@pytest.mark.parametrize("name", FORMATS[2:])
def test_padding_declared_by_a_mask(tmp_path, classifier, name):
    inner = attention(2, 3, 8, 8)
    values = np.zeros((2, 3, 9, 9), np.float32)
    values[..., :8, :8] = inner
    path = save(tmp_path, name, values, mask=np.array([True] * 8 + [False]))
    (one,) = outcomes(source(path), classifier).values()
    assert_as_classified(one, classifier, values, mask=[1] * 8 + [0])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (3, 9, 9)])
def test_causality_is_found_as_in_the_whole(tmp_path, classifier, name, shape):
    values = attention(*shape, causal=True)
    values[-1, ..., 0, :] = attention(1, 9)[0]  # of two layers one is not causal; of heads without a layer none is
    (one,) = outcomes(source(save(tmp_path, name, values)), classifier).values()
    assert one.maps.causal.any() == (len(shape) == 4)
    assert_as_classified(one, classifier, values)


def test_valid_length_and_causal_of_each_input(tmp_path, classifier):
    values = attention(2, 1, 1, 9, 9, causal=True)
    np.savez(tmp_path / "two.npz", attention=values, valid_length=[8, 9], causal=[True, False])
    first, second = outcomes(source(tmp_path), classifier).values()
    assert [one.maps.declaration.length for one in (first, second)] == [8, 9]
    assert [one.maps.causal.all() for one in (first, second)] == [True, False]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [name for name in FORMATS if "parquet" not in name])
def test_layers_of_a_batch(tmp_path, classifier, monkeypatch, name, batch):
    """The shape of ``torch.stack(outputs.attentions)``, of selected layers and heads and in several slabs."""
    values = attention(4, batch, 3, 9, 9, causal=True)
    path, chosen = save(tmp_path, name, values), Selection(layers=(0, 1, 3), heads=(0, 2))
    monkeypatch.setattr(dumps, "SLAB_BYTES", 2 * 2 * 81 * 4)
    found = outcomes(source(path, axes=Axes.LAYERS_FIRST, selection=chosen), classifier)
    assert list(found) == ([f"{path.name}[{n}]" for n in range(batch)] if batch > 1 else [path.name])
    for n, one in enumerate(found.values()):
        assert one.warnings == ()
        assert_as_classified(one, classifier, np.ascontiguousarray(values[[0, 1, 3], n][:, [0, 2]]))


@pytest.mark.parametrize("name", ["parquet", "parquet_lists"])
def test_a_row_of_parquet_is_one_input_also_with_an_axis_of_a_batch(tmp_path, classifier, name):
    values = attention(4, 1, 3, 9, 9)
    save(tmp_path, name, values)
    column = pa.array([values.ravel(), values.ravel()], pa.list_(pa.float32()))
    pq.write_table(pa.table({"attention": column, "shape": [[4, 1, 3, 9, 9], [2, 2, 3, 9, 9]]}), tmp_path / "x.parquet")
    one, two = outcomes(source(tmp_path / "x.parquet", axes=None), classifier).values()
    assert_as_classified(one, classifier, values[:, 0])
    assert isinstance(two.error, ShapeError)
    assert "attention[:, n] of [layers, batch, heads, L, L]" in str(two.error)


def of_many(*counts):
    """Returns tokens of inputs, of one input where there is no count."""
    return {"tokens": np.broadcast_to(TOKENS, (*counts, 9)).tolist()}


AXES_BY_EVIDENCE = [
    # layers first, as torch.stack(outputs.attentions)
    ((4, 1, 3, 9, 9), of_many(), "layers"),
    ((4, 1, 3, 9, 9), of_many(1), "layers"),
    ((4, 1, 3, 9, 9), {"valid_length": np.array(9)}, "layers"),
    ((4, 1, 3, 9, 9), {"segments": np.array([4, 5])}, "layers"),
    ((4, 2, 3, 9, 9), of_many(2), "layers"),
    ((4, 2, 3, 9, 9), {"mask": np.ones((2, 9), np.int64)}, "layers"),
    ((4, 1, 3, 9, 9), {}, "warned"),
    ((4, 1, 3, 9, 9), {"causal": np.array(False)}, "warned"),
    ((1, 1, 3, 9, 9), of_many(1), "warned"),
    # inputs first
    ((4, 2, 3, 9, 9), of_many(4), "inputs"),
    ((4, 1, 3, 9, 9), of_many(4), "inputs"),
    ((4, 1, 3, 9, 9), {"causal": np.zeros(4, np.bool_)}, "inputs"),
    ((1, 4, 3, 9, 9), of_many(), "inputs"),
    # neither can be known
    ((4, 2, 3, 9, 9), {}, None),
    ((4, 4, 3, 9, 9), of_many(4), None),
    ((1, 4, 3, 9, 9), {}, None),
    ((4, 2, 3, 9, 9), of_many(), None),
    ((4, 2, 3, 9, 9), of_many(5), None),
]


@pytest.mark.parametrize("name", ["npz", "safetensors", "zarr3"])
@pytest.mark.parametrize(("shape", "declared", "expected"), AXES_BY_EVIDENCE)
def test_the_axis_of_inputs_is_known_or_asked_for_and_never_guessed(
    tmp_path, classifier, name, shape, declared, expected
):
    values = attention(*shape)
    path = save(tmp_path, name, values, **declared)
    if expected is None:
        with pytest.raises(
            InvalidSettingsError, match=r"give --axes inputs,layers,heads or --axes layers,inputs,heads$"
        ):
            source(path, axes=None).units()
        return
    found = outcomes(source(path, axes=None), classifier)
    inputs = values if expected == "inputs" else values.swapaxes(0, 1)
    for one, own in zip(found.values(), inputs, strict=True):
        known = {"segments": declared["segments"]} if "segments" in declared else {}
        assert_as_classified(
            one, classifier, np.ascontiguousarray(own), **(of_many() if "tokens" in declared else known)
        )
        assert bool(one.warnings) == (expected == "warned")
    if expected == "warned":
        assert (
            f"was read as layers of one input, as of torch.stack(outputs.attentions); for {shape[0]}" in one.warnings[0]
        )


def test_the_stack_of_a_models_layers_is_read_as_each_door_reads_it(tmp_path, classifier):
    """One text of MiniLM: the library, and a dump with and without its tokens."""
    tokenizer = AutoTokenizer.from_pretrained(sample_encoder())
    model = AutoModel.from_pretrained(sample_encoder(), attn_implementation="eager")
    encoding = tokenizer("The ferry leaves at seven.", return_tensors="pt")
    with torch.no_grad():
        outputs = model(**encoding, output_attentions=True)
    (expected,) = classifier.classify_outputs(outputs, encoding, tokenizer)
    stack = torch.stack(outputs.attentions)
    for layers in (stack, outputs.attentions):
        result = classifier.classify(layers)
        assert result.patterns.tolist() == expected.patterns.tolist()
        assert result.warnings[0] == (
            f"attention of shape {list(stack.shape)} was read as [layers, batch, heads, L, L], a batch of one input"
        )
    np.save(tmp_path / "stack.npy", stack.numpy())
    (dumped,) = outcomes(source(tmp_path / "stack.npy", axes=None), classifier).values()
    patterns = classifier.classify_measured([dumped.maps])[0].patterns
    assert patterns.tolist() == expected.patterns.tolist()


def test_slabs_are_joined_to_the_whole(tmp_path, classifier, monkeypatch):
    values = attention(7, 3, 9, 9, causal=True)
    monkeypatch.setattr(dumps, "SLAB_BYTES", 2 * values[0].nbytes)
    for name in FORMATS:
        (one,) = outcomes(source(save(tmp_path / name, name, values)), classifier).values()
        assert_as_classified(one, classifier, values)


@pytest.mark.parametrize("many", [(), (3,)])
@pytest.mark.parametrize("name", FORMATS)
def test_only_the_layers_and_heads_asked_for(tmp_path, classifier, name, many):
    values = attention(*many, 6, 5, 9, 9)
    chosen = Selection(layers=(4, 0, 1, 4), heads=(3, 1))
    found = outcomes(source(save(tmp_path, name, values), selection=chosen), classifier)
    for one, expected in zip(found.values(), values if many else values[None], strict=True):
        assert (list(one.layers), list(one.heads)) == ([0, 1, 4], [1, 3])
        assert_as_classified(one, classifier, expected[[0, 1, 4]][:, [1, 3]])


@pytest.mark.parametrize("many", [(), (3,)])
@pytest.mark.parametrize("name", FORMATS[2:])
def test_layers_that_are_not_all_keep_their_numbers_and_special_tokens_may_be_named(tmp_path, classifier, name, many):
    """A hybrid model has attention in layers 1, 4 and 6."""
    values = attention(*many, 3, 2, 9, 9)
    values[..., 2, 1, 7, :] *= 0.5  # of layer 6
    declared = {
        "tokens": np.broadcast_to(TOKENS, (*many, 9)).tolist(),
        "special_tokens": np.broadcast_to(["c", "e"], (*many, 2)).tolist(),
        "layers": np.broadcast_to([1, 4, 6], (*many, 3)).copy(),
    }
    path = save(tmp_path, name, values, **declared)
    found = outcomes(source(path, selection=Selection(layers=(4, 1))), classifier)
    assert len(found) == (many or (1,))[0]
    for one, expected in zip(found.values(), values if many else values[None], strict=True):
        assert one.layers == one.maps.layers == (1, 4)
        assert list(one.maps.attention_to) == ["[CLS]", "[SEP]", "c", "e"]
        assert_as_classified(one, classifier, expected[:2], tokens=TOKENS, special_tokens=["c", "e"])
    for one in outcomes(source(path), classifier).values():
        assert "attention[layer 6, head 1]: row 7 sums to 0.5" in str(one.error)
    for one in outcomes(source(path, selection=Selection(layers=(2,))), classifier).values():
        assert str(one.error) == "layer 2 is selected, expected 1, 4, 6: the layers of the input that return attention"


def test_declarations_of_the_model_may_be_one_for_all_inputs(tmp_path, classifier):
    np.savez(tmp_path / "many.npz", attention=attention(4, 2, 3, 9, 9), layers=[1, 5], special_tokens=["c"])
    for one in outcomes(source(tmp_path), classifier).values():
        assert one.layers == (1, 5)


@pytest.mark.parametrize("layers", [[1], [1, 2, 3], [2, 1], [1, 1], [-1, 2], [0.0, 1.0], [[0, 1]], "ab"])
def test_layers_must_be_rising_indices_one_per_layer(tmp_path, classifier, layers):
    np.savez(tmp_path / "one.npz", attention=attention(2, 3, 9, 9), layers=layers)
    message = failure(tmp_path / "one.npz", classifier)
    assert "expected rising indices from 0, one per layer" in message or "expected one index for each of 2" in message


@pytest.mark.parametrize("name", FORMATS)
def test_messages_name_the_layer_and_head_of_the_model(tmp_path, classifier, name):
    values = attention(6, 5, 9, 9)
    values[4, 3, 7] *= 0.5
    path = save(tmp_path, name, values)
    (one,) = outcomes(source(path, selection=Selection(layers=(1, 4), heads=(0, 3))), classifier).values()
    assert isinstance(one.error, RowSumError)
    assert "attention[layer 4, head 3]: row 7 sums to 0.5" in str(one.error)
    (good,) = outcomes(source(path, selection=Selection(layers=(1, 5))), classifier).values()
    assert isinstance(good, MeasuredInput)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(layers=(0, 2)), "layer 2 is selected, expected 0 to 1: the layers of the input"),
        (Selection(heads=(3,)), "head 3 is selected, expected 0 to 2: the heads of the input"),
        (Selection(heads=(-1,)), "head -1 is selected"),
        (Selection(layers=()), "no layer is selected, expected 0 to 1: the layers of the input"),
    ],
)
def test_a_layer_or_head_that_is_not_there(tmp_path, classifier, selection, message):
    (one,) = outcomes(source(save(tmp_path, "npy", attention(2, 3, 9, 9)), selection=selection), classifier).values()
    assert isinstance(one.error, SelectionError)
    assert message in str(one.error)


@pytest.mark.parametrize("name", FORMATS)
def test_an_input_that_needs_too_much_memory_fails_by_figures(tmp_path, classifier, name):
    path = save(tmp_path, name, attention(2, 3, 9, 9))
    message = failure(path, classifier, most_bytes=900)
    assert "of memory at once, expected at most the 900 B that are left for it; raise --max-memory" in message
    whole = "fortran" in name or "parquet" in name
    (one,) = outcomes(source(path), classifier, most_bytes=2000 if whole else 1000).values()
    assert isinstance(one, MeasuredInput)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (attention(2, 3, 9, 9)[..., :8], ShapeError, "9 query rows and 8 key columns"),
        (np.zeros((2, 3, 9, 9), np.int64), DataTypeError, "dtype int64, expected one of float64"),
        (np.ones(9, np.float32), ShapeError, "1 axes"),
    ],
)
def test_what_is_no_attention_fails_as_classify_does(tmp_path, classifier, name, values, kind, message):
    path = save(tmp_path, name, np.ascontiguousarray(values))
    if name == "parquet_lists" and values.dtype.kind == "i":
        values = values.astype(np.int64)
    assert message in failure(path, classifier, kind)


def test_bfloat16_that_numpy_saved_without_its_type(tmp_path, classifier):
    np.save(tmp_path / "v.npy", attention(9, 9, dtype=np.float16).view("V2"))
    assert "dtype |V2" in failure(tmp_path / "v.npy", classifier, DataTypeError)
    np.save(tmp_path / "v.npy", attention(9, 9, dtype=np.float16).view(np.uint16))
    assert "bfloat16 bits in uint16 need" in failure(tmp_path / "v.npy", classifier, DataTypeError)


@pytest.mark.parametrize("name", FORMATS[2:])
@pytest.mark.parametrize(
    ("declared", "kind", "message"),
    [
        ({"segments": np.array([4, 4])}, SegmentsError, "sum 8"),
        ({"tokens": TOKENS[:4]}, TokensError, "4 tokens are declared"),
        ({"causal": np.array(True)}, NotCausalError, "layer 0, head 0"),
        ({"causal": np.array(2)}, SourceError, "causal is 2, expected one true or false"),
        ({"valid_length": np.array(7.5)}, SourceError, "valid_length has dtype float64"),
    ],
)
def test_declarations_that_do_not_fit(tmp_path, classifier, name, declared, kind, message):
    path = save(tmp_path, name, attention(2, 3, 9, 9), **declared)
    assert message in failure(path, classifier, kind)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"tokens": np.array(TOKENS)}, "tokens has shape [9], expected 3 inputs first"),
        ({"valid_length": np.array(7)}, "valid_length has shape [], expected 3 inputs first"),
        ({"tokens": np.zeros((3, 9), np.int64)}, "tokens has dtype int64"),
        ({"tokens": np.full((3, 9), "\ud800")}, "cannot be written as UTF-8"),
    ],
)
def test_declarations_of_many_inputs_must_be_as_many(tmp_path, classifier, arrays, message):
    np.savez(tmp_path / "many.npz", attention=attention(3, 1, 1, 9, 9), **arrays)
    found = outcomes(source(tmp_path), classifier)
    assert len(found) == 3
    for one in found.values():
        assert message in str(one.error)


def test_tokens_in_metadata_must_be_strings(tmp_path, classifier):
    for tokens, message in (
        ('["a", 1]', "expected one string per token"),
        ("{}", "expected a JSON list"),
        ("[", "cannot be read"),
    ):
        save_file({"attention": attention(9, 9)}, tmp_path / "t.safetensors", metadata={"tokens": tokens})
        assert message in failure(tmp_path / "t.safetensors", classifier)


def test_a_declaration_under_a_wrong_name_is_warned_of(tmp_path, classifier):
    np.savez(tmp_path / "w.npz", attention=attention(9, 9), attention_mask=np.ones(9), segment=[9], hidden=[1])
    (one,) = outcomes(source(tmp_path), classifier).values()
    assert one.warnings == (
        "'attention_mask' is not read; is 'mask' meant?",
        "'segment' is not read; is 'segments' meant?",
    )


@pytest.mark.parametrize("name", ["npz", "safetensors", "parquet", "zarr3"])
def test_attention_must_be_there_by_name(tmp_path, classifier, name):
    path = tmp_path / f"one.{name.rstrip('3')}"
    if name == "npz":
        np.savez(path, weights=attention(9, 9))
    elif name == "safetensors":
        save_file({"weights": attention(9, 9)}, path)
    elif name == "parquet":
        pq.write_table(pa.table({"weights": [1.0]}), path)
    else:
        zarr.open_group(path, mode="w").create_array("weights", data=attention(9, 9))
    assert "holds no 'attention', expected it beside or instead of weights" in failure(path, classifier)


@pytest.mark.parametrize("name", ["npz", "safetensors", "zarr3", "parquet"])
def test_attention_under_a_similar_name_is_pointed_out(tmp_path, classifier, name):
    path = tmp_path / f"one.{name.rstrip('3')}"
    if name == "npz":
        np.savez(path, attentions=attention(9, 9))
    elif name == "safetensors":
        save_file({"attentions": attention(9, 9)}, path)
    elif name == "parquet":
        pq.write_table(pa.table({"attentions": [1.0]}), path)
    else:
        zarr.open_group(path, mode="w").create_array("attentions", data=attention(9, 9))
    assert failure(path, classifier).endswith("; save 'attentions' under the name 'attention'")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("tokens", "save them as numpy.array(tokens, dtype=str)"),
        ("attention", "save the layers as one array, numpy.stack(layers)"),
        ("segments", "save numbers, such as numpy.array(values, dtype=int)"),
    ],
)
def test_arrays_of_objects_are_refused_with_the_way_to_save_them(tmp_path, classifier, name, remedy):
    arrays = {"attention": attention(3, 9, 9), "tokens": np.array(TOKENS), "segments": np.array(SEGMENTS)}
    np.savez(tmp_path / "x.npz", **arrays | {name: np.array([*arrays[name], None], object)[:-1]})
    message = failure(tmp_path / "x.npz", classifier)
    assert f"{name} is an array of objects (object), which are never unpickled; {remedy}" in message
    np.savez(tmp_path / "y.npz", **arrays)
    (one,) = outcomes(source(tmp_path / "y.npz"), classifier).values()
    assert isinstance(one, MeasuredInput)


LAYERS = torch.from_numpy(attention(4, 3, 9, 9)).unsqueeze(1)  # [layers, batch, heads, L, L]


@pytest.mark.parametrize("stem", ["x", "it's 1 $HOME"])
@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".pt", lambda path: torch.save(tuple(LAYERS), path)),  # outputs.attentions
        (".pt", lambda path: torch.save(LAYERS[:, 0].bfloat16().requires_grad_(), path)),
        (".pth", lambda path: torch.save(LAYERS[0, 0, 0], path)),
        (".pkl", lambda path: path.write_bytes(pickle.dumps([layer[0].numpy() for layer in LAYERS]))),
        (".pickle", lambda path: path.write_bytes(pickle.dumps(LAYERS.numpy()))),
        (".json", lambda path: path.write_text(json.dumps(LAYERS[:, 0].tolist()))),
    ],
)
def test_the_line_that_converts_a_file_of_another_kind_works(tmp_path, classifier, suffix, write, stem):
    """The command of the message, run by a shell, makes a dump of it."""
    path = tmp_path / f"{stem}{suffix}"
    write(path)
    for place in (path, tmp_path, tmp_path / "*"):
        with pytest.raises(SourceError) as refused:
            source(place)
        assert ("if you trust it" in str(refused.value)) == (suffix in (".pkl", ".pickle"))
    command = str(refused.value).rpartition(" with: python ")[2]
    subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, check=True, cwd="/")
    (one,) = outcomes(source(path.with_suffix(".npz"), axes=None), classifier).values()
    assert isinstance(one, MeasuredInput), one
    assert one.maps.declaration.length == 9


def test_an_archive_under_the_name_of_an_array_and_the_reverse(tmp_path, classifier):
    save(tmp_path, "npz", attention(9, 9)).rename(tmp_path / "a.npy")
    assert "cannot be read as .npy" in failure(tmp_path / "a.npy", classifier)
    save(tmp_path, "npy", attention(9, 9)).rename(tmp_path / "b.npz")
    assert "cannot be read as .npz" in failure(tmp_path / "b.npz", classifier)


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("place", ["attention", "tokens"])
def test_pickles_are_refused_and_never_run(tmp_path, classifier, suffix, place):
    sprung, path = tmp_path / "sprung", tmp_path / f"trap.{suffix}"
    trap = np.array([Trap(sprung)], dtype=object)
    if suffix == "npy":
        np.save(path, trap, allow_pickle=True)
    else:
        np.savez(path, **{"attention": attention(9, 9), place: trap})
    assert "never unpickled" in failure(path, classifier)
    path.write_bytes(pickle.dumps(Trap(sprung)))
    assert "cannot be read" in failure(path, classifier)
    assert not sprung.exists()


@pytest.mark.parametrize("place", ["attention", "segments"])
@pytest.mark.parametrize(
    "change",
    [
        {"filters": [{"id": "pickle"}]},
        {"filters": [{"id": "pickle"}], "dtype": "|O", "fill_value": None},
        {"compressor": {"id": "pickle"}},
    ],
)
def test_a_zarr_array_of_pickles_is_refused_and_never_run(tmp_path, classifier, place, change):
    path, sprung = tmp_path / "t.zarr", tmp_path / "sprung"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("attention", data=attention(9, 9), compressors=None)
    group.create_array("segments", data=np.array([9]), compressors=None)
    metadata = json.loads((path / place / ".zarray").read_text())
    (path / place / ".zarray").write_text(json.dumps(metadata | change))
    (chunk,) = (one for one in (path / place).iterdir() if not one.name.startswith(".z"))
    chunk.write_bytes(pickle.dumps(Trap(sprung)))
    assert "pickle" in failure(path, classifier)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["npy", "npz", "npz_deflated", "safetensors", "parquet"])
@pytest.mark.parametrize("shape", [(3, 9, 9), (3, 2, 2, 9, 9)])
def test_files_that_were_cut_fail_wherever_it_was(tmp_path, classifier, name, shape):
    path = save(tmp_path, name, attention(*shape), **({} if name == "npy" else {"causal": np.full(shape[:-4], False)}))
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 131), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert f"{path} cannot be read as {path.suffix}: " in failure(path, classifier)


@pytest.mark.parametrize("name", ["npz", "npz_deflated"])
@pytest.mark.parametrize("shape", [(4, 3, 60, 60), (3, 2, 2, 60, 60)])
@pytest.mark.parametrize("selection", [Selection(), Selection(layers=(0,))])
def test_a_flipped_bit_in_an_npz_fails_all_its_inputs(tmp_path, classifier, name, shape, selection):
    values = attention(*shape)
    path = save(tmp_path, name, values)
    damaged = bytearray(path.read_bytes())
    damaged[-300] ^= 1  # in the last map, of which the bit keeps the sum in its tolerance
    path.write_bytes(damaged)
    found = outcomes(source(path, selection=selection), classifier)
    assert len(found) == (3 if len(shape) == 5 else 1)
    for one in found.values():
        assert isinstance(one, FailedInput)
        assert any(reason in str(one.error) for reason in ("CRC", "Error -3", "ends after")), one.error


def test_a_chunk_of_zarr_that_is_damaged_or_lost(tmp_path, classifier):
    path = save(tmp_path, "zarr3", attention(2, 2, 3, 9, 9))
    (path / "attention" / "c" / "0" / "1" / "0" / "0" / "0").write_bytes(b"no chunk")
    (path / "attention" / "c" / "1" / "0" / "0" / "0" / "0").unlink()
    first, second = outcomes(source(path), classifier).values()
    assert f"{path} cannot be read as .zarr: " in str(first.error)
    assert "attention[layer 0, head 0]: row 0 sums to 0" in str(second.error)
    (path / "attention" / "zarr.json").write_text("{")
    assert "cannot be read as .zarr" in failure(path, classifier)


def test_without_zarr_no_work_is_planned_and_the_extra_is_named(tmp_path, monkeypatch):
    path = save(tmp_path, "zarr3", attention(9, 9))
    monkeypatch.setitem(sys.modules, "zarr", None)  # as where it is not installed
    with pytest.raises(MissingExtraError) as missing:
        source(path).units()
    assert str(missing.value).startswith(f"{path} needs the extra 'zarr' (zarr is not installed): ")
    assert str(missing.value).endswith(install_command("zarr"))


def npy_bytes(shape, dtype="<f4", fortran=False, behind=b""):
    header = f"{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + behind


def safetensors_bytes(header, behind=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + behind


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("shape", ["(1000000000000,)", "(10**6,)", f"({10**12}, {10**12})", "(5, 9, 9)", "(-1, 9, 9)"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_header_that_lies_about_its_shape(tmp_path, classifier, suffix, shape, fortran):
    path, content = tmp_path / f"lie.{suffix}", npy_bytes(shape, fortran=fortran, behind=bytes(4 * 81 * 4))
    if suffix == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("attention.npy", content)
    else:
        path.write_bytes(content)
    assert "cannot be read" in failure(path, classifier)


def test_a_member_that_swells_is_read_slab_by_slab(tmp_path, classifier):
    """64 MiB of zeros from 64 KiB fail at their first layer, within the memory that was given."""
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("attention.npy", "w") as member:
        member.write(npy_bytes("(64, 1, 512, 512)"))
        for _ in range(64):
            member.write(bytes(2**20))
    assert "row 0 sums to 0" in failure(path, classifier, RowSumError, most_bytes=2**21)


def one_tensor(behind=bytes(4), *, dtype="F32", shape=(1,), data_offsets=(0, 4)):
    return safetensors_bytes({"attention": {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}}, behind)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one_tensor(), "1 axes"),
        (one_tensor(shape=[10**12]), "4 bytes, expected 4000000000000 of F32"),
        (one_tensor(data_offsets=[0, 10**15]), "the header describes 1000"),
        (one_tensor(bytes(8), data_offsets=[4, 8]), "begins at byte"),
        (one_tensor(data_offsets=[4, 0]), "expected dtype, shape and data_offsets"),
        (one_tensor(shape=[-1]), "expected dtype, shape and data_offsets"),
        (one_tensor(shape=[True]), "expected dtype, shape and data_offsets"),
        (one_tensor(shape=7), "expected dtype, shape and data_offsets"),
        (one_tensor(dtype="Q7"), "dtype 'Q7'"),
        (one_tensor(bytes(5)), "the header describes"),
        (safetensors_bytes({"attention": 7}), "expected dtype, shape and data_offsets"),
        (safetensors_bytes(b"[[1]]"), "is a list"),
        (safetensors_bytes(b"[" * 100_000), "cannot be read"),
        (safetensors_bytes(b'{"a": ' + b"9" * 5000 + b"}"), "cannot be read"),
        ((2**62).to_bytes(8, "little") + b"{}", f"the header's length is {2**62} bytes"),
        (b"", "ends after"),
    ],
)
def test_a_safetensors_header_that_lies(tmp_path, classifier, content, message):
    path = tmp_path / "lie.safetensors"
    path.write_bytes(content)
    assert message in failure(path, classifier, ShapeError if "axes" in message else SourceError)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_no_change_of_a_safetensors_file_reads_past_its_end(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("mutated") / "one.safetensors"
    save_file({"attention": attention(2, 9, 9), "mask": np.ones(9, np.int64)}, path, metadata={"tokens": '["a"]'})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 260))
        content[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789[]{},:"')))
    path.write_bytes(content[: data.draw(st.integers(len(content) - 20, len(content)))])
    with path.open("rb", buffering=0) as stream:
        bytes_of_file = FileBytes(stream)
        try:
            tensors, metadata = read_tensors(bytes_of_file)
        except (AttentionPatternsError, ValueError):
            return
    assert sum(tensor.size for tensor in tensors.values()) < bytes_of_file.size
    assert all(8 < one.begin <= one.begin + one.size <= bytes_of_file.size for one in tensors.values())
    assert all(isinstance(text, str) for text in metadata.values())


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet"])
@given(content=st.binary(max_size=400), start=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_read_or_fail_by_name(tmp_path_factory, classifier, suffix, content, start):
    """Bytes from anywhere, also behind a right beginning, give an input or an error of ours and nothing else."""
    path = tmp_path_factory.mktemp("any") / f"one.{suffix}"
    magic = {"npy": b"\x93NUMPY\x01\x00", "npz": b"PK\x03\x04", "safetensors": (64).to_bytes(8, "little") + b"{"}
    path.write_bytes((magic.get(suffix, b"PAR1") if start else b"") + content)
    for one in outcomes(source(path), classifier).values():
        assert not isinstance(one, FailedInput) or isinstance(one.error, AttentionPatternsError)


@pytest.mark.parametrize("name", ["npy", "npz", "safetensors", "zarr3"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_shapes_beside_each_other_are_read_or_refused(tmp_path_factory, classifier, name, data):
    """Five axes and declarations of any sizes, with the order of the axes given or not."""
    shape = tuple(data.draw(st.integers(0, 3)) for _ in range(data.draw(st.integers(0, 6))))
    values = np.ones(shape, np.float32)
    sizes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    names = [] if name == "npy" else data.draw(st.lists(st.sampled_from(["segments", "mask", "causal"]), unique=True))
    declared = {each: np.ones(data.draw(sizes), np.int64) for each in names}
    path = tmp_path_factory.mktemp("shapes") / f"one.{name.rstrip('3')}"
    if name == "npy":
        np.save(path, np.asfortranarray(values) if data.draw(st.booleans()) else values)
    elif name == "npz":
        np.savez(path, attention=values, **declared)
    elif name == "safetensors":
        save_file({"attention": values, **declared}, path)
    else:
        group = zarr.open_group(path, mode="w")
        for key, array in {"attention": values, **declared}.items():
            group.create_array(key, data=array)
    try:
        found = outcomes(source(path, axes=data.draw(st.sampled_from([None, *Axes]))), classifier)
    except InvalidSettingsError:
        assert len(shape) == 5
        return
    for one in found.values():
        assert not isinstance(one, FailedInput) or isinstance(one.error, AttentionPatternsError)


def test_a_bad_file_does_not_hide_the_next(tmp_path, classifier):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no more")
    np.save(tmp_path / "b.npy", attention(9, 9))
    (tmp_path / "c.npy").symlink_to(tmp_path / "nowhere")
    found = outcomes(source(tmp_path), classifier)
    assert {name: type(one).__name__ for name, one in found.items()} == {
        "a.npz": "FailedInput",
        "b.npy": "MeasuredInput",
        "c.npy": "FailedInput",
    }


def test_a_file_that_changed_after_the_plan_fails(tmp_path, classifier):
    path = save(tmp_path, "npy", attention(3, 1, 1, 9, 9))
    planned = source(path)
    (unit,) = planned.units()
    before = planned.fingerprint()
    np.save(path, attention(2, 1, 1, 9, 9))
    found = [one for _, one in planned.measure(unit, classifier, most_bytes=ENOUGH)]
    assert [type(one) for one in found] == [MeasuredInput, MeasuredInput, FailedInput]
    assert "held an input 2 when the run was planned" in str(found[2].error)
    np.save(path, attention(9, 9))
    found = [one for _, one in planned.measure(unit, classifier, most_bytes=ENOUGH)]
    assert all("when the run was planned" in str(one.error) for one in found)
    path.unlink()
    found = [one for _, one in planned.measure(unit, classifier, most_bytes=ENOUGH)]
    assert len(found) == 3
    assert all("No such file" in str(one.error) for one in found)
    np.save(path, attention(9, 9))
    after = source(path).fingerprint()
    assert [key for key in before if before[key] != after[key]] == [f"one: {path}"]


def test_files_of_no_inputs_fail(tmp_path, classifier):
    np.save(tmp_path / "none.npy", np.zeros((0, 2, 3, 9, 9), np.float32))
    assert "expected at least one input" in failure(tmp_path / "none.npy", classifier)
    pq.write_table(pa.table({"attention": pa.array([], pa.list_(pa.float32()))}), tmp_path / "none.parquet")
    assert "has no rows" in failure(tmp_path / "none.parquet", classifier)


# Parquet


def test_parquet_rows_of_several_shapes_in_flat_lists(tmp_path, classifier):
    rows = [attention(2, 3, 9, 9), attention(3, 8, 8, dtype=np.float32), attention(12, 12)]
    table = pa.table(
        {
            "attention": pa.array([row.ravel() for row in rows], pa.list_(pa.float32())),
            "shape": [list(row.shape) for row in rows],
            "input_id": ["x", "y", "z"],
            "tokens": [TOKENS, None, None],
        }
    )
    pq.write_table(table, tmp_path / "flat.parquet")
    found = outcomes(source(tmp_path), classifier)
    assert list(found) == ["x", "y", "z"]
    for one, values, tokens in zip(found.values(), rows, (TOKENS, None, None), strict=True):
        assert_as_classified(one, classifier, values, tokens=tokens)


def test_bad_rows_of_parquet_fail_alone(tmp_path, classifier):
    good = attention(9, 9).tolist()
    kind = pa.list_(pa.list_(pa.float64()))
    rows = [good, None, [*good[:8], good[8][:4]], [[None] * 9] * 9, [[]], good]
    pq.write_table(pa.table({"attention": pa.array(rows, kind)}), tmp_path / "rows.parquet")
    found = outcomes(source(tmp_path), classifier)
    messages = [str(one.error) if isinstance(one, FailedInput) else "" for one in found.values()]
    for message, part in zip(messages, ["", "is null", "[9, 4] entries", "nulls", "shape [1, 0]", ""], strict=True):
        assert part in message
        assert bool(part) == bool(message)


def test_shapes_beside_flat_lists_must_fit(tmp_path, classifier):
    shapes = [[9, 9], [3, 27], [10**12, 10**12], [-9, -9], None]
    column = pa.array([attention(9, 9).ravel()] * 5, pa.list_(pa.float32()))
    pq.write_table(pa.table({"attention": column, "shape": shapes}), tmp_path / "s.parquet")
    first, *others = outcomes(source(tmp_path), classifier).values()
    assert isinstance(first, MeasuredInput)
    assert [type(one.error) for one in others] == [ShapeError, SourceError, SourceError, SourceError]


@pytest.mark.parametrize("ids", [["a", "a"], ["a", None]])
def test_ids_of_rows_must_be_unique(tmp_path, classifier, ids):
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(attention(2, 1, 1, 9, 9))
    pq.write_table(pa.table({"attention": column, "input_id": ids}), tmp_path / "i.parquet")
    assert f"input_id is {ids[1]!r} in row 1" in failure(tmp_path / "i.parquet", classifier)


def test_ids_of_two_files_that_meet_name_their_files(tmp_path, classifier):
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(attention(2, 1, 1, 9, 9))
    for name in ("a", "b"):
        pq.write_table(pa.table({"attention": column, "input_id": [1, 2]}), tmp_path / f"{name}.parquet")
    names = [f"{tmp_path}/{name}.parquet[{n}]" for name in "ab" for n in (1, 2)]
    assert list(outcomes(source(tmp_path), classifier)) == names


# Where dumps are found, and how they become units


def test_folders_are_searched_in_depth_and_sorted(tmp_path):
    for name in ("b.npy", "a/z.npy", "a/b/c.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, attention(9, 9))
    (tmp_path / "notes.txt").write_text("left out")
    save(tmp_path, "zarr3", attention(9, 9))
    ((task, files),) = dump_tasks([str(tmp_path), f"{tmp_path.name}={tmp_path / 'b.npy'}"])
    assert task == tmp_path.name
    assert [file.name for file in files] == ["a/b/c.npy", "a/z.npy", "b.npy", "one.zarr"]
    ((task, files),) = dump_tasks([str(tmp_path / "a" / "**" / "*.npy")])
    assert (task, [file.name for file in files]) == ("a", ["b/c.npy", "z.npy"])


def test_tasks_have_names(tmp_path, monkeypatch):
    for name in ("a/x.npy", "b/x.npy"):
        (tmp_path / name).parent.mkdir()
        np.save(tmp_path / name, attention(9, 9))
    paths = [str(tmp_path / name) for name in ("a/x.npy", "b/x.npy")]
    assert [task for task, _ in dump_tasks([paths[0], f"other={paths[1]}"])] == ["x", "other"]
    assert [task for task, _ in dump_tasks([str(tmp_path / "a")])] == ["a"]
    np.save(tmp_path / "lr=0.1.npy", attention(9, 9))
    monkeypatch.chdir(tmp_path)
    assert [task for task, _ in dump_tasks(["lr=0.1.npy", "lr=a/x.npy", "./lr=0.1.npy"])] == ["lr=0.1", "lr"]
    same = source(*paths)
    assert [name.input_id for unit in same.units() for name in same.names(unit)] == ["a/x.npy", "b/x.npy"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.npy", "does not exist"),
        ("notes.txt", r"file \.txt, expected one of \.npz"),
        ("plain", r"file without suffix, expected one of \.npz"),
        ("empty", "folder without"),
        ("*.npy", "matches nothing"),
    ],
)
def test_paths_that_are_no_dumps_are_named(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no dump")
    (tmp_path / "plain").write_text("no dump")
    with pytest.raises(SourceError, match=message):
        dump_tasks([str(tmp_path / name)])


def test_file_names_that_are_no_text_are_escaped(tmp_path, classifier):
    with Path(os.fsdecode(bytes(tmp_path) + b"/\xff.npy")).open("wb") as stream:
        np.save(stream, attention(9, 9))
    (one,) = outcomes(source(tmp_path), classifier).values()
    assert isinstance(one, MeasuredInput)
    assert one.name.input_id == "\\udcff.npy"


@pytest.mark.parametrize("name", ["npy", "npz", "safetensors", "zarr3", "parquet"])
def test_large_files_are_cut_into_units_and_small_ones_packed(tmp_path, classifier, monkeypatch, name):
    values = attention(10, 2, 3, 9, 9)
    monkeypatch.setattr(dump_plan, "UNIT_BYTES", 3 * values[0].nbytes)
    large = source(save(tmp_path / "large", name, values))
    per_unit = {"npz": [10], "parquet": [2] * 5}.get(name, [3, 3, 3, 1])
    assert [unit.inputs for unit in large.units()] == per_unit
    assert [unit.number for unit in large.units()] == list(range(len(per_unit)))
    assert sum(unit.maps for unit in large.units()) == 60
    assert sum(unit.bytes for unit in large.units()) == values.nbytes
    assert large.units() == large.units()
    whole = outcomes(source(tmp_path / "large"), classifier)
    for one, expected in zip(whole.values(), values, strict=True):
        assert_as_classified(one, classifier, expected)
    for n in range(7):
        np.save(tmp_path / "large" / f"{n}.npy", values[n])
    small = source(tmp_path / "large" / "[0-9].npy")
    assert [len(unit.items) for unit in small.units()] == [3, 3, 1]
    monkeypatch.setattr(dump_plan, "UNIT_MAPS", 12)
    assert [len(unit.items) for unit in small.units()] == [2, 2, 2, 1]


@pytest.mark.parametrize("name", FORMATS)
def test_inputs_drawn_by_number(tmp_path, classifier, name):
    values = attention(6, 2, 3, 9, 9)
    np.save(tmp_path / "a.npy", attention(9, 9))
    (tmp_path / "b.npz").write_bytes(b"bad")
    save(tmp_path / "c", name, values)
    all_inputs = source(tmp_path)
    assert all_inputs.count_inputs() == 8
    drawn = all_inputs.restrict([0, 3, 5, 7])
    assert drawn.count_inputs() == 8
    assert drawn.fingerprint() != all_inputs.fingerprint()
    assert sum(unit.inputs for unit in drawn.units()) == 4
    first, *others = outcomes(pickle.loads(pickle.dumps(drawn)), classifier).values()
    assert first.name.input_id == "a.npy"
    for one, n in zip(others, (1, 3, 5), strict=True):
        assert one.name.input_id.endswith(f"[{n}]")
        assert_as_classified(one, classifier, values[n])


@pytest.mark.parametrize("inputs", [1, 5, 8, 50])
def test_examples_are_spread_over_a_task(tmp_path, monkeypatch, inputs):
    values = attention(inputs, 1, 1, 9, 9)
    monkeypatch.setattr(dump_plan, "UNIT_BYTES", 7 * values[0].nbytes)
    units = source(save(tmp_path, "npy", values)).units()
    starts = np.cumsum([0, *(unit.inputs for unit in units)])
    places = [int(start) + place for start, unit in zip(starts, units, strict=False) for place in sorted(unit.examples)]
    assert places == sorted({n * inputs // EXAMPLES for n in range(EXAMPLES)})
    assert all(isinstance(item, DumpSlice) for unit in units for item in unit.items)


MEMORY = """
import resource, sys
from attention_patterns import PatternClassifier
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.source import MeasuredInput

def measured(path):
    source = DumpSource(dump_tasks([path]), axes=Axes.INPUTS_FIRST)
    return sum(
        isinstance(one, MeasuredInput)
        for unit in source.units()
        for _, one in source.measure(unit, classifier, most_bytes=2**25)
    )

classifier = PatternClassifier.load(threads=1)
measured(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(measured(sys.argv[2]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def memory_of(few, path):
    """Returns the inputs that were measured of a dump, and the KiB that they took beyond those of another."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, few, path],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return map(int, done.stdout.split())


@pytest.mark.parametrize("name", ["npy", "npz", "safetensors", "zarr3", "parquet"])
def test_reading_many_inputs_takes_no_more_memory_than_few(tmp_path, name):
    """150 MiB of maps are read within 60 MiB."""
    one = np.eye(512, dtype=np.float16)[None, None]
    few = save(tmp_path / "few", name, np.broadcast_to(one, (2, 12, 1, 512, 512)).copy())
    values = np.broadcast_to(one, (25, 12, 1, 512, 512))
    many = save(tmp_path / "many", name, np.ascontiguousarray(values))
    inputs, kibibytes = memory_of(few, many)
    assert inputs == 25
    assert kibibytes < 60 * 1024


def claim(folder, name):
    """Writes a small file that claims to hold far more than there is memory, and returns its path."""
    path = folder / f"claim.{name.partition('_')[0]}"
    if name == "npy":
        path.write_bytes(npy_bytes(f"(1, 1, {2**18}, {2**18})"))
        os.truncate(path, path.stat().st_size + 2**38)
    elif name == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("attention.npy", "w") as member:
            member.write(npy_bytes("(1, 1, 8192, 8192)") + bytes(4 * 2**26))
    elif name == "safetensors":
        entry = {"dtype": "F32", "shape": [2**18, 2**18], "data_offsets": [0, 2**38]}
        path.write_bytes(safetensors_bytes({"attention": entry}))
        os.truncate(path, path.stat().st_size + 2**38)
    elif name == "parquet_lists":
        zeros = pa.array(np.zeros(2**25, np.float32))
        pq.write_table(pa.table({"attention": pa.ListArray.from_arrays([0, 2**25], zeros)}), path)
    elif name == "parquet_tensor":
        zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2**24, np.float32)), 2**24)
        kind = pa.fixed_shape_tensor(pa.float32(), [2**12, 2**12])
        pq.write_table(pa.table({"attention": pa.ExtensionArray.from_storage(kind, zeros)}), path)
    else:
        shape, chunks, segments = {
            "zarr_tokens": ((2**30, 2**30), (9, 9), (9,)),
            "zarr_layers": ((2**30, 1, 9, 9), (1, 1, 9, 9), (9,)),
            "zarr_inputs": ((2**40, 1, 1, 9, 9), (2**20, 1, 1, 9, 9), (9,)),
            "zarr_chunk": ((1, 1, 9, 9), (2**20, 2**20, 9, 9), (9,)),
            "zarr_segments": ((1, 1, 9, 9), (1, 1, 9, 9), (2**30,)),
        }[name]
        group = zarr.open_group(path, mode="w")
        group.create_array("attention", shape=shape, chunks=chunks, dtype="f4")
        group.create_array("segments", shape=segments, chunks=segments, dtype="i8")
    return path


CLAIMS = {
    **dict.fromkeys(("npy", "npz", "safetensors", "zarr_tokens"), "a layer of shape"),
    **dict.fromkeys(("parquet_lists", "parquet_tensor"), "a row of row group 0 needs"),
    "zarr_layers": "1,073,741,824 maps, expected at most 65,536",
    "zarr_inputs": "it holds 1,099,511,627,776 inputs, expected at most 1,048,576 in a file",
    "zarr_chunk": "a Zarr chunk needs",
    "zarr_segments": "segments of one input has 8589934592 bytes",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_sizes_are_judged_before_anything_is_allocated(tmp_path, classifier, name):
    few, path = save(tmp_path / "few", "npy", attention(9, 9)), claim(tmp_path, name)
    message = failure(path, classifier, most_bytes=2**25)
    assert message.startswith(f"{path} cannot be read as {path.suffix}: ")
    assert CLAIMS[name] in message
    inputs, kibibytes = memory_of(few, path)
    assert inputs == 0
    assert kibibytes < 40 * 1024


SPECIAL = ("fifo", "socket", "device")


def make_special(path, kind):
    """Makes something under a path that is no regular file; a device is linked to, since only root may make one."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet", "zarr"])
def test_what_is_no_regular_file_fails_and_is_never_waited_for(tmp_path, classifier, monkeypatch, suffix, kind):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    folder = tmp_path / "dumps"
    folder.mkdir()
    np.save(folder / "a.npy", attention(9, 9))
    make_special(Path("dumps") / f"x.{suffix}", kind)
    for place in (folder, folder / "*", folder / f"x.{suffix}"):
        bad = outcomes(source(place), classifier)[f"x.{suffix}"]
        assert f"x.{suffix}" in str(bad.error)
        if suffix != "zarr":
            assert f"is a {'FIFO' if kind == 'fifo' else kind}, expected a regular file" in str(bad.error)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("place", ["zarr.json", "attention/c/0/0/0/0", "attention/more"])
def test_a_zarr_store_with_something_else_than_files_is_not_read(tmp_path, classifier, monkeypatch, kind, place):
    path = save(tmp_path, "zarr3", attention(2, 3, 9, 9))
    monkeypatch.chdir(path)
    Path(place).unlink(missing_ok=True)
    make_special(Path(place), kind)
    assert f"{place} in it is neither file nor folder" in failure(path, classifier)
