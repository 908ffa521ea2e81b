"""Failures of inputs as sentences for people: those alike are one sentence with their count."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

_MOST = 3  # sentences
_NUMBER = re.compile(r"\d+([.,]\d+)*")


@dataclass
class _Alike:
    """The first of failures that are alike, and their count."""

    error: str
    message: str
    count: int = 0
    same: bool = True

    def add(self, message: str) -> None:
        self.count += 1
        self.same &= message == self.message

    @property
    def sentence(self) -> str:
        example = "" if self.same else ", such as"
        return f"{self.count:,} x {self.error}{example}: {self.message}"


@dataclass
class FailureTally:
    """The failures of a run so far, alike where only the input's id and numbers differ."""

    _kinds: dict[tuple[str, str], _Alike] = field(default_factory=dict)

    def add(self, errors: Iterable[Mapping[str, str | None]]) -> None:
        """Takes failures as lines of the errors file."""
        for row in errors:
            error, message, input_id = (str(row[name]) for name in ("error", "message", "input_id"))
            key = error, _NUMBER.sub("0", message.replace(input_id, ""))
            self._kinds.setdefault(key, _Alike(error, message)).add(message)

    @property
    def sentences(self) -> list[str]:
        """The first of them that are not alike, each with its count."""
        more = len(self._kinds) - _MOST
        rest = [f"and {more:,} other message{'s' * (more > 1)}"] if more > 0 else []
        return [alike.sentence for alike in islice(self._kinds.values(), _MOST)] + rest


def failures_of(errors: Iterable[Mapping[str, str | None]]) -> FailureTally:
    """Returns the failures that lines of the errors file record."""
    failures = FailureTally()
    failures.add(errors)
    return failures
