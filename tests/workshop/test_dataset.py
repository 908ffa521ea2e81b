import hashlib
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from attention_patterns import PATTERNS
from attention_patterns_training.evaluation.data_card import card_text, croissant
from attention_patterns_training.labels.dataset import (
    COLUMNS,
    DATA,
    LabelledMaps,
    read_maps,
    segment_lengths,
    write_labels,
    write_maps,
)

NAMES = [str(pattern) for pattern in PATTERNS]
HELD_OUT = "encoder, rotary positions"


def test_every_map_is_an_attention_map(labelled):
    for attention, row in zip(labelled.maps, labelled.table.itertuples(), strict=True):
        assert attention.dtype == np.float16
        assert attention.shape == (row.length, row.length)
        assert attention.min() >= 0
        assert np.abs(attention.sum(axis=1, dtype=np.float64) - 1).max() < 2e-3
        assert sum(segment_lengths(row.segments)) == row.length
        assert row.direction == "bidirectional" or not np.triu(attention, 1).any()


def test_every_map_has_its_labels_and_every_label_its_map(labelled):
    table = labelled.table
    assert tuple(table.columns) == COLUMNS
    assert table["map_id"].is_unique
    with np.load(DATA / "maps.npz") as archive:
        assert set(table["map_id"]) == set(archive.files)
    for column in ("pattern", "annotator_a", "annotator_b"):
        assert set(table[column]) == set(NAMES)
    for column in ("second", "annotator_a_second", "annotator_b_second"):
        assert set(table[column]) <= {"", *NAMES}
    agreed = table["annotator_a"] == table["annotator_b"]
    assert (table["pattern"][agreed] == table["annotator_a"][agreed]).all()
    assert (table["second"] != table["pattern"]).all()
    assert not (labelled.one_segment & (table["pattern"] == "Block")).any()


def test_the_data_set_is_broad(labelled):
    table = labelled.table
    assert len(table) >= 2500
    assert cohen_kappa_score(table["annotator_a"], table["annotator_b"]) >= 0.75
    assert table["pattern"].value_counts().min() >= 200
    assert (table["direction"] == "causal").sum() >= 300
    assert (~labelled.one_segment).sum() >= 800
    assert (table["length"] >= 128).sum() >= 300
    assert table["source"].nunique() >= 5
    assert table["source"].value_counts().max() <= len(table) / 2
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 60e6


def family(name):
    """Checkpoints of one model share their heads, and so do MiniLM, its fine-tunings and its interventions."""
    return "minilm" if name.startswith(("minilm", "all-MiniLM")) else name.removesuffix("-early").removesuffix("-late")


@pytest.mark.parametrize(("one", "other"), [("test", "train"), ("test", "validation"), ("validation", "train")])
def test_no_text_and_no_head_of_a_split_is_in_another(labelled, one, other):
    tables = [labelled.split(name).table for name in (one, other)]
    texts = [set(table["text_id"]) for table in tables]
    assert not texts[0] & texts[1]
    heads = [set(zip(table["model"].map(family), table["layer"], table["head"], strict=True)) for table in tables]
    assert not heads[0] & heads[1]


def test_one_source_is_held_out(labelled):
    table = labelled.table
    held_out = table["split"] == "held-out"
    assert set(table["source"][held_out]) == {HELD_OUT}
    assert HELD_OUT not in set(table["source"][~held_out])
    assert not set(table["text_id"][held_out]) & set(table["text_id"][table["split"] == "train"])
    assert not set(table["model"][held_out].map(family)) & set(table["model"][~held_out].map(family))


def test_the_card_and_the_metadata_state_what_is_there():
    assert (DATA / "DATASET_CARD.md").read_text() == card_text()
    metadata = croissant()
    assert json.loads((DATA / "croissant.json").read_text()) == metadata
    for file in metadata["distribution"]:
        assert hashlib.sha256((DATA / file["contentUrl"]).read_bytes()).hexdigest() == file["sha256"]


def test_maps_are_written_whole(tmp_path):
    write_maps({"one": np.eye(8, dtype=np.float16)}, tmp_path)
    np.testing.assert_array_equal(read_maps(tmp_path)["one"], np.eye(8))
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]


def test_labels_are_written_as_they_were_read(tmp_path, labelled):
    write_labels(labelled.table, tmp_path)
    assert (tmp_path / "labels.csv").read_bytes() == (DATA / "labels.csv").read_bytes()


def test_one_segment_is_what_the_labels_say(labelled):
    table = labelled.table.iloc[:3].assign(segments=["12", "12+9", ""])
    assert LabelledMaps(labelled.maps[:3], table).one_segment.tolist() == [True, False, False]
