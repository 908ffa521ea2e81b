"""Rows that do not sum to 1: taken where rounding explains them or on request, or else refused by their cause."""

import json
import re

import numpy as np
import pytest

from attention_patterns import errors
from attention_patterns.attention_map import DataType, read_attention, read_declaration
from attention_patterns.row_sums import RENORMALISED, decode_map, divide_rows
from tests.helpers.drawn_maps import bfloat16_bits, random_maps

LENGTH = 128
SMOOTH = random_maps(2, 3, LENGTH, LENGTH).astype(float)  # weights about as small as the steps that they are rounded to
SQUARE = random_maps(12, 12).astype(float)
CAUSAL = np.tril(SQUARE) / np.tril(SQUARE).sum(axis=1, keepdims=True)


def rounded(maps, decimals):
    """Returns maps as JSON with so many decimals holds them; "8 bits": as an image holds them."""
    if decimals == "8 bits":
        return (np.rint(maps * 255).astype(np.uint8) / 255).astype(np.float32)
    return np.array(json.loads(json.dumps(np.round(maps, decimals).tolist())))


@pytest.mark.parametrize(
    ("decimals", "name", "dtype"),
    [
        *((2, "2 decimals", dtype) for dtype in (np.float64, np.float32, np.float16)),
        *((3, "3 decimals", dtype) for dtype in (np.float64, np.float32)),
        *(("8 bits", "8 bits", dtype) for dtype in (np.float64, np.float32, np.float16)),
    ],
)
def test_rounded_weights_are_taken_with_a_warning(classifier, decimals, name, dtype):
    """Half a step in each of 128 cells is 0.64 at 2 decimals, 0.064 at 3, 0.25 at 8 bits."""
    maps = rounded(SMOOTH, decimals).astype(dtype)
    off = np.abs(maps.astype(float).sum(axis=-1) - 1).max()
    assert off > (0.01 if dtype != np.float16 else 0.02)
    result = classifier.classify(maps)
    most = {2: "0.64", 3: "0.064", "8 bits": "0.25"}[decimals]
    assert result.warnings[0] == (
        f"weights are rounded to {name}, which explains row sums of 1 +- {most}; such rows were divided by their sums"
    )
    divided = classifier.classify((maps / maps.astype(float).sum(axis=-1, keepdims=True)).astype(np.float32))
    assert result.patterns.tolist() == divided.patterns.tolist()
    np.testing.assert_allclose(result.evidence.row_entropy, divided.evidence.row_entropy, atol=1e-2)


def test_four_decimals_are_taken_where_there_are_many_tokens(classifier):
    """Uniform rows over 300 tokens: 0.0033 in each, 0.99 in all; over 1500: 0.0007, 1.05; over 90: 0.0111, 0.999."""
    for length, warned in ((90, 0), (300, 1), (1500, 1)):
        maps = rounded(np.full((length, length), 1 / length), 4)
        result = classifier.classify(maps)
        assert sum("rounded to 4 decimals" in warning for warning in result.warnings) == warned


def test_causal_rows_are_judged_by_their_own_cells(classifier):
    """A first row of 0.9 in one cell is off by more than half a step, however long the others are."""
    maps = np.tril(np.ones((LENGTH, LENGTH)))
    maps = rounded(maps / maps.sum(axis=1, keepdims=True), 2)
    assert "rounded to 2 decimals" in classifier.classify(maps).warnings[0]
    maps[0, 0] = 0.9
    with pytest.raises(
        errors.RowSumError, match=r"row 0 sums to 0\.9, .*rounded to 2 decimals, which explains no more"
    ):
        classifier.classify(maps)


def test_weights_that_were_rounded_to_zero_add_nothing(classifier):
    """Over 600 tokens half a step of 0.01 in each cell would be 3; forty weights of 0.05 have 0.2, and sum to 2."""
    maps = np.zeros((600, 600))
    maps[:, :20] = 0.05
    maps[5, :40] = 0.05
    with pytest.raises(errors.RowSumError, match=r"row 5 sums to 2, .*rows differ and all others sum to 1"):
        classifier.classify(maps)
    maps[5, 20:] = 0
    maps[5, 20:40] = 0.01  # what was less than 0.015 of 20 tokens
    assert "rounded to 2 decimals" in classifier.classify(maps).warnings[0]


