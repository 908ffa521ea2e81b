import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from classifier import PATTERNS
from classifier.errors import SourceError
from classifier.label_input import FailedInput, LabelInput
from classifier.label_table import SCHEMA, head_rows, table_schema
from classifier.labelling import label

TOKENS = ["[CLS]", *"abcdefghi", "[SEP]"]


def attention(*shape, seed=0):
    scores = np.exp(3 * np.random.default_rng(seed).normal(size=shape))
    return (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)


def labelled(tmp_path, inputs, classifier, **options):
    summary = label(iter(inputs), classifier=classifier, output=tmp_path / "labels.parquet", **options)
    return summary, pq.read_table(summary.output)


def test_a_row_says_what_the_classifier_says(tmp_path, classifier):
    maps, segments = attention(2, 3, 11, 11), [0] * 5 + [1] * 6
    one = LabelInput("a", maps, "encoder", tokens=TOKENS, segments=segments, warnings=("from the source",))
    _, table = labelled(tmp_path, [one], classifier)
    result = classifier.classify(maps, tokens=TOKENS, segments=segments)
    assert table.num_rows == 6
    for row in table.to_pylist():
        at = row["layer"], row["head"]
        assert (row["input_id"], row["part"], row["length"], row["model"]) == ("a", "encoder", 11, result.model)
        assert row["pattern"] == result.patterns[at]
        names = ("vertical", "diagonal", "vertical_diagonal", "block", "heterogeneous")
        assert [row[f"probability_{name}"] for name in names] == result.probabilities[at].tolist()
        for name in ("margin", "uncertain", "overruled", "causal"):
            assert row[name] == getattr(result, name)[at]
        for name in ("visible_mass", "stripe_mass", "line_mass", "stripe_or_line_mass", "segment_mass", "row_entropy"):
            assert row[name] == getattr(result.evidence, name)[at]
        assert row["stripes"] == np.flatnonzero(result.evidence.stripes[at]).tolist()
        assert [group["group"] for group in row["attention_to"]] == ["[CLS]", "[SEP]"]
        for group in row["attention_to"]:
            measures = result.attention_to[group.pop("group")]
            assert group == {name: getattr(measures, name)[at] for name in group}
        assert row["warnings"] == ["from the source", *result.warnings]
        assert row["too_short"] is False


def test_null_stands_for_what_is_not_known(classifier):
    even, line = np.full((9, 9), 1 / 9, np.float32), np.eye(9, k=-1, dtype=np.float32)
    line[0, 0] = 1
    result = classifier.classify(np.stack([even, line]), token_groups={"all": range(9)})
    no_line, with_line = head_rows(result, input_id="a").to_pylist()
    assert (no_line["line_mass"], no_line["line_offset"], no_line["segment_mass"], no_line["part"]) == (
        0,
        None,
        None,
        None,
    )
    assert with_line["line_offset"] == -1
    assert no_line["attention_to"][0]["share_from_outside"] is None
    assert no_line["attention_to"][0]["share_from_inside"] == pytest.approx(1)


@pytest.mark.parametrize(("shape", "places"), [((), [(0, 0)]), ((2,), [(0, 0), (0, 1)]), ((2, 1), [(0, 0), (1, 0)])])
def test_missing_axes_count_as_0(tmp_path, classifier, shape, places):
    _, table = labelled(tmp_path, [LabelInput("a", attention(*shape, 9, 9))], classifier)
    assert [(row["layer"], row["head"]) for row in table.to_pylist()] == places
    assert table["attention_to"].to_pylist() == [[]] * len(places)


def test_the_file_is_as_documented_and_opens_in_pandas(tmp_path, classifier):
    inputs = [LabelInput(str(n), attention(2, 3, 11, 11, seed=n), tokens=TOKENS) for n in range(5)]
    summary, table = labelled(tmp_path, inputs, classifier, rendering_version=7)
    assert table.schema.equals(SCHEMA)
    assert pq.read_schema(summary.output).metadata == {b"schema_version": b"2", b"rendering_version": b"7"}
    assert pq.ParquetFile(summary.output).metadata.row_group(0).column(0).compression == "ZSTD"
    frame = pd.read_parquet(summary.output)
    assert list(frame.columns) == SCHEMA.names
    assert list(frame["pattern"].cat.categories) == list(PATTERNS)
    assert frame["input_id"].tolist() == [str(n) for n in range(5) for _ in range(6)]


def test_without_a_known_rendering_the_file_names_none():
    assert table_schema().metadata == {b"schema_version": b"2"}


