"""The annotators: who labels, which maps wait for them, and where they agree.

A table is that of ``labels.csv``; its columns annotator_a and annotator_b hold the answers of the two blind passes.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the commands read the names of annotators, and need no tables for it
    import pandas as pd


class Annotator(StrEnum):
    """The two blind passes, and the third look at the maps on which they differ."""

    A = "a"
    B = "b"
    THIRD = "third"


def is_disputed(table: "pd.DataFrame") -> "pd.Series[bool]":
    """Returns for each map whether both annotators answered and differ."""
    a, b = table["annotator_a"], table["annotator_b"]
    return (a != "") & (b != "") & (a != b)


def is_certain(table: "pd.DataFrame") -> "pd.Series[bool]":
    """Returns for each map whether both annotators agree and neither gave a second choice."""
    without_second = (table["annotator_a_second"] == "") & (table["annotator_b_second"] == "")
    return (table["annotator_a"] == table["annotator_b"]) & without_second


def is_waiting(table: "pd.DataFrame", annotator: Annotator, *, revisable: Collection[str] = ()) -> "pd.Series[bool]":
    """Returns for each map whether it is shown to an annotator: ``table`` holds no answer of theirs.

    Args:
        table: The maps.
        annotator: Who labels; the third look is at disputed maps only.
        revisable: Names of further maps that are shown, whose answers the annotator may still change.
    """
    third = annotator is Annotator.THIRD
    shown = (table["pattern" if third else f"annotator_{annotator}"] == "") | table["map_id"].isin(list(revisable))
    return shown & is_disputed(table) if third else shown
