"""The memory that a run may use, and the share of it that is left for attention."""

import re
from dataclasses import dataclass

import psutil

from attention_patterns.errors import InvalidSettingsError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_ROWS = 96 * 2**20  # bytes kept for what is not attention: images, rows and Parquet buffers
_LEAST = 2**20  # bytes of attention below which nothing can be labelled


@dataclass(frozen=True)
class Memory:
    """The most memory that the process may use, and what it used before any attention; in bytes, None for no limit."""

    most: int | None
    before: int = 0

    @classmethod
    def from_now(cls, most: int | None) -> "Memory":
        """Limits this process, from what it uses now.

        Raises:
            InvalidSettingsError: The process uses that much already.
        """
        before = resident()
        if most is not None and most - before - _ROWS < _LEAST:
            raise InvalidSettingsError(
                f"--max-memory is {in_words(most)}, expected more than the {in_words(before + _ROWS)} that the "
                "labeller and its net take before any attention is read"
            )
        return cls(most, before)

    def of_a_caller(self, callers: int, *, prepared: int = 0) -> int:
        """Returns the bytes of attention that each of so many callers may hold at once.

        Args:
            callers: Number of threads that share the memory.
            prepared: Bytes that a loaded model takes.
        """
        if self.most is None:
            limit = psutil.virtual_memory().available // 2
        else:
            limit = self.most - self.before - prepared - _ROWS
        return max(limit // callers, 1)


def resident() -> int:
    """Returns the bytes of memory that this process uses now."""
    return int(psutil.Process().memory_info().rss)


def bytes_of(text: str) -> int:
    """Reads a memory size, such as "800M", "1.5 GiB" or "2G", in powers of 1024.

    Raises:
        InvalidSettingsError: The text is not a memory size.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not parts or not float(parts[1]):
        raise InvalidSettingsError(f"{text!r} is not a memory size; expected a number with K, M or G, such as 2G")
    return int(float(parts[1]) * _UNITS[parts[2].upper()])


def in_words(count: float) -> str:
    """Returns a number of bytes as people write it: "1.4 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
