"""The measures of a head, independent of the net; each is declared once, as a field of ``Evidence`` or ``AttentionTo``.

Contract, Open Inference, tables, report and baselines take the names, their order, units and types from these fields
(``read_measures``): a new measure is one more field here and, on the wire, one more field of the contract.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill
from typing import Annotated, Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import DTypeLike, NDArray

from attention_patterns.attention_map import AttentionMaps, Declaration, TokenGroup, decode
from attention_patterns.rendering import Survey

_Class = TypeVar("_Class", bound=type)
_CELLS = 1 << 20  # cells that are copied at a time: a group of all tokens would copy the maps four times over
GUIDE = "annotation guide"  # the source of a pattern's elements
_CLARK, _KOVALEVA = "Clark et al. 2019, section {}", "Kovaleva et al. 2019, section {}"


@dataclass(frozen=True)
class Measure:
    """The declaration of a measure.

    Attributes:
        compute: Function that measures maps, from a ``SurveyedMaps`` for evidence or a ``GroupSums`` for attention to a
            group, and returns [maps] or [maps, L as sent], or None where the input does not have the measure.
        formula: Definition, a noun phrase.
        label: Short name for people; tables and messages use the name of the field.
        unit: "share" of attention, 0 to 1; "nats"; "tokens"; or "flag".
        source: Paper and section, GUIDE for the elements of a pattern, "" for a measure of this project.
        dtype: Type of the values.
        per_token: Whether each map has a value for each token instead of one.
        needs: Declaration without which an input does not have the measure, "segments", or "" for none.
        given: Name of another measure; where that is 0, this one means nothing. "" for none.
        of_heads: Whether the mean over inputs is reported for each head.
    """

    compute: Callable[[Any], NDArray[Any] | None]
    formula: str
    label: str
    unit: str = "share"
    source: str = GUIDE
    dtype: DTypeLike = np.float32
    per_token: bool = False
    needs: str = ""
    given: str = ""
    of_heads: bool = True


@dataclass(frozen=True)
class SurveyedMaps:
    """Maps, their declaration, and the results of the pass over them."""

    maps: AttentionMaps
    declaration: Declaration
    survey: Survey

    def column(self, name: str) -> NDArray[Any]:
        """Returns a measure of the kernel, [maps]."""
        values: NDArray[Any] = self.survey.measures[name]
        return values

    def segment_mass(self) -> NDArray[Any] | None:
        """Returns the attention within segments, float64 [maps]; None where they were not declared."""
        return None if self.declaration.segments is None else self.column("segment_mass")

    def stripes(self) -> NDArray[np.bool_]:
        """Returns which tokens of the matrix as sent are stripes, bool [maps, L]."""
        stripes = np.zeros((len(self.survey.stripes), self.maps.length), np.bool_)
        stripes[:, self.declaration.kept] = self.survey.stripes
        return stripes


@dataclass(frozen=True)
class GroupSums:
    """The sums of attention to a group of tokens S that its measures are made of."""

    surveyed: SurveyedMaps
    group: TokenGroup

    @property
    def length(self) -> int:
        """The number of kept tokens."""
        return self.surveyed.declaration.length

    @property
    def size(self) -> int:
        """The number of tokens in S."""
        return len(self.group.positions)

    @cached_property
    def sent(self) -> NDArray[np.int64]:
        """Positions of S in the matrix as sent, int64."""
        return self.surveyed.declaration.kept[self.group.positions]

    @cached_property
    def received(self) -> NDArray[np.float64]:
        """Attention that each token of S receives from all query rows, float64 [maps, tokens of S]."""
        return self.surveyed.survey.column_sums[:, self.group.positions]

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """Attention that S receives, float64 [maps]."""
        total: NDArray[np.float64] = self.received.sum(axis=1)
        return total

    @cached_property
    def from_inside(self) -> NDArray[np.float64]:
        """Attention that S receives from its own query rows, float64 [maps]."""
        maps, sent = self.surveyed.maps, self.sent
        inside = np.zeros(len(maps.values))
        rows = max(1, _CELLS // self.size)
        together = max(1, rows // self.size)  # maps
        for begin in range(0, len(inside), together):
            block = maps.values[begin : begin + together]
            for first in range(0, self.size, rows):
                cells = block[:, sent[first : first + rows, None], sent[None, :]]
                inside[begin : begin + together] += decode(cells, maps.data_type).sum((1, 2))
        firsts = range(0, self.size, rows)
        for n in np.flatnonzero(self.surveyed.survey.divided).tolist():
            inside[n] = math.fsum(self._inside_of_divided(n, sent[first : first + rows]) for first in firsts)
        return inside

    def _inside_of_divided(self, n: int, rows: NDArray[np.int64]) -> float:
        """Returns the attention of some of S's rows to S, in a map whose rows were divided by their sums."""
        maps, kept = self.surveyed.maps, self.surveyed.declaration.kept
        inside, sums = (
            decode(maps.values[n, rows[:, None], columns[None, :]], maps.data_type).sum(axis=1)
            for columns in (self.sent, kept)
        )
        return float((inside / sums).sum())

    def share_from_outside(self) -> NDArray[np.float64]:
        """Returns the share over the query rows outside S, float64 [maps]; NaN where there are none."""
        outside = self.length - self.size
        return (self.total - self.from_inside) / outside if outside else np.full(len(self.total), np.nan)

    def baseline(self) -> NDArray[np.float64]:
        """Returns the share of a head that attends evenly, float64 [maps]."""
        length, positions = self.length, self.group.positions
        reachable = np.searchsorted(positions, np.arange(length), side="right")  # tokens of S among keys 0 to i
        causal = (reachable / np.arange(1, length + 1)).mean()
        return np.where(self.surveyed.survey.causal, causal, self.size / length)


