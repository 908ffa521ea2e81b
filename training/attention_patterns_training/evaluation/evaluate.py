"""Figures of a bundle through the serving path: the exported net, the declared segments, the tool's answer.

    python -m attention_patterns_training evaluate                                   # the bundled model, test split
    python -m attention_patterns_training evaluate --split held-out                  # the source kept out of training
    python -m attention_patterns_training evaluate --folder OTHER --by model --keep  # maps from elsewhere, for the card

``labels.csv`` from elsewhere needs the columns map_id (or id) and pattern (or label), and may have segments (or text:
"single" or "pair"), the annotators' answers, and the column that ``--by`` names.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, classification_report, cohen_kappa_score, confusion_matrix, f1_score
from sklearn.utils import resample

from attention_patterns.bundle import ModelBundle
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.programs.terminal import show
from attention_patterns_training.evaluation.results import write_section
from attention_patterns_training.labels.annotators import is_certain
from attention_patterns_training.labels.dataset import LabelledMaps, read_dataset, segment_lengths

NAMES = PATTERN_NAMES.tolist()
BINS = 10  # of the expected calibration error, equally wide
RESAMPLES = 1000  # of the bootstrap
LENGTHS = (8, 16, 32, 64, 128, 513)  # tokens, bounds of the bands that figures are given by


@dataclass(frozen=True)
class Answers:
    """The tool's answers to the maps of a table.

    Attributes:
        patterns: Answer to each map, strings [maps].
        confidence: Probability of each answer, float64 [maps].
    """

    patterns: NDArray[np.str_]
    confidence: NDArray[np.float64]


def answer_maps(bundle: ModelBundle, data: LabelledMaps) -> Answers:
    """Returns the tool's answer to each map, its segments declared where they are known."""
    segments = [segment_lengths(cell) if cell else None for cell in data.table["segments"]]
    predictions = PatternClassifier(bundle).classify_maps(data.maps, segments=segments)
    patterns = np.array([str(prediction.pattern) for prediction in predictions])
    confidence = [float(prediction.probabilities[NAMES.index(prediction.pattern)]) for prediction in predictions]
    return Answers(patterns, np.array(confidence))


def macro_f1(truth: "pd.Series[str] | NDArray[np.str_]", answers: "pd.Series[str] | NDArray[np.str_]") -> float:
    """Returns the mean F1 of the classes that occur in the truth."""
    return float(f1_score(truth, answers, labels=sorted(set(truth)), average="macro", zero_division=0))


