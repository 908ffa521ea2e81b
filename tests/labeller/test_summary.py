"""Verdicts, against sums worked out by hand and by pandas."""

import json

import numpy as np
import pandas as pd
import pytest

from attention_patterns import PATTERNS, PatternClassifier
from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.run.run import label
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.summary.summary import STABLE, summarise
from attention_patterns.labelling.summary.sums import entropy, wilson
from tests.helpers.labelled_runs import rows_of, write_dumps


def test_wilsons_interval_of_8_in_10():
    """z = 1.96, z^2 / n = 0.38415.

    (0.8 + 0.19207) / 1.38415 = 0.71674, and 1.96 / 1.38415 * sqrt(0.016 + 0.0096) = 0.22658 either side of it.
    """
    shares = wilson(np.array([8, 2, 0, 0, 0]))
    assert shares.share.tolist() == [0.8, 0.2, 0, 0, 0]
    assert shares.low[0] == pytest.approx(0.4902, abs=5e-5)
    assert shares.high[0] == pytest.approx(0.9433, abs=5e-5)
    assert shares.low[4] == 0
    assert shares.high[4] == pytest.approx(3.8415 / 13.8415, abs=5e-5)  # z^2 / (n + z^2), of 0 in n


def test_no_inputs_have_no_shares():
    shares = wilson(np.zeros((1, 5), np.int64))
    assert np.isnan([shares.share, shares.low, shares.high]).all()
    assert np.isnan(entropy(np.zeros(5)))


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([7, 0, 0, 0, 0], 0), ([3, 3, 0, 0, 0], 1), ([1, 1, 1, 1, 0], 2), ([2, 2, 2, 2, 2], np.log2(5))],
)
def test_entropy_is_in_bits(counts, bits):
    assert entropy(np.array(counts)) == pytest.approx(bits)


