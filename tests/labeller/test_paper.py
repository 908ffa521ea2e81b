"""The comparison of a run with the figures of Kovaleva et al. 2019."""

import numpy as np
import pytest
from rich.console import Console

from attention_patterns.errors import InvalidSettingsError
from attention_patterns.labelling.summary.paper import SHARES, TO_CLS, TO_SEP, compare, paper_task

EVEN = [0.2] * 5


def printed(*arguments, width=80, **options):
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(compare(*arguments, **options))
    return captured.get()


def cells(text, first):
    """The cells of the first line that begins with a word."""
    return next(line for line in text.splitlines() if line.startswith(first)).split()


def test_the_published_shares_are_whole_maps_and_agree_with_the_text_of_the_paper():
    for shares in SHARES.values():
        assert len(shares) == 5
        assert sum(shares) == pytest.approx(100, abs=0.5)
    assert round(SHARES["MRPC"][3] + SHARES["MRPC"][4]) == 32
    assert round(SHARES["QQP"][3] + SHARES["QQP"][4]) == 61
    assert len(TO_SEP) == 12
    assert len(TO_CLS) == 5


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("stsb", "STS-B"),
        ("STS-B", "STS-B"),
        ("sts_b", "STS-B"),
        ("sst2", "SST-2"),
        ("SST-2", "SST-2"),
        ("mnli-m", "MNLI"),
        ("mnli", "MNLI"),
        ("glue/qqp", "QQP"),
        (" rte ", "RTE"),
    ],
)
def test_task_names_are_understood(name, task):
    assert paper_task(name) == task


@pytest.mark.parametrize("name", ["cola", "", "mnli-mm", "q"])
def test_unknown_tasks_are_refused_with_the_known_ones(name):
    with pytest.raises(InvalidSettingsError, match=r"expected one of MRPC, STS-B, SST-2, QQP, RTE, QNLI, MNLI"):
        compare(name, shares=EVEN, inputs=3)


def test_shares_stand_beside_the_paper_s_with_the_difference_in_points():
    text = printed("qqp", shares=[0.265, 0.07, 0.05, 0.029, 0.586], inputs=1000)
    assert cells(text, "Vertical ") == ["Vertical", "26.5", "25.0", "+1.5"]
    assert cells(text, "Heterogeneous") == ["Heterogeneous", "58.6", "58.2", "+0.4"]
    assert "together they are 61.5 % in this run" in " ".join(text.split())
    assert "[SEP]" not in text


def test_intervals_are_shown_where_given_also_as_arrays():
    text = printed("qqp", shares=np.full(5, 0.2), low=np.full(5, 0.1), high=np.full(5, 0.35), inputs=9)
    assert cells(text, "Block") == ["Block", "20.0", "10.0", "to", "35.0", "2.9", "+17.1"]


def test_attention_by_layer_stands_beside_the_paper_s():
    own = [0.125] * 12
    text = printed("qqp", shares=EVEN, inputs=9, to_cls=own, to_sep=own, model_layers=12, model_heads=12)
    assert cells(text, "1 ") == ["1", "0.12", "0.38", "-0.26", "0.12", "0.08", "+0.04"]
    assert cells(text, "5 ") == ["5", "0.12", "<=", "0.02", "+0.10", "0.12", "0.32", "-0.20"]
    assert "one to one" not in text


def test_a_layer_under_the_bound_has_no_difference_and_no_negative_nought():
    text = printed("qqp", shares=EVEN, inputs=9, to_cls=[0.01] * 12, to_sep=np.array(TO_SEP) - 0.001)
    assert cells(text, "6 ") == ["6", "0.01", "<=", "0.02", "0.33", "0.33", "+0.00"]
    assert "-0.00" not in text


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_layers_without_the_token_and_of_a_selection_are_left_empty(missing):
    text = printed("qqp", shares=EVEN, inputs=9, to_sep=[missing, 0.5], layers=[3, 13])
    assert cells(text, "3 ") == ["3", "0.21", "0.16"]
    assert cells(text, "13 ") == ["13", "0.50"]
    assert cells(text, "11 ") == ["11", "<=", "0.02", "0.37"]


def test_the_differences_in_method_that_hold_are_listed():
    text = " ".join(printed("sst2", shares=EVEN, inputs=1, model="small [net]", to_sep=[0.1] * 6).split())
    for sentence in (
        "about 400 maps",
        "never published",
        "fine-tuned on SST-2",
        "small [net], 1 input.",
        "wrong by 0.5 points",
        "never answers Block on one segment",
        "6 layers, theirs 12 layers and 12 heads per layer",
        "this run is on SST-2",
        "A single sentence has one [SEP]",
    ):
        assert sentence in text


def test_the_differences_in_method_that_do_not_hold_are_left_out():
    text = printed("qqp", shares=EVEN, inputs=1, to_sep=TO_SEP, model_layers=12, model_heads=12)
    for sentence in ("one segment", "one to one", "this run is on", "single sentence"):
        assert sentence not in text


def test_it_fits_a_terminal_of_80_columns():
    text = printed(
        "mnli", shares=EVEN, low=EVEN, high=EVEN, inputs=100000, to_cls=[0.5] * 24, to_sep=[0.5] * 24, model="m" * 90
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "difference" in text
