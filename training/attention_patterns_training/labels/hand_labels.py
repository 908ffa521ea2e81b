"""Labels by hand: draws contact sheets, collects the answers of two blind annotators and of the third look.

    python -m attention_patterns_training.labels.hand_labels sheets SHEETS --annotator a     # sheet images, and key.csv saying what is where
    python -m attention_patterns_training.labels.hand_labels collect SHEETS --annotator a    # SHEETS/answers.csv into labels.csv
    python -m attention_patterns_training.labels.hand_labels sheets THIRD --annotator third  # only the maps on which a and b differ
    python -m attention_patterns_training.labels.hand_labels collect THIRD --annotator third
    python -m attention_patterns_training.labels.hand_labels agreement                       # Cohen's kappa, and F1 of one against the other
    python -m attention_patterns_training.labels.hand_labels calibration ../shared/calibration

``answers.csv`` has the columns sheet, position, pattern, second, with the codes V, D, VD, B, H; second may be empty.
``collect`` also takes the answers-a.csv that ``training.annotate`` writes. The order of the maps on the sheets is drawn
anew for every annotator. A sheet tells nothing of a map but its length, its segments, whether it is causal, and in a
small square the faintest grey that counts as visible, 2.5 / L.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich import print as show
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns_training.labels.dataset import (
    CODES,
    DATA,
    Annotator,
    disputed,
    read_dataset,
    read_labels,
    write_labels,
)
from attention_patterns_training.labels.sheets import draw_sheets

NAMES = PATTERN_NAMES.tolist()
CALIBRATION = DATA / "calibration_answers.csv"
app = typer.Typer(help=__doc__, no_args_is_help=True)


def answers_of_sheets(folder: Path) -> pd.DataFrame:
    """The answers of a folder of sheets, map_id -> pattern, second; every map of the key answered exactly once."""
    key = pd.read_csv(folder / "key.csv", dtype={"map_id": str})
    answers = pd.read_csv(folder / "answers.csv", keep_default_na=False)
    merged = key.merge(answers, on=["sheet", "position"], how="outer", indicator=True, validate="one_to_one")
    for side, complaint in (("left_only", "no answer"), ("right_only", "an answer, but no map")):
        for row in merged[merged["_merge"] == side].itertuples():
            raise typer.BadParameter(f"{folder}: sheet {row.sheet}, position {row.position}: {complaint}")
    for row in merged.itertuples():
        if row.pattern not in CODES or row.second not in {"", *CODES}:
            raise typer.BadParameter(
                f"{folder}: sheet {row.sheet}, position {row.position}: {row.pattern!r}, {row.second!r}, "
                f"expected {', '.join(CODES)}, the second choice or nothing"
            )
    merged = merged.assign(pattern=merged["pattern"].map(CODES), second=merged["second"].map({"": ""} | CODES))
    return merged.set_index("map_id")[["pattern", "second"]]


def answers_of_page(path: Path) -> pd.DataFrame:
    """The answers that ``training.annotate`` wrote, map_id -> pattern, second: the last one of each map."""
    answers = pd.read_csv(path, keep_default_na=False, dtype=str).drop_duplicates("map_id", keep="last")
    return answers[answers["pattern"] != ""].set_index("map_id")[["pattern", "second"]]


@app.command()
def sheets(
    sheet_folder: Annotated[Path, typer.Argument(help="where the sheets are written")],
    *,
    annotator: Annotated[Annotator, typer.Option(help="for whom")],
    folder: Annotated[Path, typer.Option(help="the data set")] = DATA,
) -> None:
    """Draws contact sheets of the maps that this annotator has not answered; for the third look, of those disputed."""
    data = read_dataset(folder)
    third = annotator is Annotator.THIRD
    unanswered = data.table["pattern" if third else f"annotator_{annotator}"] == ""
    rows = np.flatnonzero(unanswered & disputed(data.table) if third else unanswered)
    if not len(rows):
        raise typer.BadParameter(f"{folder}: annotator {annotator} has no map left to answer")
    order = np.random.default_rng(list(annotator.encode())).permutation(rows)
    key = draw_sheets(data, order.tolist(), sheet_folder)
    show(f"{len(key)} maps on {key['sheet'].max()} sheets in {sheet_folder}")


@app.command()
def collect(
    answers: Annotated[
        Path, typer.Argument(help="a folder with key.csv and answers.csv, or an annotation page's file")
    ],
    *,
    annotator: Annotated[Annotator, typer.Option(help="whose answers")],
    folder: Annotated[Path, typer.Option(help="the data set")] = DATA,
    alone: Annotated[
        bool, typer.Option("--alone", help="there is no second annotator: the answer is the label")
    ] = False,
) -> None:
    """Writes answers into labels.csv; a map gets its pattern when both agree, or from the third look."""
    given = answers_of_sheets(answers) if answers.is_dir() else answers_of_page(answers)
    table = read_labels(folder).set_index("map_id", drop=False)
    for map_id in given.index.difference(table.index)[:1]:
        raise typer.BadParameter(f"{answers}: map {map_id!r} is not in {folder / 'labels.csv'}")
    if annotator is not Annotator.THIRD:
        table.loc[given.index, [f"annotator_{annotator}", f"annotator_{annotator}_second"]] = given.to_numpy()
    if alone or annotator is Annotator.THIRD:
        table.loc[given.index, ["pattern", "second"]] = given
    agreed = (table["annotator_a"] != "") & (table["annotator_a"] == table["annotator_b"])
    seconds = table["annotator_a_second"].where(table["annotator_a_second"] != "", table["annotator_b_second"])
    table.loc[agreed, "pattern"] = table.loc[agreed, "annotator_a"]
    table.loc[agreed, "second"] = seconds[agreed]
    write_labels(table, folder)
    show(f"{len(given)} answers collected; {(table['pattern'] == '').sum()} maps have no label yet")


def _kappa(a: "pd.Series[str]", b: "pd.Series[str]") -> float:
    """Cohen's kappa; 1 where both gave one and the same class throughout."""
    return float(cohen_kappa_score(a, b)) if a.nunique() > 1 or b.nunique() > 1 else 1.0


