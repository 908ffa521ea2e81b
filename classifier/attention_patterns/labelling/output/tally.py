"""Sentences on inputs, counted: those that differ in numbers and names only are alike, and the first speaks for all."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_OWN = re.compile(r"'[^']*'|\"[^\"]*\"|\S*\d\S*")  # of one input: numbers, words with digits, quoted names


@dataclass(frozen=True)
class Line:
    """An error or a warning of some inputs: their number, its name, and the sentence of the first of them."""

    count: int
    name: str
    example: str


class Tally:
    """Counts of sentences that are alike, in order of the first."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._examples: dict[tuple[str, str], str] = {}

    def add(self, name: str, input_id: str, sentence: str) -> None:
        """Counts a sentence on an input."""
        key = name, _OWN.sub("#", sentence.replace(input_id, "#"))
        self._counts[key] = self._counts.get(key, 0) + 1
        if key not in self._examples:
            self._examples[key] = sentence if input_id in sentence else f"{input_id}: {sentence}"

    def add_errors(self, errors: Iterable[Mapping[str, str | None]]) -> None:
        """Counts failures, given as lines of the errors file."""
        for row in errors:
            self.add(str(row["error"]), str(row["input_id"]), str(row["message"]))

    @property
    def lines(self) -> list[Line]:
        """One line for all sentences that are alike."""
        return [Line(count, key[0], self._examples[key]) for key, count in self._counts.items()]