def _declare(name: str, formula: str, label: str, **details: Any) -> Measure:
    """Returns the declaration of a measure of the kernel."""
    return Measure(lambda surveyed: surveyed.column(name), formula, label, **details)


def read_measures(result: type) -> dict[str, Measure]:
    """Returns the measures that ``Evidence`` or ``AttentionTo`` declares, by name and in their order."""
    hints = get_type_hints(result, include_extras=True)
    return {
        name: measure
        for name, hint in hints.items()
        for measure in getattr(hint, "__metadata__", ())
        if isinstance(measure, Measure)
    }


def _describe(result: _Class) -> _Class:
    """Adds the measures to the docstring of the class that declares them."""
    for name, measure in read_measures(result).items():
        unit = "" if measure.unit in ("share", "flag") else f", {measure.unit}"
        source = "" if measure.source in ("", GUIDE) else f" ({measure.source})"
        text = f"{name}: {np.dtype(measure.dtype).name}{unit}. {measure.formula}{source}."
        result.__doc__ = f"{result.__doc__}\n" + fill(text, 116, initial_indent=" " * 4, subsequent_indent=" " * 8)
    return result


@_describe
@dataclass(frozen=True)
class AttentionTo:
    """The attention that each head pays to a group of tokens S.

    ``positions`` are those of S in the matrix as sent, int64. All other arrays have the shape of the leading axes and
    values from 0 to 1; every query row weighs the same. The literature calls several of these "attention to [SEP]",
    but they differ.
    """

    positions: NDArray[np.int64]
    share: Annotated[
        NDArray[np.float32],
        Measure(
            lambda sums: sums.total / sums.length,
            "Mean over query rows of the attention summed over S",
            "share",
            source=_CLARK.format("3.2"),
        ),
    ]
    max_token_share: Annotated[
        NDArray[np.float32],
        Measure(
            lambda sums: sums.received.max(axis=1) / sums.length,
            "The largest column mean in S: the mean attention to its most attended token, as computed in the authors' "
            "notebook; equals ``share`` when S is one token",
            "most attended token",
            source=_KOVALEVA.format("4.4"),
        ),
    ]
    baseline: Annotated[
        NDArray[np.float32],
        Measure(
            GroupSums.baseline,
            "``share`` of a head that attends evenly: |S| / L, or for a causal head even over the reachable keys",
            "even",
            source="",
        ),
    ]
    share_from_outside: Annotated[
        NDArray[np.float32],
        Measure(
            GroupSums.share_from_outside,
            "``share`` over the query rows that are not in S; NaN when there are none",
            "from other tokens",
            source="",
            of_heads=False,
        ),
    ]
    share_from_inside: Annotated[
        NDArray[np.float32],
        Measure(
            lambda sums: sums.from_inside / sums.size,
            "``share`` over the query rows in S",
            "from the group itself",
            source="",
            of_heads=False,
        ),
    ]


