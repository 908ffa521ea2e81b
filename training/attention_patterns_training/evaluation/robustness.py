"""Changes that must not change the answer, and inputs that are no attention.

Everything is measured through the serving path with the bundled model, on the test split and on fresh attention of the
MiniLM encoder.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.patterns import Pattern
from attention_patterns.programs.terminal import show
from attention_patterns_training.evaluation.card import write_card
from attention_patterns_training.evaluation.results import write_section
from attention_patterns_training.labels.annotators import is_certain
from attention_patterns_training.labels.dataset import LabelledMaps, read_dataset
from attention_patterns_training.sources.attention_sources import minilm_attention
from attention_patterns_training.sources.shapes import draw_shapes
from attention_patterns_training.sources.texts import source_texts

SHORT, LARGEST = 64, 2048  # tokens of the maps that are resized, at most, and of the largest made of them
TIMES = (2, 4, 8, 16, 32, 64, 128)  # tokens that each token is split into
SINKS = (0.1, 10.0)  # factors on the odds of the attention sink
Map = NDArray[np.float32]


def split_tokens(attention: Map, times: int) -> Map:
    """Returns the same picture with each token split into ``times`` tokens that share its attention."""
    return np.repeat(np.repeat(attention, times, axis=0), times, axis=1) / np.float32(times)


def _classify(classifier: PatternClassifier, maps: Sequence[Map]) -> NDArray[np.str_]:
    return np.array([str(prediction.pattern) for prediction in classifier.classify_maps(maps)])


def measure_resizing(classifier: PatternClassifier, data: LabelledMaps) -> dict[str, dict[str, float]]:
    """Returns the shares of answers kept when every token is split, for maps that stay within 2,048 tokens.

    The figures of ``certain`` maps are of those on which both annotators agreed without a second choice.
    """
    short = [n for n, attention in enumerate(data.maps) if len(attention) <= SHORT]
    maps = [np.asarray(data.maps[n], np.float32) for n in short]
    sure, before = is_certain(data.table).to_numpy()[short], _classify(classifier, maps)
    figures: dict[str, dict[str, float]] = {}
    for times in TIMES:
        fitting = [n for n, attention in enumerate(maps) if len(attention) * times <= LARGEST]
        kept = np.array([_classify(classifier, [split_tokens(maps[n], times)])[0] == before[n] for n in fitting])
        certainly = kept[sure[fitting]]
        figures[str(times)] = {
            "maps": len(kept),
            "share": float(kept.mean()),
            "certain_maps": len(certainly),
            "certain_share": float(certainly.mean()),
        }
    return figures


def measure_float16(classifier: PatternClassifier) -> dict[str, float]:
    """Returns the share of answers that are the same for float32 attention and for its float16."""
    same = total = 0
    for result in minilm_attention(source_texts()):
        full = classifier.classify(result.attention).patterns
        half = classifier.classify(result.attention.astype(np.float16)).patterns
        same, total = same + int((full == half).sum()), total + full.size
    return {"maps": total, "share": same / total}


def measure_padding(classifier: PatternClassifier, data: LabelledMaps) -> dict[str, float]:
    """Returns the share of maps whose probabilities are equal with padding on the right, on the left and around."""
    same = []
    for attention in data.maps:
        bare = classifier.classify(attention).probabilities
        for before, after in ((0, 9), (9, 0), (4, 5)):
            padded = np.pad(attention, ((before, after), (before, after)))
            mask = np.pad(np.ones(len(attention)), (before, after))
            same.append(np.array_equal(classifier.classify(padded, mask=mask).probabilities, bare))
    return {"maps": len(same), "share": float(np.mean(same))}


def measure_sinks(classifier: PatternClassifier, data: LabelledMaps) -> dict[str, float]:
    """Returns the share of plain Vertical maps that stay Vertical when their heaviest column weighs more or less."""
    plain = (data.table["pattern"] == Pattern.VERTICAL) & is_certain(data.table)
    maps = [np.asarray(data.maps[n], np.float32) for n in np.flatnonzero(plain)]
    figures: dict[str, float] = {"maps": len(maps)}
    for factor in SINKS:
        changed = [_weigh_sink(attention, factor) for attention in maps]
        figures[f"{factor:g}"] = float((_classify(classifier, changed) == str(Pattern.VERTICAL)).mean())
    return figures


def _weigh_sink(attention: Map, factor: float) -> Map:
    changed = attention.copy()
    changed[:, attention.sum(axis=0).argmax()] *= factor
    return np.asarray(changed / changed.sum(axis=1, keepdims=True))


def make_strangers(data: LabelledMaps, rng: np.random.Generator) -> dict[str, list[Map]]:
    """Returns matrices that are no attention patterns, by kind: noise, maps with their rows shuffled, pictures."""

    def normalise(matrix: NDArray[np.float64]) -> Map:
        return np.asarray(matrix / matrix.sum(axis=1, keepdims=True), np.float32)

    lengths = [int(n) for n in rng.integers(16, 129, 200)]
    shuffled = [n for n, name in enumerate(data.table["pattern"]) if name in (Pattern.DIAGONAL, Pattern.BLOCK)]
    return {
        "uniform noise": [normalise(rng.random((n, n))) for n in lengths],
        "exponential noise": [normalise(rng.exponential(size=(n, n))) for n in lengths],
        "Diagonal and Block maps, rows shuffled": [
            np.asarray(rng.permutation(data.maps[n], axis=0), np.float32) for n in shuffled
        ],
        "drawn shapes": [normalise(1.01 + draw_shapes(rng).pixels.mean(axis=0).astype(float)) for _ in lengths],
    }


def measure_strangers(classifier: PatternClassifier, data: LabelledMaps) -> dict[str, dict[str, float]]:
    """Returns for each kind the shares answered Heterogeneous or uncertain, warned of, and confidently Vertical."""
    figures = {}
    for kind, maps in make_strangers(data, np.random.default_rng(0)).items():
        results = [classifier.classify(attention) for attention in maps]
        sure = Counter(str(result.patterns) for result in results if not result.uncertain)
        harmless = [bool(result.uncertain) or str(result.patterns) == Pattern.HETEROGENEOUS for result in results]
        figures[kind] = {
            "maps": len(maps),
            "heterogeneous_or_uncertain": float(np.mean(harmless)),
            "warned": float(np.mean([bool(result.warnings) for result in results])),
            "confident_vertical": sure[Pattern.VERTICAL] / len(maps),
        }
    return figures


def measure_robustness(*, keep: bool = False) -> None:
    """Prints all of these figures, and keeps them for the card if asked to."""
    classifier, data = PatternClassifier.load(), read_dataset().split("test")
    figures = {
        "resizing": measure_resizing(classifier, data),
        "float16": measure_float16(classifier),
        "padding": measure_padding(classifier, data),
        "sink": measure_sinks(classifier, data),
        "strangers": measure_strangers(classifier, data),
    }
    show(figures)
    if keep:
        write_section("robustness", figures)
        write_card()
