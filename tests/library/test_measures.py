import math

import numpy as np
import pytest

from attention_patterns import Pattern
from tests.helpers.drawn_maps import draw, random_maps

TOKENS = ("[CLS]", "a", "b", "[SEP]", "c", "d", "e", "[SEP]")
WORKED = np.zeros((8, 8), np.float32)
WORKED[0] = [1, 0, 0, 0, 0, 0, 0, 0]
WORKED[1:4] = [0.2, 0, 0, 0.5, 0, 0, 0, 0.3]
WORKED[4:7] = [0, 0.25, 0.25, 0.1, 0, 0, 0, 0.4]
WORKED[7] = [0, 0, 0, 0, 0, 0, 0, 1]


def test_ratios_by_hand(classifier):
    """S = the two [SEP], columns 3 and 7, of the map above.

    Attention to S by row: 0, 0.8 x 3, 0.5 x 3, 1; sum 4.9. Share 4.9 / 8 = 0.6125 (Clark).
    Column means: column 3: (0.5 x 3 + 0.1 x 3) / 8 = 0.225; column 7: (0.3 x 3 + 0.4 x 3 + 1) / 8 = 0.3875 (Kovaleva:
    the larger). Rows in S: row 3 gives 0.8, row 7 gives 1: 1.8 / 2 = 0.9. Rows outside: (4.9 - 1.8) / 6 = 0.516667.
    Even attention: 2 / 8.
    """
    to = classifier.classify(WORKED, tokens=TOKENS).attention_to["[SEP]"]
    assert to.positions.tolist() == [3, 7]
    assert to.share == pytest.approx(0.6125)
    assert to.max_token_share == pytest.approx(0.3875)
    assert to.share_from_inside == pytest.approx(0.9)
    assert to.share_from_outside == pytest.approx(3.1 / 6)
    assert to.baseline == 0.25
    assert to.share.dtype == np.float32
    assert to.share.shape == ()


def test_causal_baseline_by_hand(classifier):
    """S = {0} under a causal mask: row i attends evenly over i + 1 keys, so the baseline is the mean of 1 / (i + 1).

    For S = {0, 2} and L = 4: rows give 1/1, 1/2, 2/3, 2/4: mean 0.666667.
    """
    even = np.tri(9) / np.arange(1, 10)[:, None]
    result = classifier.classify(even, token_groups={"first": [0]})
    assert bool(result.causal)
    assert result.attention_to["first"].baseline == pytest.approx(np.mean(1 / np.arange(1, 10)))
    assert result.attention_to["first"].share == pytest.approx(np.mean(1 / np.arange(1, 10)))
    small = np.tri(4) / np.arange(1, 5)[:, None]
    assert classifier.classify(small, token_groups={"s": [2, 0]}).attention_to["s"].baseline == pytest.approx(2 / 3)


def test_one_token_share_is_the_same_in_both_readings(classifier):
    to = classifier.classify(WORKED, tokens=TOKENS).attention_to["[CLS]"]
    assert to.share == to.max_token_share == pytest.approx(1.6 / 8)


def test_ratios_of_random_maps_match_numpy(classifier):
    maps = random_maps(3, 4, 37, 37)
    to = classifier.classify(maps, token_groups={"s": range(5, 30, 3)}).attention_to["s"]
    columns = maps[..., 5:30:3].astype(np.float64)
    inside = np.zeros(37, bool)
    inside[5:30:3] = True
    np.testing.assert_array_equal(to.share, columns.sum(-1).mean(-1).astype(np.float32))
    np.testing.assert_array_equal(to.max_token_share, columns.mean(-2).max(-1).astype(np.float32))
    np.testing.assert_allclose(to.share_from_inside, columns.sum(-1)[..., inside].mean(-1), rtol=1e-6)
    np.testing.assert_allclose(to.share_from_outside, columns.sum(-1)[..., ~inside].mean(-1), rtol=1e-6)


def test_a_group_of_all_tokens_has_no_rows_outside(classifier):
    to = classifier.classify(random_maps(10, 10), token_groups={"all": range(10)}).attention_to["all"]
    assert to.share == pytest.approx(1)
    assert math.isnan(to.share_from_outside)


def test_evidence_by_hand(classifier):
    """L = 10: half of every row in column 2, half on the previous token; a visible cell holds at least 0.25.

    Row 0 has no previous token and puts all of it in column 2. In row 3 both fall together: its cell holds 1 and counts
    to stripe and line, once for both. Stripe: 9 x 0.5 + row 0's and row 3's other halves = 5.5 of 10. Line, offset -1:
    8 rows of 0.5 and row 3's 1 = 5. Both together cover everything.
    Entropy: ln 2 in 8 rows, 0 in rows 0 and 3.
    """
    attention = np.zeros((10, 10))
    attention[:, 2] += 0.5
    attention[np.arange(1, 10), np.arange(9)] += 0.5
    attention[0, 2] = 1
    evidence = classifier.classify(attention, segments=[3, 7]).evidence
    assert evidence.visible_mass == pytest.approx(1)
    assert evidence.stripe_mass == pytest.approx(0.6)
    assert np.flatnonzero(evidence.stripes).tolist() == [2]
    assert evidence.line_mass == pytest.approx(0.5)
    assert evidence.line_offset == -1
    assert evidence.stripe_or_line_mass == pytest.approx(1)
    assert evidence.row_entropy == pytest.approx(0.8 * math.log(2), abs=1e-5)


def test_segment_mass_by_hand(classifier):
    """Segments of 3 and 5 tokens, each token attending 0.9 inside its own: the mean over rows is 0.9."""
    attention = np.zeros((8, 8))
    attention[:3, :3], attention[:3, 3:] = 0.9 / 3, 0.1 / 5
    attention[3:, 3:], attention[3:, :3] = 0.9 / 5, 0.1 / 3
    assert classifier.classify(attention, segments=[3, 5]).evidence.segment_mass == pytest.approx(0.9)
    assert classifier.classify(attention).evidence.segment_mass is None


@pytest.mark.parametrize("length", [8, 33, 64, 200, 700])
def test_entropy_matches_numpy(classifier, length):
    maps = random_maps(3, length, length, seed=length).astype(np.float64)
    expected = -(maps * np.log(maps)).sum(-1).mean(-1)
    for data in (maps, maps.astype(np.float32)):
        np.testing.assert_allclose(classifier.classify(data).evidence.row_entropy, expected, atol=1e-5)


@pytest.mark.parametrize("length", [8, 40, 128, 1024])
def test_elements_are_found_at_every_length(classifier, length):
    stripe = classifier.classify(draw(Pattern.VERTICAL, length)).evidence
    assert np.flatnonzero(stripe.stripes).tolist() == [0]
    assert stripe.stripe_mass == pytest.approx(0.7, abs=0.3 / length + 1e-6)
    assert stripe.line_mass == 0
    line = classifier.classify(draw(Pattern.DIAGONAL, length)).evidence
    assert line.line_offset == -1
    assert line.line_mass == pytest.approx(0.7, abs=1.3 / length)
    assert not line.stripes.any()


def test_a_filled_square_is_no_line(classifier):
    evidence = classifier.classify(draw(Pattern.BLOCK, 60, ground=0.05)).evidence
    assert evidence.line_mass == evidence.stripe_mass == 0
