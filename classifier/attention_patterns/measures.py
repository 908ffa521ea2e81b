"""Measures of a head, independent of the net."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import AttentionMaps, Declaration, TokenGroup, decode
from attention_patterns.rendering import Survey


@dataclass(frozen=True)
class AttentionTo:
    """How much attention each head pays to a group of tokens S.

    All arrays have the shape of the leading axes, float32, values 0 to 1; every query row weighs the same. The
    literature calls several of these "attention to [SEP]"; they differ.

    Attributes:
        positions: S, positions in the matrix as sent, int64.
        share: mean over query rows of the attention summed over S (Clark et al. 2019, section 3.2).
        max_token_share: the largest column mean in S: the mean attention to its most attended token (Kovaleva et al.
            2019, section 4.4, as computed in the authors' notebook). Equals ``share`` when S is one token.
        baseline: ``share`` of a head that attends evenly: |S| / L, or for a causal head even over the reachable keys.
        share_from_outside: ``share`` over the query rows that are not in S; NaN when there are none.
        share_from_inside: ``share`` over the query rows in S.
    """

    positions: NDArray[np.int64]
    share: NDArray[np.float32]
    max_token_share: NDArray[np.float32]
    baseline: NDArray[np.float32]
    share_from_outside: NDArray[np.float32]
    share_from_inside: NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """What the annotation guide's elements hold, measured from the matrix with fixed thresholds.

    Visible attention is the attention in cells of at least 2.5 / L. All masses are fractions of all attention, 0 to 1.
    Arrays have the shape of the leading axes, and float32 unless said otherwise.

    Attributes:
        visible_mass: mass of the visible cells.
        stripe_mass: visible mass in stripes: columns visible in at least half of the rows that can reach them (in a
            causal map, of columns that at least a quarter of the rows can reach).
        stripes: which columns are stripes, bool, leading axes + [L as sent]; False in padding.
        line_mass: visible mass in lines: runs of at most max(5, L / 10) neighbouring diagonals, each visible in at
            least half of its cells outside the stripes; diagonals of fewer than L / 4 such cells are not counted.
        line_offset: key minus query position of the heaviest diagonal in a line (-1: the previous token), int32; 0 and
            meaningless where ``line_mass`` is 0.
        stripe_or_line_mass: visible mass in stripes or lines, common cells counted once.
        segment_mass: mean attention of a token to its own segment; None when segments were not declared.
        row_entropy: mean entropy of the query rows, nats, 0 to ln L, error under 1e-5 (Clark et al. 2019, section 3.3;
            Ghader and Monz 2017).
    """

    visible_mass: NDArray[np.float32]
    stripe_mass: NDArray[np.float32]
    stripes: NDArray[np.bool_]
    line_mass: NDArray[np.float32]
    line_offset: NDArray[np.int32]
    stripe_or_line_mass: NDArray[np.float32]
    segment_mass: NDArray[np.float32] | None
    row_entropy: NDArray[np.float32]


def evidence(maps: AttentionMaps, declaration: Declaration, survey: Survey) -> Evidence:
    """Names the kernel's measures and gives them the shape of the leading axes."""
    visible, stripe, line, either, segment, entropy, offset = (
        survey.measures[:, k].reshape(maps.leading) for k in range(survey.measures.shape[1])
    )
    stripes = np.zeros((len(survey.stripes), maps.length), np.bool_)
    stripes[:, declaration.kept] = survey.stripes
    return Evidence(
        visible_mass=visible.astype(np.float32),
        stripe_mass=stripe.astype(np.float32),
        stripes=stripes.reshape(*maps.leading, maps.length),
        line_mass=line.astype(np.float32),
        line_offset=offset.astype(np.int32),
        stripe_or_line_mass=either.astype(np.float32),
        segment_mass=None if declaration.segments is None else segment.astype(np.float32),
        row_entropy=entropy.astype(np.float32),
    )


def attention_to(maps: AttentionMaps, declaration: Declaration, survey: Survey, group: TokenGroup) -> AttentionTo:
    """Measures the attention to one group of tokens."""
    length, positions = declaration.length, group.positions
    sent = declaration.kept[positions]
    received = survey.column_sums[:, positions]  # [maps, |S|]
    total = received.sum(axis=1)
    from_inside = decode(maps.values[:, sent[:, None], sent[None, :]], maps.data_type).sum(axis=(1, 2))
    outside = length - len(positions)
    from_outside = (total - from_inside) / outside if outside else np.full(len(total), np.nan)
    reachable = np.searchsorted(positions, np.arange(length), side="right")  # |S| among keys 0 to i
    causal_baseline = (reachable / np.arange(1, length + 1)).mean()

    def shaped(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return values.reshape(maps.leading).astype(np.float32)

    return AttentionTo(
        positions=sent,
        share=shaped(total / length),
        max_token_share=shaped(received.max(axis=1) / length),
        baseline=shaped(np.where(survey.causal, causal_baseline, len(positions) / length)),
        share_from_outside=shaped(from_outside),
        share_from_inside=shaped(from_inside / len(positions)),
    )
