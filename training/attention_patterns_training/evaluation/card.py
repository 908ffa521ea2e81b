"""The model card, ``MODEL_CARD.md``, written from the figures in results.json.

The commands train, ablate, speed, robustness, measure and evaluate --keep write a section of that file each. The
pictures beside the card are drawn by ``measure``, which has the maps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from attention_patterns.bundle import ModelBundle
from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.programs.whole_files import write_whole
from attention_patterns_training.evaluation.markdown import fill_template, markdown_table
from attention_patterns_training.evaluation.results import read_results
from attention_patterns_training.labels.dataset import read_labels

SPEED = (
    "shipped",
    "int8, dynamic",
    "int8, static",
    "one net, the paper read plainly, 64 x 64",
)  # the rows of its table


def _figure(value: float) -> str:
    return f"{value:.3f}"


def _interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def splits_table(sets: Mapping[str, Any]) -> str:
    """Returns the headline figures of every set of maps, the annotators' beside them."""
    head = [
        "maps of",
        "number",
        "macro-F1",
        "accuracy",
        "annotators' F1, accuracy",
        "accuracy where certain",
        "calibration error",
        "answered",
    ]
    rows = [
        [
            name,
            str(figures["maps"]),
            f"{_figure(figures['macro_f1'])} ({_interval(figures['macro_f1_interval'])})",
            f"{_figure(figures['accuracy'])} ({_interval(figures['accuracy_interval'])})",
            f"{_figure(figures['annotators']['macro_f1'])}, {_figure(figures['annotators']['accuracy'])}",
            f"{_figure(figures['accuracy_certain'])} of {figures['certain_maps']}",
            _figure(figures["calibration_error"]),
            f"{figures['coverage']:.1%} at {_figure(figures['accuracy_answered'])}",
        ]
        for name, figures in sets.items()
    ]
    return markdown_table(head, rows)


def classes_table(figures: Mapping[str, Any]) -> str:
    """Returns the precision, recall and F1 of each class that occurs."""
    rows = [
        [
            name,
            _figure(of_class["precision"]),
            _figure(of_class["recall"]),
            f"{_figure(of_class['f1-score'])} ({_interval(of_class['f1_interval'])})",
            f"{of_class['support']:.0f}",
        ]
        for name, of_class in figures["classes"].items()
        if of_class["support"]
    ]
    return markdown_table(["class", "precision", "recall", "F1", "maps"], rows)


def confusion_table(figures: Mapping[str, Any]) -> str:
    """Returns the confusion matrix: labels as rows, answers as columns."""
    names = PATTERN_NAMES.tolist()
    rows = [[name, *map(str, row)] for name, row in zip(names, figures["confusion"], strict=True)]
    return markdown_table(["label, answered as", *names], rows)


def breakdown_table(breakdown: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Returns the figures by the values of a column."""
    rows = [
        [value, str(figures["maps"]), _figure(figures["macro_f1"]), _figure(figures["accuracy"])]
        for value, figures in breakdown.items()
    ]
    return markdown_table([title, "maps", "macro-F1", "accuracy"], rows)


def ablation_table(ablation: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """Returns the validation figures of the alternatives, and their speed."""
    rows = []
    for name, figures in ablation.items():
        spread = f" (spread {_figure(figures['macro_f1_spread'])})" if figures["nets"] > 1 else ""
        ratio = f"{speed[name]['ratio']:.2f}" if name in speed else ""
        rows.append([name, _figure(figures["macro_f1"]) + spread, _figure(figures["accuracy"]), ratio])
    return markdown_table(["alternative", "macro-F1", "accuracy", "maps/s, plain reading = 1"], rows)


def speed_table(speed: Mapping[str, Any], names: Sequence[str]) -> str:
    """Returns the rates of the named nets and, where they were measured, their macro-F1 and size."""
    rows = [
        [
            name,
            f"{speed[name]['maps_per_second']:,.0f}",
            f"{speed[name]['ratio']:.2f}",
            _figure(speed[name]["macro_f1"]) if "macro_f1" in speed[name] else "",
            f"{speed[name]['bytes'] / 1e6:.2f} MB" if "bytes" in speed[name] else "",
        ]
        for name in names
    ]
    return markdown_table(["net", "maps/s", "plain reading = 1", "validation macro-F1", "size"], rows)


def strangers_table(strangers: Mapping[str, Any]) -> str:
    """Returns the answers to inputs that are no attention pattern."""
    rows = [
        [
            kind,
            str(figures["maps"]),
            f"{figures['heterogeneous_or_uncertain']:.1%}",
            f"{figures['warned']:.1%}",
            f"{figures['confident_vertical']:.1%}",
        ]
        for kind, figures in strangers.items()
    ]
    return markdown_table(["input", "maps", "Heterogeneous or uncertain", "warned of", "Vertical, not uncertain"], rows)


def resizing_table(resizing: Mapping[str, Any]) -> str:
    """Returns the answers kept when every token is split into several."""
    rows = [
        [
            times,
            str(figures["maps"]),
            f"{figures['share']:.1%}",
            str(figures["certain_maps"]),
            f"{figures['certain_share']:.1%}",
        ]
        for times, figures in resizing.items()
    ]
    return markdown_table(["tokens for each", "maps", "answer kept", "of them certain", "answer kept"], rows)


def coverage_table(figures: Mapping[str, Any]) -> str:
    """Returns a few points of the coverage-risk curve."""
    points = [p for p in figures["coverage_curve"] if round(p["threshold"] * 100) % 10 == 0]
    rows = [[f"{p['threshold']:.1f}", f"{p['coverage']:.1%}", _figure(p["accuracy"])] for p in points]
    return markdown_table(["confidence at least", "maps answered", "accuracy among them"], rows)


def card_text(bundle: ModelBundle, results: Mapping[str, Any]) -> str:
    """Returns the card of a bundle; sections that are not measured yet are left out."""
    sets = {"validation": results["validation"]}
    tables: dict[str, str] = {}
    if "figures" in results:
        test = results["figures"]["test"]
        sets |= {"test": test, "held-out source": results["figures"]["held-out"]}
        tables |= {
            "classes": classes_table(test),
            "confusion": confusion_table(test),
            "lengths": breakdown_table(test["by"]["length"], "tokens"),
            "sources": breakdown_table(test["by"]["source"], "source"),
            "coverage": coverage_table(test),
        }
    if "elsewhere" in results:
        sets["models from elsewhere"] = results["elsewhere"]
        tables["models"] = breakdown_table(results["elsewhere"]["by"]["model"], "model")
    if "speed" in results:
        tables["speed"] = speed_table(results["speed"], SPEED)
    if "robustness" in results:
        tables["strangers"] = strangers_table(results["robustness"]["strangers"])
        tables["resizing"] = resizing_table(results["robustness"]["resizing"])
    if "ablation" in results:
        tables["ablation"] = ablation_table(results["ablation"], results.get("speed", {}))
    return fill_template(
        "MODEL_CARD.md",
        bundle=bundle,
        results=results,
        count=len(read_labels()),
        splits=splits_table(sets),
        **tables,
    )


def write_card() -> None:
    """Writes the card of the bundled model into its folder."""
    bundle = ModelBundle.read()
    write_whole(bundle.folder / "MODEL_CARD.md", card_text(bundle, read_results()))