@_describe
@dataclass(frozen=True)
class Evidence:
    """The elements of the annotation guide, measured from the matrix with fixed thresholds.

    Visible attention is the attention in cells of at least 2.5 / L. All masses are fractions of all attention, 0 to 1.
    Arrays have the shape of the leading axes.
    """

    visible_mass: Annotated[NDArray[np.float32], _declare("visible_mass", "Mass of the visible cells", "visible")]
    stripe_mass: Annotated[
        NDArray[np.float32],
        _declare(
            "stripe_mass",
            "Visible mass in stripes: columns visible in at least half of the rows that can reach them (in a causal "
            "map, of columns that at least a quarter of the rows can reach)",
            "stripes",
        ),
    ]
    line_mass: Annotated[
        NDArray[np.float32],
        _declare(
            "line_mass",
            "Visible mass in lines: runs of at most max(5, L / 10) neighbouring diagonals, each visible in at least "
            "half of its cells outside the stripes; diagonals of fewer than L / 4 such cells are not counted",
            "lines",
        ),
    ]
    stripe_or_line_mass: Annotated[
        NDArray[np.float32],
        _declare(
            "stripe_or_line_mass", "Visible mass in stripes or lines, common cells counted once", "stripes or lines"
        ),
    ]
    segment_mass: Annotated[
        NDArray[np.float32] | None,
        Measure(
            SurveyedMaps.segment_mass,
            "Mean attention of a token to its own segment; None when segments were not declared",
            "own segment",
            source="",
            needs="segments",
        ),
    ]
    row_entropy: Annotated[
        NDArray[np.float32],
        _declare(
            "row_entropy",
            "Mean entropy of the query rows, 0 to ln L, error under 1e-5",
            "row entropy",
            unit="nats",
            source=f"{_CLARK.format('3.3')}; Ghader and Monz 2017",
        ),
    ]
    stripes: Annotated[
        NDArray[np.bool_],
        Measure(
            SurveyedMaps.stripes,
            "Which columns are stripes, leading axes + [L as sent]; False in padding",
            "stripes at",
            unit="flag",
            dtype=np.bool_,
            per_token=True,
            of_heads=False,
        ),
    ]
    line_offset: Annotated[
        NDArray[np.int32],
        _declare(
            "line_offset",
            "Key minus query position of the heaviest diagonal in a line (-1: the previous token); 0 and meaningless "
            "where ``line_mass`` is 0",
            "line offset",
            unit="tokens",
            dtype=np.int32,
            given="line_mass",
            of_heads=False,
        ),
    ]


EVIDENCE: Mapping[str, Measure] = read_measures(Evidence)
GROUP_MEASURES: Mapping[str, Measure] = read_measures(AttentionTo)


def measure_evidence(surveyed: SurveyedMaps) -> Evidence:
    """Measures the elements of maps; the arrays have the maps' leading axes."""
    return Evidence(**_compute(EVIDENCE, surveyed, surveyed.maps.leading))


def measure_attention_to(surveyed: SurveyedMaps, group: TokenGroup) -> AttentionTo:
    """Measures the attention of maps to one group of tokens; the arrays have the maps' leading axes."""
    sums = GroupSums(surveyed, group)
    return AttentionTo(sums.sent, **_compute(GROUP_MEASURES, sums, surveyed.maps.leading))


def _compute(
    measures: Mapping[str, Measure], maps: SurveyedMaps | GroupSums, leading: tuple[int, ...]
) -> dict[str, Any]:
    values = {name: (measure, measure.compute(maps)) for name, measure in measures.items()}
    return {
        name: None if array is None else array.reshape((*leading, *array.shape[1:])).astype(measure.dtype)
        for name, (measure, array) in values.items()
    }
