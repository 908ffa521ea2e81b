"""An array that is not an attention map gets an error that names the place, the value and what was expected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from attention_patterns import AttentionPatternsError, errors
from tests.helpers.drawn_maps import bfloat16_bits, random_maps


def changed(value, *, dtype=np.float32):
    maps = random_maps(4, 8, 12, 12).astype(dtype)
    maps[3, 7, 5, 2] = value
    return maps


SQUARE = random_maps(12, 12)


@pytest.mark.parametrize(
    ("attention", "error", "message"),
    [
        (changed(np.nan), errors.NotFiniteError, r"^attention\[layer 3, head 7\]: row 5, column 2 is nan"),
        (changed(np.inf), errors.NotFiniteError, r"\[layer 3, head 7\]: row 5, column 2 is inf"),
        (changed(np.inf, dtype=np.float16), errors.NotFiniteError, r"\[layer 3, head 7\]: row 5, column 2 is inf"),
        (changed(np.nan, dtype=np.float16), errors.NotFiniteError, r"\[layer 3, head 7\]: row 5, column 2 is nan"),
        (
            changed(-0.001),
            errors.NegativeAttentionError,
            r"\[layer 3, head 7\]: row 5, column 2 is -0.001, expected .* 0 to",
        ),
        (changed(0.9), errors.RowSumError, r"\[layer 3, head 7\]: row 5 sums to 1\.\d+, expected 1 \+- 0\.01"),
        (SQUARE * 0.9, errors.RowSumError, r"^attention: row 0 sums to 0\.9, expected 1 \+- 0\.01, as all rows do"),
        (np.zeros((9, 9)), errors.RowSumError, "row 0 sums to 0, .*, and the whole map is empty$"),
        (np.log(SQUARE) - 1, errors.LogitsError, r"row 0 sums to -\d.*before the softmax"),
        (SQUARE.T, errors.TransposedError, "row 0 sums to .* while every column does: transposed"),
        (
            SQUARE[None, None, None].repeat(2, 1),
            errors.ShapeError,
            r"5 axes, shape \[1, 2, 1, 12, 12\].* batch axis was",
        ),
        (SQUARE[0], errors.ShapeError, "1 axes"),
        (SQUARE[:5], errors.ShapeError, "5 query rows and 12 key columns"),
        (np.zeros((0, 0)), errors.ShapeError, "empty"),
        (np.zeros((0, 4, 4)), errors.ShapeError, "empty"),
        (np.eye(9, dtype=int), errors.DataTypeError, "dtype int64, expected one of float64"),
        (np.eye(9, dtype=bool), errors.DataTypeError, "dtype bool"),
        (np.eye(9, dtype=complex), errors.DataTypeError, "dtype complex128"),
        (np.eye(9, dtype=">f4"), errors.DataTypeError, "dtype >f4"),
        (bfloat16_bits(SQUARE), errors.DataTypeError, "need data_type='bfloat16'"),
        ("attention", errors.DataTypeError, "dtype <U9"),
        ([[1.0], [0.5, 0.5]], errors.DataTypeError, "cannot be read as an array"),
        (None, errors.DataTypeError, "dtype object"),
    ],
)
def test_an_array_that_is_no_attention_map_is_refused(classifier, attention, error, message):
    with pytest.raises(error, match=message):
        classifier.classify(attention)


def test_the_axis_of_a_batch_of_one_is_left_out(classifier):
    maps = random_maps(4, 8, 12, 12)
    result = classifier.classify(maps[:, None])
    assert result.patterns.tolist() == classifier.classify(maps).patterns.tolist()
    assert result.warnings[0] == (
        "attention of shape [4, 1, 8, 12, 12] was read as [layers, batch, heads, L, L], a batch of one input"
    )
    with pytest.raises(errors.RowSumError, match=r"layer 3, head 7"):
        classifier.classify(changed(0.9)[:, None])


def test_a_wrong_data_type_is_named(classifier):
    with pytest.raises(errors.DataTypeError, match="dtype float32, but data_type is 'float16'"):
        classifier.classify(SQUARE, data_type="float16")
    with pytest.raises(errors.DataTypeError, match="data_type is 'int8', expected one of"):
        classifier.classify(SQUARE, data_type="int8")


def test_attention_to_declared_padding_is_missed(classifier):
    with pytest.raises(errors.RowSumError, match="attention to tokens declared as padding is missing"):
        classifier.classify(SQUARE, valid_length=9)


def test_rounding_to_three_decimals_is_tolerated(classifier):
    classifier.classify(np.round(random_maps(4, 12, 12), 3))


@pytest.mark.parametrize("length", [8, 64, 300])
def test_half_precision_softmax_is_tolerated(classifier, length):
    maps = random_maps(4, length, length)
    classifier.classify(maps.astype(np.float16))
    classifier.classify(bfloat16_bits(maps), data_type="bfloat16")


ANY_ARRAY = arrays.arrays(
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.uint16, np.int8, np.complex64]),
    shape=arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
)


@given(attention=ANY_ARRAY, data_type=st.sampled_from([None, "bfloat16", "float32"]))
@settings(max_examples=300, deadline=None)
def test_anything_is_classified_or_refused(classifier, attention, data_type):
    """No array crashes the kernel, and none that is not row-stochastic gets a label."""
    try:
        result = classifier.classify(attention, data_type=data_type)
    except AttentionPatternsError:
        return
    values = attention
    if data_type == "bfloat16":
        values = (attention.astype(np.uint32) << 16).view(np.float32)
    assert (values >= 0).all()
    np.testing.assert_allclose(values.astype(np.float64).sum(axis=-1), 1, atol=0.05)
    assert set(result.patterns.ravel()) <= {"Vertical", "Diagonal", "Vertical+Diagonal", "Block", "Heterogeneous"}