@app.command()
def agreement(folder: Annotated[Path, typer.Option(help="the data set")] = DATA) -> None:
    """Prints how well the two annotators agree: over all, for each class against the rest, and for each source."""
    table = read_labels(folder)
    table = table[(table["annotator_a"] != "") & (table["annotator_b"] != "")]
    a, b = table["annotator_a"], table["annotator_b"]
    sure = (table["annotator_a_second"] == "") & (table["annotator_b_second"] == "")
    show(f"{len(table)} maps, {int(disputed(table).sum())} disputed")
    show(f"Cohen's kappa {_kappa(a, b):.3f}")
    if sure.any():
        show(f"Cohen's kappa {_kappa(a[sure], b[sure]):.3f} on the {sure.sum()} maps without a second choice")
    show(f"macro-F1 of one against the other {f1_score(a, b, labels=NAMES, average='macro', zero_division=0):.3f}")
    show(pd.DataFrame(confusion_matrix(a, b, labels=NAMES), index=NAMES, columns=NAMES))
    for name in NAMES:
        show(f"{name} against the rest: kappa {_kappa(a == name, b == name):.3f}")
    for source, rows in table.groupby("source"):
        show(f"{source}: {len(rows)} maps, kappa {_kappa(rows['annotator_a'], rows['annotator_b']):.3f}")


@app.command()
def calibration(
    house: Annotated[Path, typer.Argument(help="a folder with labels.csv: id, label, second")],
    answers: Annotated[Path, typer.Option(help="columns annotator, round, id, pattern, second")] = CALIBRATION,
) -> None:
    """Prints how well each annotator agreed with maps labelled elsewhere, before labelling any of this data set."""
    labels = pd.read_csv(house / "labels.csv", keep_default_na=False).set_index("id")
    given = pd.read_csv(answers, keep_default_na=False)
    given["house"] = labels.loc[given["id"], "label"].to_numpy()
    for (annotator, number), rows in given.groupby(["annotator", "round"]):
        kappa = _kappa(rows["pattern"], rows["house"])
        show(f"annotator {annotator}, round {number}: {len(rows)} maps, kappa {kappa:.3f}")
    last = given[given["round"] == given.groupby("annotator")["round"].transform("max")]
    for title, rows in (("all rounds", given), ("last rounds", last)):
        f1 = f1_score(rows["house"], rows["pattern"], labels=NAMES, average="macro", zero_division=0)
        show(f"{title}: {len(rows)} answers, kappa {_kappa(rows['pattern'], rows['house']):.3f}, macro-F1 {f1:.3f}")


if __name__ == "__main__":
    app()
