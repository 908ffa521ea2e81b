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

# The evidence first: entropies over ln L, of a measure of each token the number of tokens, segment masses 1 for one
# segment; the maximum in units of 1 / L.
FEATURES = (*EVIDENCE, "maximum", "length", "causal", "segment_mass_by_chance")
_JUDGED = ("visible_mass", "stripe_mass", "line_mass", "stripe_or_line_mass", "segment_mass")  # by the rule


def features(data: LabelledMaps) -> NDArray[np.float64]:
    """Measures of every map, float64 [maps, 12]."""
    return np.array(
        [
            _features(one, segment_lengths(cell) if cell else None)
            for one, cell in zip(data.maps, data.table["segments"], strict=True)
        ]
    )


def _features(attention: NDArray[np.floating], segments: list[int] | None) -> list[float]:
    maps = read_attention(attention, None)
    length = maps.length
    declaration = read_declaration(length, segments=segments)
    seen = survey(maps, declaration, find_causal(maps, declaration), image_size=8, begin=0, end=1)
    surveyed = SurveyedMaps(maps, declaration, seen)
    evidence = [_feature(measure, surveyed) for measure in EVIDENCE.values()]
    chance = float(np.square(np.array(segments or [length]) / length).sum())
    return [*evidence, float(attention.max()) * length, length, bool(seen.causal[0]), chance]


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
        covered: least share of the visible attention in stripes and lines, of a map made of them.
        other: least share that lines, or stripes, hold for them to count.
        segment: least attention to the own segment, above what an even map has, of a Block map.
        visible: least visible mass of a map that shows anything.
    """

    covered: float = 0.75
    other: float = 0.2
    segment: float = 0.25
    visible: float = 0.05

    def answers(self, measured: NDArray[np.float64]) -> NDArray[np.int64]:
        """Indices into ``PATTERNS``, int64 [maps]."""
        visible, stripe, line, either, segment = measured[:, [FEATURES.index(name) for name in _JUDGED]].T
        shown = np.maximum(visible, 1e-9)
        made = (either / shown >= self.covered) & (visible >= self.visible)
        more = np.maximum(stripe + line, 1e-9)
        lines, stripes = line / more >= self.other, stripe / more >= self.other
        pattern = np.where(lines, np.where(stripes, Pattern.VERTICAL_DIAGONAL, Pattern.DIAGONAL), Pattern.VERTICAL)
        chance = measured[:, FEATURES.index("segment_mass_by_chance")]
        block = (segment - chance >= self.segment) & (chance < 1)
        names = np.where(made, pattern, np.where(block, Pattern.BLOCK, Pattern.HETEROGENEOUS))
        return np.array([PATTERNS.index(Pattern(name)) for name in names])

    @classmethod
    def fitted(cls, measured: NDArray[np.float64], labels: NDArray[np.int64]) -> "Rule":
        """The thresholds of the best macro-F1 on labelled maps, of a grid."""
        grid = product(
            (0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
            (0.1, 0.15, 0.2, 0.25, 0.3),
            (0.1, 0.15, 0.2, 0.25, 0.3),
            (0.02, 0.05, 0.1, 0.2, 0.3),
        )
        return max(
            (cls(*values) for values in grid),
            key=lambda rule: f1_score(labels, rule.answers(measured), average="macro"),
        )


def boosted_trees(measured: NDArray[np.float64], labels: NDArray[np.int64]) -> HistGradientBoostingClassifier:
    """Gradient-boosted trees on the same measures, fitted."""
    model = HistGradientBoostingClassifier(
        max_iter=300, learning_rate=0.05, max_leaf_nodes=15, l2_regularization=1.0, random_state=0
    )
    return model.fit(measured, labels)
