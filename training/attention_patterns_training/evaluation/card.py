"""Writes ``MODEL_CARD.md`` from what was measured: ``python -m attention_patterns_training.evaluation.card``.

The figures come from ``training/results.json``, which ``training.train``, ``training.ablation``, ``training.speed``,
``training.robustness``, ``training.measure`` and ``training.evaluate --keep`` write, each its own section. The pictures
beside it are drawn by ``training.measure``, which has the maps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from attention_patterns.bundle import ModelBundle
from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns_training.evaluation.results import read_results
from attention_patterns_training.labels.dataset import read_labels

SPEED = (
    "shipped",
    "int8, dynamic",
    "int8, static",
    "one net, the paper read plainly, 64 x 64",
)  # the rows of its table


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _figure(value: float) -> str:
    return f"{value:.3f}"


def _between(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def splits_table(sets: Mapping[str, Any]) -> str:
    """Headline figures of every set of maps, the annotators' beside them."""
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
            str(one["maps"]),
            f"{_figure(one['macro_f1'])} ({_between(one['macro_f1_interval'])})",
            f"{_figure(one['accuracy'])} ({_between(one['accuracy_interval'])})",
            f"{_figure(one['annotators']['macro_f1'])}, {_figure(one['annotators']['accuracy'])}",
            f"{_figure(one['accuracy_certain'])} of {one['certain_maps']}",
            _figure(one["calibration_error"]),
            f"{one['coverage']:.1%} at {_figure(one['accuracy_answered'])}",
        ]
        for name, one in sets.items()
    ]
    return _table(rows, head)


def classes_table(figures: Mapping[str, Any]) -> str:
    """Precision, recall and F1 of each class."""
    rows = [
        [
            name,
            _figure(one["precision"]),
            _figure(one["recall"]),
            f"{_figure(one['f1-score'])} ({_between(one['f1_interval'])})",
            f"{one['support']:.0f}",
        ]
        for name, one in figures["classes"].items()
        if one["support"]
    ]
    return _table(rows, ["class", "precision", "recall", "F1", "maps"])


def confusion_table(figures: Mapping[str, Any]) -> str:
    """Labels as rows, answers as columns."""
    names = PATTERN_NAMES.tolist()
    rows = [[name, *map(str, row)] for name, row in zip(names, figures["confusion"], strict=True)]
    return _table(rows, ["label, answered as", *names])


def parts_table(parts: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Figures by the values of a column."""
    rows = [[name, str(one["maps"]), _figure(one["macro_f1"]), _figure(one["accuracy"])] for name, one in parts.items()]
    return _table(rows, [title, "maps", "macro-F1", "accuracy"])


def ablation_table(ablation: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """Validation figures of the alternatives, and how fast they are."""
    rows = [
        [
            name,
            f"{_figure(one['macro_f1'])}" + (f" (spread {_figure(one['macro_f1_spread'])})" if one["nets"] > 1 else ""),
            _figure(one["accuracy"]),
            f"{speed[name]['ratio']:.2f}" if name in speed else "",
        ]
        for name, one in ablation.items()
    ]
    return _table(rows, ["alternative", "macro-F1", "accuracy", "maps/s, plain reading = 1"])


def speed_table(speed: Mapping[str, Any], names: Sequence[str]) -> str:
    """Rates, and where they were measured macro-F1 and size."""
    rows = [
        [
            name,
            f"{one['maps_per_second']:,.0f}",
            f"{one['ratio']:.2f}",
            _figure(one["macro_f1"]) if "macro_f1" in one else "",
            f"{one['bytes'] / 1e6:.2f} MB" if "bytes" in one else "",
        ]
        for name, one in ((name, speed[name]) for name in names)
    ]
    return _table(rows, ["net", "maps/s", "plain reading = 1", "validation macro-F1", "size"])


def strangers_table(strangers: Mapping[str, Any]) -> str:
    """Answers to what is no attention pattern."""
    rows = [
        [
            name,
            str(one["maps"]),
            f"{one['heterogeneous_or_uncertain']:.1%}",
            f"{one['warned']:.1%}",
            f"{one['confident_vertical']:.1%}",
        ]
        for name, one in strangers.items()
    ]
    return _table(rows, ["input", "maps", "Heterogeneous or uncertain", "warned of", "Vertical, not uncertain"])


def resizing_table(resizing: Mapping[str, Any]) -> str:
    """Answers kept when every token is split into several."""
    rows = [
        [
            times,
            str(one["maps"]),
            f"{one['share']:.1%}",
            str(one["certain_maps"]),
            f"{one['certain_share']:.1%}",
        ]
        for times, one in resizing.items()
    ]
    return _table(rows, ["tokens for each", "maps", "answer kept", "of them certain", "answer kept"])


def coverage_table(figures: Mapping[str, Any]) -> str:
    """A few points of the coverage-risk curve."""
    points = [p for p in figures["coverage_curve"] if round(p["threshold"] * 100) % 10 == 0]
    rows = [[f"{p['threshold']:.1f}", f"{p['coverage']:.1%}", _figure(p["accuracy"])] for p in points]
    return _table(rows, ["confidence at least", "maps answered", "accuracy among them"])


def card_text(bundle: ModelBundle, results: Mapping[str, Any]) -> str:
    """The card of a bundle; parts that were not measured yet are left out."""
    sets = {"validation": results["validation"]}
    parts: dict[str, str] = {}
    if "figures" in results:
        test = results["figures"]["test"]
        sets |= {"test": test, "held-out source": results["figures"]["held-out"]}
        parts |= {
            "classes": classes_table(test),
            "confusion": confusion_table(test),
            "lengths": parts_table(test["by"]["length"], "tokens"),
            "sources": parts_table(test["by"]["source"], "source"),
            "coverage": coverage_table(test),
        }
    if "elsewhere" in results:
        sets["models from elsewhere"] = results["elsewhere"]
        parts["models"] = parts_table(results["elsewhere"]["by"]["model"], "model")
    if "speed" in results:
        parts["speed"] = speed_table(results["speed"], SPEED)
    if "robustness" in results:
        parts["strangers"] = strangers_table(results["robustness"]["strangers"])
        parts["resizing"] = resizing_table(results["robustness"]["resizing"])
    if "ablation" in results:
        parts["ablation"] = ablation_table(results["ablation"], results.get("speed", {}))
    environment = Environment(
        loader=PackageLoader("attention_patterns_training"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    template = environment.get_template("MODEL_CARD.md")
    count = len(read_labels())
    return template.render(bundle=bundle, results=results, count=count, splits=splits_table(sets), **parts)


def write_card() -> None:
    """Writes the card of the bundled model into its folder."""
    bundle = ModelBundle.read()
    (bundle.folder / "MODEL_CARD.md").write_text(card_text(bundle, read_results()), encoding="utf-8")


if __name__ == "__main__":
    write_card()
