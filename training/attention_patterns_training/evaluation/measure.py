"""All figures and pictures of the shipped bundle, once its recipe is fixed.

This is the one program that reads the test split and the held-out source for the card.
"""

import json
from typing import Any

from attention_patterns.bundle import BUNDLED, ModelBundle
from attention_patterns_training.evaluation.card import write_card
from attention_patterns_training.evaluation.evaluate import (
    annotator_agreement,
    answer_maps,
    breakdown,
    compute_figures,
    headline_figures,
    length_bands,
)
from attention_patterns_training.evaluation.pictures import draw_maps, draw_sureness
from attention_patterns_training.evaluation.results import write_section
from attention_patterns_training.labels.dataset import LabelledMaps, read_dataset
from attention_patterns_training.net.export import write_json

SPLITS = ("validation", "test", "held-out")


def measure_splits(bundle: ModelBundle, data: LabelledMaps) -> dict[str, Any]:
    """Returns the figures of every split but training, each also by length and by source."""
    figures: dict[str, Any] = {"maps": len(data.maps), "annotators": annotator_agreement(data.table)}
    for name in SPLITS:
        split = data.split(name)
        answers = answer_maps(bundle, split)
        figures[name] = compute_figures(split, answers, uncertain_below=bundle.uncertain_below)
        figures[name]["by"] = {
            "length": breakdown(split, answers, length_bands(split)),
            "source": breakdown(split, answers, split.table["source"]),
        }
    return figures


def measure() -> None:
    """Measures all splits, for the bundle's headline figures and for the card."""
    bundle, data = ModelBundle.read(), read_dataset()
    figures = measure_splits(bundle, data)
    content = json.loads((BUNDLED / "bundle.json").read_text(encoding="utf-8"))
    content["metrics"] = {
        name: value for split in SPLITS for name, value in headline_figures(split, figures[split]).items()
    }
    write_json(BUNDLED / "bundle.json", content)
    write_section("figures", figures)
    draw_sureness(figures["test"], bundle.uncertain_below, bundle.folder / "sureness.png")
    test = data.split("test")
    draw_maps(test, answer_maps(bundle, test), bundle.folder / "maps.png")
    write_card()
