"""Measures a bundle through the serving path: the exported net, the declared segments, the tool's answer.

    python -m attention_patterns_training.evaluation.evaluate                                   # the bundled model on the test split
    python -m attention_patterns_training.evaluation.evaluate --split held-out                  # on the source kind that no training map comes from
    python -m attention_patterns_training.evaluation.evaluate --folder OTHER --by model --keep  # on labelled maps from elsewhere, for the card

``labels.csv`` from elsewhere needs the columns map_id (or id) and pattern (or label), and may have segments (or text:
"single" or "pair"), the annotators' answers, and whatever column ``--by`` names.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich import print as show
from sklearn.metrics import accuracy_score, classification_report, cohen_kappa_score, confusion_matrix, f1_score
from sklearn.utils import resample

from attention_patterns.bundle import ModelBundle
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns_training.evaluation.results import write_section
from attention_patterns_training.labels.dataset import DATA, LabelledMaps, read_dataset, segment_lengths

NAMES = PATTERN_NAMES.tolist()
BINS = 10  # of the expected calibration error, equally wide
RESAMPLES = 1000  # of the bootstrap
LENGTHS = (8, 16, 32, 64, 128, 513)  # tokens, bounds of the bands that figures are given by


@dataclass(frozen=True)
class Answers:
    """The tool's answers for the rows of a table.

    Attributes:
        patterns: the answer, strings [maps].
        confidence: its probability, float64 [maps].
    """

    patterns: NDArray[np.str_]
    confidence: NDArray[np.float64]


def answers(bundle: ModelBundle, data: LabelledMaps) -> Answers:
    """The tool's answer for each map, its segments declared where they are known."""
    segments = [segment_lengths(cell) if cell else None for cell in data.table["segments"]]
    predictions = PatternClassifier(bundle).classify_maps(data.maps, segments=segments)
    patterns = np.array([str(one.pattern) for one in predictions])
    confidence = [float(one.probabilities[NAMES.index(one.pattern)]) for one in predictions]
    return Answers(patterns, np.array(confidence))


def macro_f1(truth: "pd.Series[str] | NDArray[np.str_]", answer: "pd.Series[str] | NDArray[np.str_]") -> float:
    """Mean F1 of the classes that occur in the truth."""
    return float(f1_score(truth, answer, labels=sorted(set(truth)), average="macro", zero_division=0))


def calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Expected calibration error: distance of confidence and accuracy in ten equal bins, weighted by their maps."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist())
    ]
    return float(np.sum(gaps))


