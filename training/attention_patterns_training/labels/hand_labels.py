"""Labels by hand: contact sheets, the answers of two blind annotators and of the third look, and their agreement.

The commands in turn, for a and b and then for the third look at the maps on which they differ:

    python -m attention_patterns_training sheets SHEETS --annotator a     # sheets, and key.csv: which map stands where
    python -m attention_patterns_training collect SHEETS --annotator a    # SHEETS/answers.csv into labels.csv
    python -m attention_patterns_training sheets THIRD --annotator third
    python -m attention_patterns_training collect THIRD --annotator third
    python -m attention_patterns_training agreement

``answers.csv`` has the columns sheet, position, pattern, second, with the codes V, D, VD, B, H; second may be empty.
``collect`` also takes the file of the annotation page. Each annotator gets the maps in another order. A sheet shows
nothing of a map but its length, its segments, whether it is causal, and in a small square the faintest grey that counts
as visible, 2.5 / L.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import typer
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.programs.terminal import show
from attention_patterns_training.labels.annotators import Annotator, is_disputed, is_waiting
from attention_patterns_training.labels.dataset import CODES, DATA, read_dataset, read_labels, write_labels
from attention_patterns_training.labels.sheets import draw_sheets

NAMES = PATTERN_NAMES.tolist()
CALIBRATION = DATA / "calibration_answers.csv"


def read_sheet_answers(folder: Path) -> pd.DataFrame:
    """Reads the answers of a folder of sheets: map_id -> pattern, second.

    Raises:
        typer.BadParameter: A map of the key has no answer, an answer no map, or a code is unknown.
    """
    key = pd.read_csv(folder / "key.csv", dtype={"map_id": str})
    answers = pd.read_csv(folder / "answers.csv", keep_default_na=False)
    merged = key.merge(answers, on=["sheet", "position"], how="outer", indicator=True, validate="one_to_one")
    for side, fault in (("left_only", "no answer"), ("right_only", "an answer, but no map")):
        for row in merged[merged["_merge"] == side].itertuples():
            raise typer.BadParameter(f"{folder}: sheet {row.sheet}, position {row.position}: {fault}")
    for row in merged.itertuples():
        if row.pattern not in CODES or row.second not in {"", *CODES}:
            raise typer.BadParameter(
                f"{folder}: sheet {row.sheet}, position {row.position}: {row.pattern!r}, {row.second!r}, "
                f"expected one of {', '.join(CODES)}, and another or nothing"
            )
    merged = merged.assign(pattern=merged["pattern"].map(CODES), second=merged["second"].map({"": ""} | CODES))
    return merged.set_index("map_id")[["pattern", "second"]]


def read_page_answers(path: Path) -> pd.DataFrame:
    """Reads the file of the annotation page, map_id -> pattern, second: the last answer for each map."""
    answers = pd.read_csv(path, keep_default_na=False, dtype=str).drop_duplicates("map_id", keep="last")
    return answers[answers["pattern"] != ""].set_index("map_id")[["pattern", "second"]]


def make_sheets(sheet_folder: Path, *, annotator: Annotator, folder: Path) -> None:
    """Draws contact sheets of the maps in the data set ``folder`` that wait for an answer of the annotator."""
    data = read_dataset(folder)
    rows = np.flatnonzero(is_waiting(data.table, annotator))
    if not len(rows):
        raise typer.BadParameter(f"{folder} holds no map that waits for an answer of annotator {annotator}")
    order = np.random.default_rng(list(annotator.encode())).permutation(rows)
    key = draw_sheets(data, order.tolist(), sheet_folder)
    show(f"{len(key)} maps on {key['sheet'].max()} sheets in {sheet_folder}")


def collect(answers: Path, *, annotator: Annotator, folder: Path, alone: bool = False) -> None:
    """Writes answers into ``labels.csv``; a map gets its pattern when a and b agree, or from the third look.

    Args:
        answers: Folder of sheets with key.csv and answers.csv, or the file of the annotation page.
        annotator: Whose answers they are.
        folder: Folder of the data set.
        alone: Whether there is no second annotator, so that the answer is the label.
    """
    new = read_sheet_answers(answers) if answers.is_dir() else read_page_answers(answers)
    table = read_labels(folder).set_index("map_id", drop=False)
    for map_id in new.index.difference(table.index)[:1]:
        raise typer.BadParameter(f"{answers}: map {map_id!r} is not in {folder / 'labels.csv'}")
    if annotator is not Annotator.THIRD:
        table.loc[new.index, [f"annotator_{annotator}", f"annotator_{annotator}_second"]] = new.to_numpy()
    if alone or annotator is Annotator.THIRD:
        table.loc[new.index, ["pattern", "second"]] = new
    agreed = (table["annotator_a"] != "") & (table["annotator_a"] == table["annotator_b"])
    seconds = table["annotator_a_second"].where(table["annotator_a_second"] != "", table["annotator_b_second"])
    table.loc[agreed, "pattern"] = table.loc[agreed, "annotator_a"]
    table.loc[agreed, "second"] = seconds[agreed]
    write_labels(table, folder)
    show(f"{len(new)} answers collected; {(table['pattern'] == '').sum()} maps have no label yet")


def _kappa(a: "pd.Series[str]", b: "pd.Series[str]") -> float:
    """Returns Cohen's kappa; 1 where both gave one and the same class throughout."""
    return float(cohen_kappa_score(a, b)) if a.nunique() > 1 or b.nunique() > 1 else 1.0