def test_rows_are_written_group_by_group(tmp_path, classifier, monkeypatch):
    monkeypatch.setattr("classifier.labelling.ROW_GROUP", 10)
    inputs = [LabelInput(str(n), attention(2, 3, 11, 11, seed=n)) for n in range(5)]
    summary, table = labelled(tmp_path, inputs, classifier)
    file = pq.ParquetFile(summary.output)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [12, 12, 6]
    assert table["input_id"].to_pylist() == [str(n) for n in range(5) for _ in range(6)]


def test_bad_inputs_are_recorded_and_the_run_goes_on(tmp_path, classifier):
    bad = attention(2, 3, 11, 11)
    bad[1, 2, 4] *= 0.5
    inputs = [
        LabelInput("good", attention(2, 3, 11, 11)),
        LabelInput("bad map", bad, "decoder"),
        FailedInput("bad file", SourceError("bad file cannot be read")),
        LabelInput("bad tokens", attention(11, 11), tokens=["one"]),
        LabelInput("too short", attention(5, 5)),
    ]
    seen = []
    summary, table = labelled(tmp_path, inputs, classifier, on_progress=lambda *step: seen.append(step))
    assert (summary.inputs, summary.failed, summary.maps, summary.warned) == (2, 3, 7, 2)  # noise is warned of, too
    assert seen == [(1.0, 6), (1.0, 0), (1.0, 0), (1.0, 0), (1.0, 1)]
    assert table["input_id"].unique().to_pylist() == ["good", "too short"]
    assert table["too_short"].to_pylist() == [False] * 6 + [True]
    assert summary.errors == tmp_path / "labels.parquet.errors.jsonl"
    records = [json.loads(line) for line in summary.errors.read_text(encoding="utf-8").splitlines()]
    assert [(r["input_id"], r["part"], r["error"]) for r in records] == [
        ("bad map", "decoder", "RowSumError"),
        ("bad file", None, "SourceError"),
        ("bad tokens", None, "TokensError"),
    ]
    assert "attention[layer 1, head 2]: row 4 sums to 0.5" in records[0]["message"]


def test_errors_of_an_earlier_run_are_removed(tmp_path, classifier):
    stale = tmp_path / "labels.parquet.errors.jsonl"
    stale.write_text("{}\n")
    summary, _ = labelled(tmp_path, [LabelInput("a", attention(9, 9))], classifier)
    assert summary.errors is None
    assert not stale.exists()


def test_a_run_without_a_good_input_writes_an_empty_table(tmp_path, classifier):
    summary, table = labelled(tmp_path, [FailedInput("a", SourceError("gone"))], classifier)
    assert (table.num_rows, summary.tallies) == (0, ())
    assert table.schema.equals(SCHEMA)


def test_a_crash_leaves_the_earlier_file_and_no_other(tmp_path, classifier):
    def crashing():
        yield LabelInput("a", attention(9, 9))
        raise SourceError("the model is gone")

    output = tmp_path / "labels.parquet"
    output.write_text("the earlier file")
    with pytest.raises(SourceError, match="the model is gone"):
        label(crashing(), classifier=classifier, output=output)
    assert output.read_text() == "the earlier file"
    assert list(tmp_path.iterdir()) == [output]


def test_tallies_count_by_part_and_size(tmp_path, classifier):
    encoder = [LabelInput(str(n), attention(2, 3, 11, 11, seed=n), "encoder", tokens=TOKENS) for n in range(3)]
    encoder[2] = LabelInput("2", attention(2, 3, 11, 11, seed=2), "encoder")
    summary, table = labelled(tmp_path, [*encoder, LabelInput("3", attention(4, 9, 9))], classifier)
    first, second = summary.tallies
    assert (first.part, first.inputs, first.counts.shape) == ("encoder", 3, (2, 3, 5))
    assert (second.part, second.inputs, second.counts.shape) == (None, 1, (1, 4, 5))
    frame = table.to_pandas()
    for number, pattern in enumerate(PATTERNS):
        of_head = frame[(frame["layer"] == 1) & (frame["head"] == 2) & (frame["part"] == "encoder")]
        assert first.counts[1, 2, number] == (of_head["pattern"] == pattern).sum()
    shares = [classifier.classify(one.attention, tokens=TOKENS).attention_to["[SEP]"].share for one in encoder[:2]]
    np.testing.assert_allclose(first.attention_to["[SEP]"], np.mean(shares, axis=0), rtol=1e-6)