def reliability(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> list[dict[str, float]]:
    """For each bin that holds maps: their number, mean confidence and accuracy."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "maps": int((bins == b).sum()),
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(right[bins == b].mean()),
        }
        for b in sorted(set(bins.tolist()))
    ]


def coverage_curve(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> list[dict[str, float]]:
    """Share of maps answered and accuracy among them, for thresholds of confidence."""
    curve = []
    for threshold in np.arange(0.2, 1.0, 0.02):
        kept = confidence >= threshold
        if kept.any():
            curve.append(
                {"threshold": float(threshold), "coverage": float(kept.mean()), "accuracy": float(right[kept].mean())}
            )
    return curve


def interval(truth: NDArray[np.str_], answer: NDArray[np.str_], figure: Any, resamples: int = RESAMPLES) -> list[float]:
    """95 % bootstrap interval of a figure of (truth, answer), resampling maps."""
    drawn = [figure(*resample(truth, answer, random_state=n)) for n in range(resamples)]
    return [float(v) for v in np.percentile(drawn, [2.5, 97.5])]


def annotators(table: pd.DataFrame) -> dict[str, float]:
    """How well the two annotators agree: what a net can hardly exceed."""
    a, b = table["annotator_a"], table["annotator_b"]
    both = (a != "") & (b != "")
    a, b = a[both], b[both]
    return {"kappa": float(cohen_kappa_score(a, b)), "macro_f1": macro_f1(a, b), "accuracy": float((a == b).mean())}


def certain(table: pd.DataFrame) -> "pd.Series[bool]":
    """Where both annotators agreed and neither gave a second choice."""
    return (
        (table["annotator_a"] == table["annotator_b"])
        & (table["annotator_a_second"] == "")
        & (table["annotator_b_second"] == "")
    )


def figures(
    data: LabelledMaps, given: Answers, *, uncertain_below: float, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """All figures of one set of maps."""
    table = data.table
    truth = table["pattern"].to_numpy(str)
    right = truth == given.patterns
    report = classification_report(truth, given.patterns, labels=NAMES, output_dict=True, zero_division=0)
    answered = given.confidence >= uncertain_below
    found: dict[str, Any] = {
        "maps": len(truth),
        "macro_f1": macro_f1(truth, given.patterns),
        "macro_f1_interval": interval(truth, given.patterns, macro_f1, resamples),
        "accuracy": float(right.mean()),
        "accuracy_interval": interval(truth, given.patterns, accuracy_score, resamples),
        "calibration_error": calibration_error(right, given.confidence),
        "coverage": float(answered.mean()),
        "accuracy_answered": float(right[answered].mean()),
        "classes": {name: report[name] for name in NAMES},
        "confusion": confusion_matrix(truth, given.patterns, labels=NAMES).tolist(),
        "reliability": reliability(right, given.confidence),
        "coverage_curve": coverage_curve(right, given.confidence),
    }
    for name in NAMES:
        found["classes"][name]["f1_interval"] = interval(
            truth == name, given.patterns == name, lambda t, a: f1_score(t, a, zero_division=0), resamples
        )
    if "annotator_a_second" in table and (table["annotator_b"] != "").any():
        sure = certain(table).to_numpy()
        found |= {
            "annotators": annotators(table),
            "certain_maps": int(sure.sum()),
            "accuracy_certain": float(right[sure].mean()),
        }
    return found


def headline(split: str, found: dict[str, Any]) -> dict[str, float]:
    """The figures of a split that a bundle carries, each named split_figure."""
    names = ("maps", "macro_f1", "accuracy", "calibration_error", "coverage", "accuracy_answered")
    return {f"{split.replace('-', '_')}_{name}": round(float(found[name]), 4) for name in names}


def breakdown(data: LabelledMaps, given: Answers, column: "pd.Series[Any]") -> dict[str, dict[str, float]]:
    """Maps, macro-F1 and accuracy for each value of a column."""
    truth = data.table["pattern"].to_numpy(str)
    parts = {str(value): np.flatnonzero(column.to_numpy() == value) for value in sorted(set(column))}
    return {
        value: {
            "maps": len(rows),
            "macro_f1": macro_f1(truth[rows], given.patterns[rows]),
            "accuracy": float((truth[rows] == given.patterns[rows]).mean()),
        }
        for value, rows in parts.items()
    }


def length_bands(data: LabelledMaps) -> "pd.Series[Any]":
    """For each map "8 to 15" and so on."""
    lengths = pd.Series([len(one) for one in data.maps])
    names = [f"{low:03} to {high - 1:03}" for low, high in pairwise(LENGTHS)]
    return pd.cut(lengths, LENGTHS, right=False, labels=names).astype(str)


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
    split: Annotated[str, typer.Option(help="the split of this data set: train, validation, test, held-out")] = "test",
    by: Annotated[str | None, typer.Option(help="a column to give figures by")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep figures from elsewhere for the card")] = False,
) -> None:
    """Prints macro-F1, accuracy, per-class figures, calibration and the confusion matrix."""
    data = read_dataset(DATA).part(split) if folder is None else read_elsewhere(folder)
    model = ModelBundle.read(bundle)
    given = answers(model, data)
    found = figures(data, given, uncertain_below=model.uncertain_below)
    truth = data.table["pattern"]
    show(f"{found['maps']} maps, macro-F1 {found['macro_f1']:.3f}, accuracy {found['accuracy']:.3f}")
    show(f"expected calibration error {found['calibration_error']:.3f}")
    show(f"{found['coverage']:.1%} answered at accuracy {found['accuracy_answered']:.3f}")
    if "annotators" in found:
        a, b = found["annotators"]["macro_f1"], found["annotators"]["kappa"]
        show(f"annotators against each other: macro-F1 {a:.3f}, kappa {b:.3f}")
        sure, maps = found["accuracy_certain"], found["certain_maps"]
        show(f"accuracy {sure:.3f} on {maps} maps where they agreed without a second choice")
    show(classification_report(truth, given.patterns, labels=NAMES, zero_division=0, digits=3))
    show(pd.DataFrame(found["confusion"], index=NAMES, columns=NAMES))
    parts = {"length": breakdown(data, given, length_bands(data))} | (
        {by: breakdown(data, given, data.table[by])} if by else {}
    )
    for column in parts.values():
        for value, row in column.items():
            show(f"{value}: {row['maps']} maps, macro-F1 {row['macro_f1']:.3f}, accuracy {row['accuracy']:.3f}")
    if keep and folder is not None:
        write_section("elsewhere", found | {"by": parts, "model": model.version})  # into the card by training.card


if __name__ == "__main__":
    typer.run(main)
