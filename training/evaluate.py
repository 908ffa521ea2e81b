"""Measures a bundle through the serving path: the exported net, the declared segments, the tool's answer.

    python -m training.evaluate                              # the bundled model on the test split
    python -m training.evaluate --folder OTHER --by model    # on labelled maps from elsewhere: maps.npz and labels.csv

``labels.csv`` from elsewhere needs the columns map_id (or id) and pattern (or label), and may have segments (or text:
"single" or "pair") and whatever column ``--by`` names.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich import print as show
from sklearn.metrics import accuracy_score, classification_report, cohen_kappa_score, confusion_matrix, f1_score

from classifier.bundle import ModelBundle
from classifier.pattern_classifier import PatternClassifier
from classifier.patterns import PATTERN_NAMES
from training.dataset import DATA, LabelledMaps, read_dataset, segment_lengths

NAMES = PATTERN_NAMES.tolist()


def answers(bundle: ModelBundle, data: LabelledMaps) -> list[str]:
    """The tool's pattern for each map, its segments declared where they are known."""
    segments = [segment_lengths(cell) if cell else None for cell in data.table["segments"]]
    predictions = PatternClassifier(bundle).classify_maps(data.maps, segments=segments)
    return [str(prediction.pattern) for prediction in predictions]


def macro_f1(truth: pd.Series, answer: list[str]) -> float:
    """Mean F1 of the classes that occur in the truth."""
    present = [name for name in NAMES if name in set(truth)]
    return float(f1_score(truth, answer, labels=present, average="macro", zero_division=0))


def split_figures(bundle: ModelBundle, data: LabelledMaps, split: str) -> dict[str, float]:
    """Figures of one split, each named split_figure, rounded to four decimals."""
    part = data.part(split)
    answer = answers(bundle, part)
    report = classification_report(part.table["pattern"], answer, labels=NAMES, output_dict=True, zero_division=0)
    certain = part.table["second"] == ""
    figures = {
        "maps": len(answer),
        "macro_f1": macro_f1(part.table["pattern"], answer),
        "accuracy": accuracy_score(part.table["pattern"], answer),
        "accuracy_certain": accuracy_score(part.table["pattern"][certain], np.array(answer)[certain]),
    }
    for name in NAMES:
        for figure in ("precision", "recall", "f1-score", "support"):
            figures[f"{figure}_{name}"] = report[name][figure]
    return {f"{split}_{name}": round(float(value), 4) for name, value in figures.items()}


def annotator_figures(data: LabelledMaps) -> dict[str, float]:
    """How well the two annotators agree: over all maps, and on the test split, where it bounds what a net can reach."""
    table, test = data.table, data.part("test").table
    figures = {
        "labelled_maps": len(table),
        "annotators_kappa": cohen_kappa_score(table["annotator_a"], table["annotator_b"]),
        "annotators_macro_f1": macro_f1(table["annotator_a"], list(table["annotator_b"])),
        "annotators_test_macro_f1": macro_f1(test["annotator_a"], list(test["annotator_b"])),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def read_elsewhere(folder: Path) -> LabelledMaps:
    """Labelled maps of another folder, brought to the columns used here."""
    table = pd.read_csv(folder / "labels.csv", keep_default_na=False)
    table = table.rename(columns={"id": "map_id", "label": "pattern"})
    with np.load(folder / "maps.npz", allow_pickle=False) as archive:
        maps = tuple(archive[map_id] for map_id in table["map_id"])
    if "segments" not in table:
        single = table["text"] == "single" if "text" in table else np.zeros(len(table), bool)
        table["segments"] = [str(len(m)) if one else "" for m, one in zip(maps, single, strict=True)]
    return LabelledMaps(maps, table)


def main(
    bundle: Annotated[Path | None, typer.Option(help="a model bundle; the bundled one by default")] = None,
    folder: Annotated[Path | None, typer.Option(help="labelled maps from elsewhere")] = None,
    split: Annotated[str, typer.Option(help="the split of this data set")] = "test",
    by: Annotated[str | None, typer.Option(help="a column to give figures by")] = None,
) -> None:
    """Prints macro-F1, accuracy, per-class figures and the confusion matrix."""
    data = read_dataset(DATA).part(split) if folder is None else read_elsewhere(folder)
    truth = data.table["pattern"]
    answer = pd.Series(answers(ModelBundle.read(bundle), data))
    show(f"{len(answer)} maps, macro-F1 {macro_f1(truth, list(answer)):.3f}, accuracy {(truth == answer).mean():.3f}")
    show(classification_report(truth, answer, labels=NAMES, zero_division=0, digits=3))
    show(pd.DataFrame(confusion_matrix(truth, answer, labels=NAMES), index=NAMES, columns=NAMES))
    for value, rows in data.table.groupby(by) if by else ():
        figure = macro_f1(truth[rows.index], list(answer[rows.index]))
        accuracy = (truth[rows.index] == answer[rows.index]).mean()
        show(f"{value}: {len(rows)} maps, macro-F1 {figure:.3f}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    typer.run(main)
