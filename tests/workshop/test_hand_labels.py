import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from attention_patterns_training.__main__ import app
from attention_patterns_training.labels.dataset import CODES, COLUMNS, read_labels, write_labels
from attention_patterns_training.labels.sheets import cell_pixels, draw_map
from tests.helpers.drawn_maps import random_maps

COUNT = 15


@pytest.fixture
def folder(tmp_path):
    """A data set of unlabelled maps."""
    maps = {f"m{n}": random_maps(10 + 3 * n, 10 + 3 * n, seed=n).astype(np.float16) for n in range(COUNT)}
    np.savez_compressed(tmp_path / "maps.npz", allow_pickle=False, **maps)
    rows = [
        {"map_id": name, "length": len(a), "segments": f"4+{len(a) - 4}", "direction": "bidirectional"}
        for name, a in maps.items()
    ]
    write_labels(pd.DataFrame(rows).reindex(columns=list(COLUMNS), fill_value=""), tmp_path)
    return tmp_path


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def answer(sheets, code, second=""):
    key = pd.read_csv(sheets / "key.csv")
    codes = [code(name) if callable(code) else code for name in key["map_id"]]
    key.assign(pattern=codes, second=second).drop(columns="map_id").to_csv(sheets / "answers.csv", index=False)
    return key


def test_two_passes_and_a_third_look(folder, tmp_path):
    for annotator, code in (("a", "V"), ("b", lambda name: "H" if name in {"m3", "m7"} else "V")):
        sheets = tmp_path / annotator
        run("sheets", sheets, "--annotator", annotator, "--folder", folder)
        key = answer(sheets, code, second="VD" if annotator == "b" else "")
        assert sorted(key["map_id"]) == sorted(f"m{n}" for n in range(COUNT))
        assert len(list(sheets.glob("sheet-*.png"))) == key["sheet"].max()
        run("collect", sheets, "--annotator", annotator, "--folder", folder)
    assert "2 disputed" in run("agreement", "--folder", folder)
    table = read_labels(folder).set_index("map_id")
    assert (table["pattern"] == "").sum() == 2
    run("sheets", tmp_path / "third", "--annotator", "third", "--folder", folder)
    assert sorted(answer(tmp_path / "third", "D")["map_id"]) == ["m3", "m7"]
    run("collect", tmp_path / "third", "--annotator", "third", "--folder", folder)
    table = read_labels(folder).set_index("map_id")
    assert table.loc["m3", ["pattern", "annotator_a", "annotator_b"]].tolist() == [
        "Diagonal",
        "Vertical",
        "Heterogeneous",
    ]
    assert table.loc["m0", ["pattern", "second"]].tolist() == ["Vertical", "Vertical+Diagonal"]


def test_calibration_is_printed_by_annotator_and_round(tmp_path):
    """At first all maps are called Vertical, which half of them are: kappa is 0. In the last round all are right: 1."""
    house = ["Vertical", "Block", "Vertical", "Block"]
    pd.DataFrame({"id": range(4), "label": house, "second": ""}).to_csv(tmp_path / "labels.csv", index=False)
    rounds = [pd.DataFrame({"round": 1, "pattern": ["Vertical"] * 4}), pd.DataFrame({"round": 2, "pattern": house})]
    answers = pd.concat(rounds).assign(annotator=7, id=[*range(4)] * 2, second="")
    answers.to_csv(tmp_path / "answers.csv", index=False)
    printed = run("calibration", tmp_path, "--answers", tmp_path / "answers.csv")
    assert "annotator 7, round 1: 4 maps, kappa 0.000" in printed
    assert "annotator 7, round 2: 4 maps, kappa 1.000" in printed
    assert "last rounds: 4 answers, kappa 1.000" in printed


def test_the_order_differs_between_annotators(folder, tmp_path):
    for annotator in ("a", "b"):
        run("sheets", tmp_path / annotator, "--annotator", annotator, "--folder", folder)
    keys = [pd.read_csv(tmp_path / annotator / "key.csv")["map_id"].tolist() for annotator in ("a", "b")]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda answers: answers.iloc[1:], "no answer"),
        (lambda answers: pd.concat([answers, answers.iloc[:1].assign(position=99)]), "no map"),
        (lambda answers: answers.assign(pattern="X"), "'X'"),
    ],
)
def test_incomplete_answers_are_refused(folder, tmp_path, spoil, message):
    sheets = tmp_path / "a"
    run("sheets", sheets, "--annotator", "a", "--folder", folder)
    answer(sheets, "V")
    spoil(pd.read_csv(sheets / "answers.csv", keep_default_na=False)).to_csv(sheets / "answers.csv", index=False)
    result = CliRunner().invoke(app, ["collect", str(sheets), "--annotator", "a", "--folder", str(folder)])
    assert result.exit_code == 2
    assert message in result.output
    assert (read_labels(folder)["annotator_a"] == "").all()


@pytest.mark.parametrize(("length", "least"), [(8, 4), (64, 4), (128, 4), (129, 2), (512, 2)])
def test_cells_are_legible(length, least):
    assert cell_pixels(length) >= least
    assert draw_map(random_maps(length, length), [length]).width >= length * least


def test_codes_cover_the_patterns():
    assert len(set(CODES.values())) == 5
