"""Two baselines that see no picture: a rule on the measured evidence, and boosted trees on it."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import f1_score

from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns.measures import EVIDENCE, Measure, SurveyedMaps
from attention_patterns.patterns import PATTERNS, Pattern
from attention_patterns.rendering import find_causal, survey
from attention_patterns_training.labels.dataset import LabelledMaps, segment_lengths

# The evidence comes first: entropies are divided by ln L, flags per token are counted, and a segment mass that is not
# measured is 1, as of one segment. The maximum is in units of 1 / L.
FEATURES = (*EVIDENCE, "maximum", "length", "causal", "segment_mass_by_chance")
_JUDGED = ("visible_mass", "stripe_mass", "line_mass", "stripe_or_line_mass", "segment_mass")  # by the rule


def features(data: LabelledMaps) -> NDArray[np.float64]:
    """Returns the features of every map, float64 [maps, features]."""
    cells = zip(data.maps, data.table["segments"], strict=True)
    return np.array([_map_features(attention, segment_lengths(cell) if cell else None) for attention, cell in cells])


def _map_features(attention: NDArray[np.floating], segments: list[int] | None) -> list[float]:
    maps = read_attention(attention, None)
    length = maps.length
    declaration = read_declaration(length, segments=segments)
    result = survey(maps, declaration, find_causal(maps, declaration), image_size=8, begin=0, end=1)
    surveyed = SurveyedMaps(maps, declaration, result)
    evidence = [_feature(measure, surveyed) for measure in EVIDENCE.values()]
    chance = float(np.square(np.array(segments or [length]) / length).sum())
    return [*evidence, float(attention.max()) * length, length, bool(result.causal[0]), chance]


def _feature(measure: Measure, surveyed: SurveyedMaps) -> float:
    values = measure.compute(surveyed)
    if values is None:  # one segment, to which all attention goes
        return 1.0
    scale = np.log(surveyed.declaration.length) if measure.unit == "nats" else 1.0
    return float(values[0].sum() / scale)


@dataclass(frozen=True)
class Rule:
    """The annotation guide's decision on measured evidence.

    Attributes:
        covered: Least share of the visible attention in stripes and lines, of a map made of them.
        other: Least share that lines, or stripes, hold for them to count.
        segment: Least attention to the own segment, above that of an even map, of a Block map.
        visible: Least visible mass of a map that shows anything.
    """

    covered: float = 0.75
    other: float = 0.2
    segment: float = 0.25
    visible: float = 0.05

    def answer(self, measured: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns the answers to maps by their features, indices into ``PATTERNS``, int64 [maps]."""
        visible, stripe, line, either, segment = measured[:, [FEATURES.index(name) for name in _JUDGED]].T
        marked = (either / np.maximum(visible, 1e-9) >= self.covered) & (visible >= self.visible)
        total = np.maximum(stripe + line, 1e-9)
        lines, stripes = line / total >= self.other, stripe / total >= self.other
        pattern = np.where(lines, np.where(stripes, Pattern.VERTICAL_DIAGONAL, Pattern.DIAGONAL), Pattern.VERTICAL)
        chance = measured[:, FEATURES.index("segment_mass_by_chance")]
        block = (segment - chance >= self.segment) & (chance < 1)
        names = np.where(marked, pattern, np.where(block, Pattern.BLOCK, Pattern.HETEROGENEOUS))
        return np.array([PATTERNS.index(Pattern(name)) for name in names])

    @classmethod
    def fit(cls, measured: NDArray[np.float64], labels: NDArray[np.int64]) -> "Rule":
        """Returns the rule of the best macro-F1 on labelled maps, of a grid of thresholds."""
        grid = product(
            (0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
            (0.1, 0.15, 0.2, 0.25, 0.3),
            (0.1, 0.15, 0.2, 0.25, 0.3),
            (0.02, 0.05, 0.1, 0.2, 0.3),
        )
        return max(
            (cls(*values) for values in grid),
            key=lambda rule: f1_score(labels, rule.answer(measured), average="macro"),
        )


def boosted_trees(measured: NDArray[np.float64], labels: NDArray[np.int64]) -> HistGradientBoostingClassifier:
    """Returns gradient-boosted trees that are fitted to the same features."""
    model = HistGradientBoostingClassifier(
        max_iter=300, learning_rate=0.05, max_leaf_nodes=15, l2_regularization=1.0, random_state=0
    )
    return model.fit(measured, labels)