def _bins(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(np.minimum((confidence * BINS).astype(int), BINS - 1))


def calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Returns the expected calibration error.

    It is the distance of confidence and accuracy in each of ten equal bins, weighted by the maps in it.
    """
    bins = _bins(confidence)
    gaps = [
        abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist())
    ]
    return float(np.sum(gaps))


def reliability(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> list[dict[str, float]]:
    """Returns the number of maps, mean confidence and accuracy of each bin that holds maps."""
    bins = _bins(confidence)
    return [
        {
            "maps": int((bins == b).sum()),
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(right[bins == b].mean()),
        }
        for b in sorted(set(bins.tolist()))
    ]


def coverage_curve(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> list[dict[str, float]]:
    """Returns the share of maps answered and the accuracy among them, for thresholds of confidence."""
    curve = []
    for threshold in np.arange(0.2, 1.0, 0.02):
        kept = confidence >= threshold
        if kept.any():
            curve.append(
                {"threshold": float(threshold), "coverage": float(kept.mean()), "accuracy": float(right[kept].mean())}
            )
    return curve


def interval(truth: NDArray[Any], answers: NDArray[Any], figure: Any, resamples: int = RESAMPLES) -> list[float]:
    """Returns the 95 % bootstrap interval of a figure, a function of truth and answers, by resampling maps."""
    figures = [figure(*resample(truth, answers, random_state=n)) for n in range(resamples)]
    return [float(bound) for bound in np.percentile(figures, [2.5, 97.5])]


def annotator_agreement(table: pd.DataFrame) -> dict[str, float]:
    """Returns the agreement of the two annotators, which a net can hardly exceed: kappa, macro-F1 and accuracy."""
    a, b = table["annotator_a"], table["annotator_b"]
    both = (a != "") & (b != "")
    a, b = a[both], b[both]
    return {"kappa": float(cohen_kappa_score(a, b)), "macro_f1": macro_f1(a, b), "accuracy": float((a == b).mean())}


def compute_figures(
    data: LabelledMaps, answers: Answers, *, uncertain_below: float, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Returns all figures of one set of maps, as they stand in results.json."""
    table = data.table
    truth = table["pattern"].to_numpy(str)
    right = truth == answers.patterns
    report = classification_report(truth, answers.patterns, labels=NAMES, output_dict=True, zero_division=0)
    answered = answers.confidence >= uncertain_below
    figures: dict[str, Any] = {
        "maps": len(truth),
        "macro_f1": macro_f1(truth, answers.patterns),
        "macro_f1_interval": interval(truth, answers.patterns, macro_f1, resamples),
        "accuracy": float(right.mean()),
        "accuracy_interval": interval(truth, answers.patterns, accuracy_score, resamples),
        "calibration_error": calibration_error(right, answers.confidence),
        "coverage": float(answered.mean()),
        "accuracy_answered": float(right[answered].mean()),
        "classes": {name: report[name] for name in NAMES},
        "confusion": confusion_matrix(truth, answers.patterns, labels=NAMES).tolist(),
        "reliability": reliability(right, answers.confidence),
        "coverage_curve": coverage_curve(right, answers.confidence),
    }
    for name in NAMES:
        figures["classes"][name]["f1_interval"] = interval(
            truth == name, answers.patterns == name, lambda t, a: f1_score(t, a, zero_division=0), resamples
        )
    if "annotator_a_second" in table and (table["annotator_b"] != "").any():
        sure = is_certain(table).to_numpy()
        figures |= {
            "annotators": annotator_agreement(table),
            "certain_maps": int(sure.sum()),
            "accuracy_certain": float(right[sure].mean()),
        }
    return figures


def headline_figures(split: str, figures: dict[str, Any]) -> dict[str, float]:
    """Returns the figures of a split that a bundle carries, each under the name split_figure."""
    names = ("maps", "macro_f1", "accuracy", "calibration_error", "coverage", "accuracy_answered")
    return {f"{split.replace('-', '_')}_{name}": round(float(figures[name]), 4) for name in names}


def breakdown(data: LabelledMaps, answers: Answers, column: "pd.Series[Any]") -> dict[str, dict[str, float]]:
    """Returns the number of maps, macro-F1 and accuracy for each value of a column."""
    truth = data.table["pattern"].to_numpy(str)
    rows_of = {str(value): np.flatnonzero(column.to_numpy() == value) for value in sorted(set(column))}
    return {
        value: {
            "maps": len(rows),
            "macro_f1": macro_f1(truth[rows], answers.patterns[rows]),
            "accuracy": float((truth[rows] == answers.patterns[rows]).mean()),
        }
        for value, rows in rows_of.items()
    }


def length_bands(data: LabelledMaps) -> "pd.Series[Any]":
    """Returns the band of each map's length, "008 to 015" and so on."""
    lengths = pd.Series([len(attention) for attention in data.maps])
    names = [f"{low:03} to {high - 1:03}" for low, high in pairwise(LENGTHS)]
    return pd.cut(lengths, LENGTHS, right=False, labels=names).astype(str)


def read_elsewhere(folder: Path) -> LabelledMaps:
    """Reads labelled maps of another folder, brought to the columns used here."""
    table = pd.read_csv(folder / "labels.csv", keep_default_na=False)
    table = table.rename(columns={"id": "map_id", "label": "pattern"})
    with np.load(folder / "maps.npz", allow_pickle=False) as archive:
        maps = tuple(archive[map_id] for map_id in table["map_id"])
    if "segments" not in table:
        single = table["text"] == "single" if "text" in table else np.zeros(len(table), bool)
        pairs = zip(maps, single, strict=True)
        table["segments"] = [str(len(attention)) if is_single else "" for attention, is_single in pairs]
    return LabelledMaps(maps, table)


def evaluate(
    *,
    bundle: Path | None = None,
    folder: Path | None = None,
    split: str = "test",
    by: str | None = None,
    keep: bool = False,
) -> None:
    """Prints macro-F1, accuracy, figures per class, calibration and the confusion matrix.

    Args:
        bundle: Folder of a model bundle; the bundled model by default.
        folder: Folder of labelled maps from elsewhere; the shipped data set by default.
        split: Split of the shipped data set.
        by: Column whose values get figures of their own.
        keep: Whether the figures of ``folder`` are kept for the model card.
    """
    data = read_dataset().split(split) if folder is None else read_elsewhere(folder)
    model = ModelBundle.read(bundle)
    answers = answer_maps(model, data)
    figures = compute_figures(data, answers, uncertain_below=model.uncertain_below)
    breakdowns = {"length": breakdown(data, answers, length_bands(data))}
    if by:
        breakdowns[by] = breakdown(data, answers, data.table[by])
    _print(figures, breakdowns, data, answers)
    if keep and folder is not None:
        write_section("elsewhere", figures | {"by": breakdowns, "model": model.version})


def _print(figures: dict[str, Any], breakdowns: dict[str, Any], data: LabelledMaps, answers: Answers) -> None:
    show(f"{figures['maps']} maps, macro-F1 {figures['macro_f1']:.3f}, accuracy {figures['accuracy']:.3f}")
    show(f"expected calibration error {figures['calibration_error']:.3f}")
    show(f"{figures['coverage']:.1%} answered at accuracy {figures['accuracy_answered']:.3f}")
    if "annotators" in figures:
        f1, kappa = figures["annotators"]["macro_f1"], figures["annotators"]["kappa"]
        show(f"annotators against each other: macro-F1 {f1:.3f}, kappa {kappa:.3f}")
        sure, maps = figures["accuracy_certain"], figures["certain_maps"]
        show(f"accuracy {sure:.3f} on {maps} maps where they agreed without a second choice")
    truth = data.table["pattern"]
    show(classification_report(truth, answers.patterns, labels=NAMES, zero_division=0, digits=3))
    show(pd.DataFrame(figures["confusion"], index=NAMES, columns=NAMES))
    for rows in breakdowns.values():
        for value, row in rows.items():
            show(f"{value}: {row['maps']} maps, macro-F1 {row['macro_f1']:.3f}, accuracy {row['accuracy']:.3f}")
