"""How much memory a run may use, and what of it is left for attention."""

import re
from dataclasses import dataclass

import psutil

from attention_patterns.errors import InvalidSettingsError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_ROWS = 96 * 2**20  # kept for what is not attention: images, rows and Parquet buffers
_LEAST = 2**20  # of attention, below which nothing can be labelled


@dataclass(frozen=True)
class Memory:
    """The most that the process may use, and what it used before any attention was there; bytes, None for no limit."""

    most: int | None
    before: int = 0

    @classmethod
    def from_now(cls, most: int | None) -> "Memory":
        """A limit on this process, from what it uses now.

        Raises:
            InvalidSettingsError: the process uses that much already.
        """
        before = resident()
        if most is not None and most - before - _ROWS < _LEAST:
            raise InvalidSettingsError(
                f"--max-memory is {in_words(most)}, and the labeller and its net take {in_words(before + _ROWS)} "
                "before any attention is read; expected more than that"
            )
        return cls(most, before)

    def of_a_caller(self, callers: int, *, prepared: int = 0) -> int:
        """Bytes of attention that each of so many callers may hold at once, beside the ``prepared`` ones of a model."""
        if self.most is None:
            limit = psutil.virtual_memory().available // 2
        else:
            limit = self.most - self.before - prepared - _ROWS
        return max(limit // callers, 1)


def resident() -> int:
    """Bytes of memory that this process uses now."""
    return int(psutil.Process().memory_info().rss)


def bytes_of(text: str) -> int:
    """Reads "800M", "1.5 GiB" or "2G"; units are powers of 1024.

    Raises:
        InvalidSettingsError: it is no amount of memory.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise InvalidSettingsError(f"{text!r} is no amount of memory, expected for example 800M or 2G")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def in_words(count: float) -> str:
    """Bytes as people write them: "1.4 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
