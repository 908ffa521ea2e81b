import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from classifier import PATTERNS
from training.dataset import COLUMNS, segment_lengths

NAMES = [str(pattern) for pattern in PATTERNS]


def test_every_map_is_an_attention_map(labelled):
    for one, row in zip(labelled.maps, labelled.table.itertuples(), strict=True):
        assert one.dtype == np.float16
        assert one.shape == (row.length, row.length)
        assert np.abs(one.astype(np.float64).sum(axis=1) - 1).max() < 2e-3
        assert sum(segment_lengths(row.segments)) == row.length
        assert row.direction == "bidirectional" or not np.triu(one, 1).any()


def test_every_map_has_its_labels(labelled):
    table = labelled.table
    assert tuple(table.columns) == COLUMNS
    assert table["map_id"].is_unique
    assert len(table) >= 500
    for column in ("pattern", "annotator_a", "annotator_b"):
        assert set(table[column]) == set(NAMES)
    for column in ("second", "annotator_a_second", "annotator_b_second"):
        assert set(table[column]) <= {"", *NAMES}
    agreed = table["annotator_a"] == table["annotator_b"]
    assert (table["pattern"][agreed] == table["annotator_a"][agreed]).all()
    assert table["segments"][table["pattern"] == "Block"].str.contains("+", regex=False).all()
    assert cohen_kappa_score(table["annotator_a"], table["annotator_b"]) >= 0.75
    assert (table["source"] == "minilm").sum() >= 500


@pytest.mark.parametrize("other", ["train", "validation"])
def test_no_text_and_no_head_of_the_test_split_is_elsewhere(labelled, other):
    test, rest = labelled.part("test").table, labelled.part(other).table
    assert not set(test["text_id"]) & set(rest["text_id"])
    heads = [set(zip(t["model"], t["layer"], t["head"], strict=True)) for t in (test, rest)]
    assert not heads[0] & heads[1]
    assert set(labelled.table["split"]) == {"train", "validation", "test"}
