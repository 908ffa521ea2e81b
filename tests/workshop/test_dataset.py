import hashlib
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from attention_patterns import PATTERNS
from attention_patterns_training.evaluation.data_card import card_text, croissant
from attention_patterns_training.labels.dataset import COLUMNS, DATA, read_maps, segment_lengths, write_maps

NAMES = [str(pattern) for pattern in PATTERNS]
HELD_OUT = "encoder, rotary positions"


def test_every_map_is_an_attention_map(labelled):
    for one, row in zip(labelled.maps, labelled.table.itertuples(), strict=True):
        assert one.dtype == np.float16
        assert one.shape == (row.length, row.length)
        assert one.min() >= 0
        assert np.abs(one.astype(np.float64).sum(axis=1) - 1).max() < 2e-3
        assert sum(segment_lengths(row.segments)) == row.length
        assert row.direction == "bidirectional" or not np.triu(one, 1).any()


def test_every_map_has_its_labels_and_every_label_its_map(labelled):
    table = labelled.table
    assert tuple(table.columns) == COLUMNS
    assert table["map_id"].is_unique
    assert set(table["map_id"]) == set(read_maps())
    for column in ("pattern", "annotator_a", "annotator_b"):
        assert set(table[column]) == set(NAMES)
    for column in ("second", "annotator_a_second", "annotator_b_second"):
        assert set(table[column]) <= {"", *NAMES}
    agreed = table["annotator_a"] == table["annotator_b"]
    assert (table["pattern"][agreed] == table["annotator_a"][agreed]).all()
    assert (table["second"] != table["pattern"]).all()
    assert table["segments"][table["pattern"] == "Block"].str.contains("+", regex=False).all()


def test_the_data_set_is_broad(labelled):
    table = labelled.table
    assert len(table) >= 2500
    assert cohen_kappa_score(table["annotator_a"], table["annotator_b"]) >= 0.75
    assert table["pattern"].value_counts().min() >= 200
    assert (table["direction"] == "causal").sum() >= 300
    assert table["segments"].str.contains("+", regex=False).sum() >= 800
    assert (table["length"] >= 128).sum() >= 300
    assert table["source"].nunique() >= 5
    assert table["source"].value_counts().max() <= len(table) / 2
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 60e6


def one_model(name):
    """Checkpoints of one model share their heads, and so do MiniLM, its fine-tunings and its interventions."""
    return "minilm" if name.startswith(("minilm", "all-MiniLM")) else name.removesuffix("-early").removesuffix("-late")


@pytest.mark.parametrize(("one", "other"), [("test", "train"), ("test", "validation"), ("validation", "train")])
def test_no_text_and_no_head_of_a_split_is_in_another(labelled, one, other):
    tables = [labelled.part(name).table for name in (one, other)]
    texts = [set(table["text_id"]) for table in tables]
    assert not texts[0] & texts[1]
    heads = [set(zip(table["model"].map(one_model), table["layer"], table["head"], strict=True)) for table in tables]
    assert not heads[0] & heads[1]


def test_one_source_is_held_out(labelled):
    table = labelled.table
    held_out = table["split"] == "held-out"
    assert set(table["source"][held_out]) == {HELD_OUT}
    assert HELD_OUT not in set(table["source"][~held_out])
    assert not set(table["text_id"][held_out]) & set(table["text_id"][table["split"] == "train"])
    assert not set(table["model"][held_out].map(one_model)) & set(table["model"][~held_out].map(one_model))


def test_the_card_and_the_metadata_state_what_is_there():
    assert (DATA / "DATASET_CARD.md").read_text() == card_text()
    assert json.loads((DATA / "croissant.json").read_text()) == croissant()
    for file in croissant()["distribution"]:
        assert hashlib.sha256((DATA / file["contentUrl"]).read_bytes()).hexdigest() == file["sha256"]


def test_maps_are_written_whole(tmp_path):
    write_maps({"one": np.eye(8, dtype=np.float16)}, tmp_path)
    np.testing.assert_array_equal(read_maps(tmp_path)["one"], np.eye(8))
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]
