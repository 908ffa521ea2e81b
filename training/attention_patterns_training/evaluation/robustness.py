"""What must not change the answer, and what is no attention at all: ``python -m attention_patterns_training.evaluation.robustness [--keep]``.

Everything is measured through the serving path with the bundled model, on the test split and on fresh attention of the
MiniLM encoder.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich import print as show

from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.patterns import Pattern
from attention_patterns_training.evaluation.card import write_card
from attention_patterns_training.evaluation.evaluate import certain
from attention_patterns_training.evaluation.results import write_section
from attention_patterns_training.labels.dataset import LabelledMaps, read_dataset
from attention_patterns_training.sources.attention_sources import minilm_attention
from attention_patterns_training.sources.shapes import draw_shapes
from attention_patterns_training.sources.texts import source_texts

SHORT, LARGEST = 64, 2048  # tokens, of the maps that are resized and of what they become
SINKS = (0.1, 10.0)  # factors on the odds of the attention sink
Map = NDArray[np.float32]


def resized(attention: Map, times: int) -> Map:
    """The same picture with each token split into ``times`` tokens that share its attention."""
    return np.repeat(np.repeat(attention, times, axis=0), times, axis=1) / np.float32(times)


def _patterns(
    classifier: PatternClassifier, maps: Sequence[Map], segments: Sequence[list[int]] | None = None
) -> NDArray[np.str_]:
    return np.array([str(p.pattern) for p in classifier.classify_maps(maps, segments=segments)])


def kept_under_resizing(classifier: PatternClassifier, data: LabelledMaps) -> dict[str, dict[str, float]]:
    """Share of answers kept when every token is split into 2, 4, ... 128, for maps that stay within 2,048 tokens.

    ``certain``: the same for maps on which both annotators agreed without a second choice.
    """
    short = [n for n, one in enumerate(data.maps) if len(one) <= SHORT]
    maps = [np.asarray(data.maps[n], np.float32) for n in short]
    sure, before = certain(data.table).to_numpy()[short], _patterns(classifier, maps)
    found: dict[str, dict[str, float]] = {}
    for times in (2, 4, 8, 16, 32, 64, 128):
        fitting = [n for n, one in enumerate(maps) if len(one) * times <= LARGEST]
        kept = np.array([_patterns(classifier, [resized(maps[n], times)])[0] == before[n] for n in fitting])
        certainly = kept[sure[fitting]]
        found[str(times)] = {
            "maps": len(kept),
            "share": float(kept.mean()),
            "certain_maps": len(certainly),
            "certain_share": float(certainly.mean()),
        }
    return found


def kept_in_float16(classifier: PatternClassifier) -> dict[str, float]:
    """Share of answers that are the same for float32 attention and for its float16."""
    same = total = 0
    for found in minilm_attention(source_texts()):
        full = classifier.classify(found.attention).patterns
        half = classifier.classify(found.attention.astype(np.float16)).patterns
        same, total = same + int((full == half).sum()), total + full.size
    return {"maps": total, "share": same / total}


def kept_with_padding(classifier: PatternClassifier, data: LabelledMaps) -> dict[str, float]:
    """Share of maps whose probabilities are equal with padding on the right, on the left and around."""
    same = []
    for one in data.maps:
        bare = classifier.classify(one).probabilities
        for before, after in ((0, 9), (9, 0), (4, 5)):
            padded, mask = np.pad(one, ((before, after), (before, after))), np.pad(np.ones(len(one)), (before, after))
            same.append(np.array_equal(classifier.classify(padded, mask=mask).probabilities, bare))
    return {"maps": len(same), "share": float(np.mean(same))}


def kept_with_another_sink(classifier: PatternClassifier, data: LabelledMaps) -> dict[str, float]:
    """Share of plain Vertical maps still answered Vertical when their heaviest column weighs 10 times more or less."""
    plain = (data.table["pattern"] == Pattern.VERTICAL) & certain(data.table)
    maps = [np.asarray(data.maps[n], np.float32) for n in np.flatnonzero(plain)]
    found: dict[str, float] = {"maps": len(maps)}
    for factor in SINKS:
        changed = []
        for one in maps:
            other = one.copy()
            other[:, one.sum(axis=0).argmax()] *= factor
            changed.append(other / other.sum(axis=1, keepdims=True))
        found[f"{factor:g}"] = float((_patterns(classifier, changed) == str(Pattern.VERTICAL)).mean())
    return found


def strangers(data: LabelledMaps, rng: np.random.Generator) -> dict[str, list[Map]]:
    """No attention patterns: noise, maps of lines and squares with their rows shuffled, pictures of things."""

    def rows_to_one(matrix: NDArray[np.float64]) -> Map:
        return np.asarray(matrix / matrix.sum(axis=1, keepdims=True), np.float32)

    lengths = [int(n) for n in rng.integers(16, 129, 200)]
    shuffled = [n for n, name in enumerate(data.table["pattern"]) if name in (Pattern.DIAGONAL, Pattern.BLOCK)]
    return {
        "uniform noise": [rows_to_one(rng.random((n, n))) for n in lengths],
        "exponential noise": [rows_to_one(rng.exponential(size=(n, n))) for n in lengths],
        "Diagonal and Block maps, rows shuffled": [
            np.asarray(rng.permutation(data.maps[n], axis=0), np.float32) for n in shuffled
        ],
        "drawn shapes": [rows_to_one(1.01 + draw_shapes(rng)[0].mean(axis=0).astype(float)) for _ in lengths],
    }


def answers_to_strangers(classifier: PatternClassifier, data: LabelledMaps) -> dict[str, dict[str, float]]:
    """For each kind: shares answered Heterogeneous or uncertain, warned of, and confidently Vertical."""
    found = {}
    for kind, maps in strangers(data, np.random.default_rng(0)).items():
        results = [classifier.classify(one) for one in maps]
        sure = Counter(str(one.patterns) for one in results if not one.uncertain)
        harmless = [bool(one.uncertain) or str(one.patterns) == Pattern.HETEROGENEOUS for one in results]
        found[kind] = {
            "maps": len(maps),
            "heterogeneous_or_uncertain": float(np.mean(harmless)),
            "warned": float(np.mean([bool(one.warnings) for one in results])),
            "confident_vertical": sure[Pattern.VERTICAL] / len(maps),
        }
    return found


def main(keep: Annotated[bool, typer.Option("--keep", help="keep the figures for the card")] = False) -> None:
    """Prints all of it."""
    classifier, data = PatternClassifier.load(), read_dataset().part("test")
    found = {
        "resizing": kept_under_resizing(classifier, data),
        "float16": kept_in_float16(classifier),
        "padding": kept_with_padding(classifier, data),
        "sink": kept_with_another_sink(classifier, data),
        "strangers": answers_to_strangers(classifier, data),
    }
    show(found)
    if keep:
        write_section("robustness", found)
        write_card()


if __name__ == "__main__":
    typer.run(main)