def test_rounded_maps_beside_others_in_padding_and_lists(classifier):
    maps = SMOOTH.copy()
    maps[1, 2] = rounded(maps[1, 2], 2)
    assert sum("rounded" in warning for warning in classifier.classify(maps).warnings) == 1
    padded = np.zeros((LENGTH + 9, LENGTH + 9))
    padded[4 : LENGTH + 4, 4 : LENGTH + 4] = maps[1, 2]
    mask = [0] * 4 + [1] * LENGTH + [0] * 5
    result = classifier.classify(padded, mask=mask, tokens=["[CLS]", *["a"] * (LENGTH - 1)])
    assert sum("rounded" in warning for warning in result.warnings) == 1
    plain = classifier.classify(
        maps[1, 2] / maps[1, 2].sum(axis=1, keepdims=True), token_groups={"even": range(0, 128, 2)}
    )
    result = classifier.classify(padded, mask=mask, token_groups={"even": range(4, 132, 2)})
    for name in ("share", "share_from_inside", "share_from_outside"):
        own, of_plain = (getattr(each.attention_to["even"], name) for each in (result, plain))
        np.testing.assert_allclose(own, of_plain, atol=1e-5)
    assert len(classifier.classify_maps([maps[1, 2], SQUARE])) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda maps: np.where(np.arange(LENGTH)[:, None] == 5, 0, maps),  # an empty row
        lambda maps: maps * 3,
        lambda maps: np.where(maps > 0, maps, -0.01),
        lambda maps: np.where(np.eye(LENGTH) > 0, np.nan, maps),
    ],
)
def test_rounding_excuses_nothing_else(classifier, spoil):
    with pytest.raises(errors.InvalidAttentionError):
        classifier.classify(spoil(rounded(SMOOTH[0, 0], 2)))


def test_weights_that_show_no_rounding_are_refused_as_before(classifier):
    """0.95 is a multiple of 0.01, but no weight shows that it was rounded to that."""
    for maps in (0.95 * np.eye(LENGTH), 0.95 * SMOOTH[0, 0]):
        with pytest.raises(errors.RowSumError):
            classifier.classify(maps)


@pytest.mark.parametrize("data_type", list(DataType))
def test_rows_are_divided_by_their_sums_on_request(classifier, data_type):
    scale = np.random.default_rng(0).uniform(0.3, 3, (3, 12, 1))
    maps = random_maps(3, 12, 12) * scale
    stored = bfloat16_bits(maps.astype(np.float32)) if data_type == "bfloat16" else maps.astype(data_type.value)
    given = {"data_type": "bfloat16"} if data_type == "bfloat16" else {}
    before = stored.copy()
    with pytest.raises(errors.InvalidAttentionError, match="with renormalise=True, --renormalise of the labeller"):
        classifier.classify(stored, **given)
    result = classifier.classify(stored, renormalise=True, **given)
    assert RENORMALISED in result.warnings
    assert (stored == before).all()
    assert result.patterns.tolist() == classifier.classify(maps / maps.sum(axis=-1, keepdims=True)).patterns.tolist()


def test_what_cannot_be_divided_stays_and_is_refused(classifier):
    maps = SQUARE * 2
    maps[3], maps[7, 2] = 0, np.nan
    divided = divide_rows(read_attention(maps, None), read_declaration(12))
    sums = decode_map(divided, read_declaration(12), 0).sum(axis=1)
    assert [n for n, total in enumerate(sums) if not np.isclose(total, 1)] == [3, 7]
    with pytest.raises(errors.RowSumError, match="row 3 sums to 0"):
        classifier.classify(maps, renormalise=True)
    with pytest.raises(errors.LogitsError, match=r"is -0\.\d+: scores from before the softmax"):
        classifier.classify(np.where(np.eye(12) > 0, -SQUARE, SQUARE + SQUARE.mean()), renormalise=True)


def dropped(maps, share):
    """Returns maps as dropout leaves them, which scales what it does not set to 0."""
    kept = np.random.default_rng(3).random(maps.shape) >= share
    return maps * kept / (1 - share)


def padded(size, value=0.0, front=0):
    maps = np.full((12 + size, 12 + size), value)
    maps[front : 12 + front, front : 12 + front] = SQUARE
    if value == 0:
        return maps
    maps[front : 12 + front] = 0
    maps[front : 12 + front, front : 12 + front] = SQUARE
    return maps


def slip(value):
    maps = SQUARE.copy()
    maps[5, 2] += value
    return maps