def print_agreement(folder: Path) -> None:
    """Prints the agreement of the two annotators: over all, for each class against the rest, and for each source."""
    table = read_labels(folder)
    table = table[(table["annotator_a"] != "") & (table["annotator_b"] != "")]
    a, b = table["annotator_a"], table["annotator_b"]
    sure = (table["annotator_a_second"] == "") & (table["annotator_b_second"] == "")
    show(f"{len(table)} maps, {int(is_disputed(table).sum())} disputed")
    show(f"Cohen's kappa {_kappa(a, b):.3f}")
    if sure.any():
        show(f"Cohen's kappa {_kappa(a[sure], b[sure]):.3f} on the {sure.sum()} maps without a second choice")
    show(f"macro-F1 of one against the other {f1_score(a, b, labels=NAMES, average='macro', zero_division=0):.3f}")
    show(pd.DataFrame(confusion_matrix(a, b, labels=NAMES), index=NAMES, columns=NAMES))
    for name in NAMES:
        show(f"{name} against the rest: kappa {_kappa(a == name, b == name):.3f}")
    for source, rows in table.groupby("source"):
        show(f"{source}: {len(rows)} maps, kappa {_kappa(rows['annotator_a'], rows['annotator_b']):.3f}")


def print_calibration(house: Path, *, answers: Path = CALIBRATION) -> None:
    """Prints each annotator's agreement with maps labelled elsewhere, before labelling any of this data set.

    Args:
        house: Folder with those labels, labels.csv: id, label, second.
        answers: Answers of the annotators: annotator, round, id, pattern, second.
    """
    labels = pd.read_csv(house / "labels.csv", keep_default_na=False).set_index("id")
    table = pd.read_csv(answers, keep_default_na=False)
    table["house"] = labels.loc[table["id"], "label"].to_numpy()
    for (annotator, number), rows in table.groupby(["annotator", "round"]):
        kappa = _kappa(rows["pattern"], rows["house"])
        show(f"annotator {annotator}, round {number}: {len(rows)} maps, kappa {kappa:.3f}")
    last = table[table["round"] == table.groupby("annotator")["round"].transform("max")]
    for title, rows in (("all rounds", table), ("last rounds", last)):
        f1 = f1_score(rows["house"], rows["pattern"], labels=NAMES, average="macro", zero_division=0)
        show(f"{title}: {len(rows)} answers, kappa {_kappa(rows['pattern'], rows['house']):.3f}, macro-F1 {f1:.3f}")