@pytest.mark.parametrize(("n", "stable"), [(11, False), (12, True)])
def test_a_head_is_stable_from_twelve_inputs_that_agree(n, stable):
    """Wilson's lower end of n in n is n / (n + z^2): 11 / 14.84 = 0.741, 12 / 15.84 = 0.757."""
    assert (wilson(np.array([n, 0, 0, 0, 0])).low[0] >= STABLE) == stable


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Twenty inputs of 6 x 12 heads in two tasks, to one of which a smaller one of 2 x 3 heads belongs as well."""
    folder = tmp_path_factory.mktemp("runs")
    write_dumps(folder / "a", 14)
    write_dumps(folder / "b", 6, seed=1)
    scores = np.exp(3 * np.random.default_rng(0).normal(size=(2, 3, 11, 11)))
    np.save(folder / "a" / "small.npy", (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32))
    source = DumpSource(dump_tasks([str(folder / "a"), str(folder / "b")]))
    return label(PartMaker(source, PatternClassifier.load(), Memory.from_now(None)), output=folder / "run", settings={})


def test_summaries_are_those_of_the_rows(run):
    frame = rows_of(run.folder.path).to_pandas().astype({"pattern": str, "task": str})
    assert [(stack.task, stack.inputs) for stack in run.stacks] == [("a", 15), ("b", 6)]
    for stack in run.stacks:
        rows = frame[frame["task"] == stack.task]
        assert stack.mean_length == pytest.approx(rows.groupby("input_id")["length"].first().mean())
        for (layer, head), of_head in rows.groupby(["layer", "head"]):
            at = stack.layers.index(layer), stack.heads.index(head)
            counts = of_head["pattern"].value_counts()
            assert stack.counts[at].tolist() == [counts.get(pattern, 0) for pattern in PATTERNS]
            assert stack.uncertain[at] == pytest.approx(of_head["uncertain"].mean())
            assert stack.measures["row_entropy"][at] == pytest.approx(of_head["row_entropy"].mean(), rel=1e-6)
        each = pd.crosstab(rows["input_id"], rows["pattern"], normalize="index").reindex(columns=PATTERNS, fill_value=0)
        assert stack.of_all.share == pytest.approx(each.mean().to_numpy())
        half = 1.959964 * each.std().to_numpy() / len(each) ** 0.5
        assert stack.of_all.low == pytest.approx(np.clip(each.mean() - half, 0, 1).to_numpy())
        assert stack.of_all.high == pytest.approx(np.clip(each.mean() + half, 0, 1).to_numpy())
        third = rows[rows["layer"] == 3]
        of_layer = pd.crosstab(third["input_id"], third["pattern"], normalize="index").reindex(columns=PATTERNS)
        assert stack.of_layers.share[3] == pytest.approx(of_layer.fillna(0).mean().to_numpy())


def test_attention_is_the_mean_over_the_inputs_that_hold_the_token_and_their_number_is_beside_it(run):
    frame = rows_of(run.folder.path).to_pandas()
    first = frame[(frame["task"] == "a") & (frame["layer"] == 1) & (frame["head"] == 2)]["attention_to"]
    shares = [group["share"] for groups in first for group in groups if group["group"] == "[SEP]"]
    assert len(shares) == 14  # the small input has no tokens
    stack = run.stacks[0]
    group = stack.attention_to["[SEP]"]
    assert group.means["share"][1, 2] == pytest.approx(np.mean(shares), rel=1e-6)
    assert (stack.inputs, group.inputs) == (15, 14)
    assert (group.of_heads == 14).all()
    heads = pd.read_parquet(run.folder.path / "heads.parquet")
    one = heads[(heads["task"] == "a") & (heads["layer"] == 1) & (heads["head"] == 2)].iloc[0]
    assert one["inputs"] == 15
    assert {entry["group"]: entry["inputs"] for entry in one["attention_to"]} == {"[CLS]": 14, "[SEP]": 14}
    summary = json.loads((run.folder.path / "summary.json").read_text())
    task = summary["tasks"][0]
    assert (task["inputs"], task["attention_to"]["[SEP]"]["inputs"]) == (15, 14)
    assert task["layers"][1]["attention_to"]["[SEP]"]["inputs"] == 14
    assert summary["tasks"][1]["attention_to"]["[SEP]"]["inputs"] == 6


def test_the_files_say_the_same(run):
    heads = pd.read_parquet(run.folder.path / "heads.parquet")
    assert len(heads) == 144
    stack = run.stacks[1]
    one = heads[(heads["task"] == "b") & (heads["layer"] == 5) & (heads["head"] == 7)].iloc[0]
    assert one["inputs"] == 6
    assert one["pattern"] == PATTERNS[stack.counts[5, 7].argmax()]
    assert one["share_vertical"] == pytest.approx(stack.of_heads.share[5, 7, 0])
    assert one["low_vertical"] == pytest.approx(stack.of_heads.low[5, 7, 0])
    summary = json.loads((run.folder.path / "summary.json").read_text())
    assert summary["tasks"][0]["heads_stable"] == int(run.stacks[0].stable.sum()) > 0
    assert summary["tasks"][1]["layers"][2]["shares"]["Vertical"]["share"] == round(stack.of_layers.share[2, 0], 4)
    assert [layer["layer"] for layer in summary["tasks"][1]["layers"]] == list(range(6))


def test_parts_may_come_in_any_order(run):
    files = run.folder.table_files("labels")
    backwards = {stack.task: stack for stack in summarise(files[::-1])}
    for stack in run.stacks:
        assert np.array_equal(backwards[stack.task].counts, stack.counts)
        assert backwards[stack.task].of_all.share == pytest.approx(stack.of_all.share)


def test_work_shared_out_and_work_alone_make_the_same_part(run):
    source = DumpSource(dump_tasks([str(run.folder.path.parent / "b")]))
    maker = PartMaker(source, PatternClassifier.load(), Memory.from_now(None))
    (unit,) = source.units()
    assert maker.make(unit, alone=True) == maker.make(unit)