SUNK = SQUARE * np.linspace(0.3, 0.98, 12)[:, None]
CAUSES = {
    "per cent": (SQUARE * 100, errors.RowSumError, "as all rows do: weights in per cent? Divide by 100"),
    "8 bits": (SQUARE * 255, errors.RowSumError, "as all rows do: levels of 8 bits? Divide by 255"),
    "summed heads": (random_maps(4, 12, 12).sum(0), errors.RowSumError, "4 heads or layers added up? Divide by 4"),
    "scaled": (SQUARE * 0.9, errors.RowSumError, "as all rows do: scaled? Each row is divided by its sum with renorm"),
    "logarithms": (np.log(SQUARE), errors.LogitsError, "logarithms of weights? Send numpy.exp of them"),
    "masked logarithms": (
        np.log(CAUSAL, out=np.full((12, 12), -np.inf), where=CAUSAL > 0),
        errors.LogitsError,
        "logarithms of weights? Send numpy.exp of them",
    ),
    "scores": (
        np.random.default_rng(0).normal(0, 5, (12, 12)),
        errors.LogitsError,
        "from before the softmax were sent",
    ),
    "exponentials": (
        np.exp(np.random.default_rng(0).normal(0, 2, (12, 12))),
        errors.LogitsError,
        "scores, or exponentials not divided by their sums, were sent? Each row is divided",
    ),
    "transposed": (SQUARE.T, errors.TransposedError, "transposed"),
    "dropout": (dropped(SQUARE, 0.1), errors.RowSumError, "taken with dropout on? Call the model's eval() first"),
    "a sink": (SUNK, errors.RowSumError, "0.3 to 0.98: keys that were cut off, or attention to a sink outside"),
    "too much": (
        SQUARE * np.linspace(1, 1.7, 12)[:, None],
        errors.RowSumError,
        "1 to 1.7: not divided by their sums?",
    ),
    "a slip above": (slip(0.5), errors.RowSumError, "1 of 12 rows differ and all others sum to 1: changed later"),
    "empty": (np.zeros((12, 12)), errors.RowSumError, "and the whole map is empty"),
    "padding": (padded(4), errors.RowSumError, "an empty row is a padded query? Declare valid_length=12"),
    "padding in front": (padded(4, front=4), errors.RowSumError, "Declare a mask of the 12 other tokens"),
    "padding of NaN": (padded(4, np.nan), errors.NotFiniteError, "such as padding? Declare valid_length=12"),
}


@pytest.mark.parametrize(("maps", "error", "message"), CAUSES.values(), ids=CAUSES)
def test_each_cause_is_named(classifier, maps, error, message):
    with pytest.raises(error, match=re.escape(message)):
        classifier.classify(maps)


def test_the_remedies_that_are_advised_help(classifier):
    """Each that is a call is made; what is advised to be divided is divided."""
    classifier.classify(CAUSES["padding"][0], valid_length=12)
    classifier.classify(CAUSES["padding of NaN"][0], valid_length=12)
    classifier.classify(CAUSES["padding in front"][0], mask=[0] * 4 + [1] * 12)
    for name, by in (("per cent", 100), ("8 bits", 255), ("summed heads", 4)):
        classifier.classify(CAUSES[name][0] / by)
    for name in ("logarithms", "masked logarithms"):
        classifier.classify(np.exp(CAUSES[name][0]))
    for name in ("scaled", "a sink", "too much", "exponentials"):
        classifier.classify(CAUSES[name][0], renormalise=True)


@pytest.mark.parametrize("name", ["a slip above", "too much", "dropout", "a sink"])
def test_padding_is_not_blamed_where_it_is_none(classifier, name):
    maps = CAUSES[name][0]
    with pytest.raises(errors.RowSumError) as refused:
        classifier.classify(maps)
    assert "padd" not in str(refused.value)
    with pytest.raises(errors.RowSumError, match="as padding is missing from it") as refused:
        classifier.classify(SQUARE, valid_length=11)
    with pytest.raises(errors.RowSumError) as refused:
        classifier.classify(maps * 1.1, valid_length=11)
    assert "padd" not in str(refused.value)


def test_an_empty_row_that_others_attend_to_is_no_padding(classifier):
    maps = SQUARE.copy()
    maps[5] = 0
    with pytest.raises(errors.RowSumError, match=r"row 5 sums to 0, expected 1 .*; no weight stands in it$"):
        classifier.classify(maps)
