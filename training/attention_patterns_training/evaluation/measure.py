"""Measures the shipped bundle once its recipe is frozen: ``python -m attention_patterns_training.evaluation.measure``, for its card and its pictures.

This is the one program that reads the test split and the held-out source for the card.
"""

import json
from typing import Any

import typer

from attention_patterns.bundle import BUNDLED, ModelBundle
from attention_patterns_training.evaluation.card import write_card
from attention_patterns_training.evaluation.evaluate import (
    annotators,
    answers,
    breakdown,
    figures,
    headline,
    length_bands,
)
from attention_patterns_training.evaluation.pictures import draw_maps, draw_sureness
from attention_patterns_training.evaluation.results import write_section
from attention_patterns_training.labels.dataset import LabelledMaps, read_dataset
from attention_patterns_training.net.export import write_json

SPLITS = ("validation", "test", "held-out")


def measured(bundle: ModelBundle, data: LabelledMaps) -> dict[str, Any]:
    """Figures of every split but training, each also by length and by source."""
    found: dict[str, Any] = {"maps": len(data.maps), "annotators": annotators(data.table)}
    for split in SPLITS:
        part = data.part(split)
        given = answers(bundle, part)
        found[split] = figures(part, given, uncertain_below=bundle.uncertain_below)
        found[split]["by"] = {
            "length": breakdown(part, given, length_bands(part)),
            "source": breakdown(part, given, part.table["source"]),
        }
    return found


def main() -> None:
    """Measures all splits, for the bundle's headline figures and for the card."""
    bundle, data = ModelBundle.read(), read_dataset()
    found = measured(bundle, data)
    content = json.loads((BUNDLED / "bundle.json").read_text(encoding="utf-8"))
    content["metrics"] = {name: value for split in SPLITS for name, value in headline(split, found[split]).items()}
    write_json(BUNDLED / "bundle.json", content)
    write_section("figures", found)
    draw_sureness(found["test"], bundle.uncertain_below, bundle.folder / "sureness.png")
    test = data.part("test")
    draw_maps(test, answers(bundle, test), bundle.folder / "maps.png")
    write_card()


if __name__ == "__main__":
    typer.run(main)
