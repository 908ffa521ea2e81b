"""Files from outside: read only where they are regular and of a bearable size, their values only where they fit."""

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from reprlib import Repr
from typing import Any, Self, TypeGuard

_INSTANT = re.compile("[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z")
_SHA256 = re.compile("[0-9a-f]{64}")
_SHORT = Repr()  # whose depth is bounded: a deeply nested value would end in a RecursionError
_SHORT.maxstring = 80


def read_regular_file(path: Path, *, most: int) -> bytes:
    """Returns the content of a regular file of at most ``most`` bytes; a pipe or a device would hold the reader up.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no regular file, or larger.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} has {max(status.st_size, len(content))} bytes, expected at most {most}")
    return content


@dataclass(frozen=True)
class JsonObject:
    """A JSON object from outside, whose values are handed out only where they are of the kind that is asked for.

    Each method raises ValueError, which names the key, the value and what was expected.
    """

    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, *, most: int) -> Self:
        """Reads a file of at most ``most`` bytes.

        Raises:
            OSError: The file cannot be read.
            ValueError: It does not hold a JSON object.
        """
        try:
            return cls.of(json.loads(read_regular_file(path, most=most).decode()))
        except RecursionError as error:
            raise ValueError(f"{path.name} is nested too deeply") from error
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error

    @classmethod
    def of(cls, value: object) -> Self:
        """Returns a value as an object."""
        if not isinstance(value, dict):
            raise ValueError(f"it is {_SHORT.repr(value)}, expected an object")
        return cls(value)

    def objects(self, key: str) -> list[Self]:
        """Returns a list of objects."""
        values = self.values.get(key)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self._unfit(key, "a list of objects")
        return [self.of(value) for value in values]

    def equal(self, key: str, expected: object) -> None:
        """Refuses any other value."""
        if self.values.get(key) != expected:
            raise self._unfit(key, repr(expected))

    def mapping(self, key: str, *, missing: Mapping[str, Any] | None = None) -> Self:
        """Returns an object with printable keys, that of ``missing`` where there is none."""
        value = self.values.get(key, missing)
        if not isinstance(value, Mapping) or not "".join(value).isprintable():
            raise self._unfit(key, "an object with printable keys")
        return type(self)(value)

    def text(self, key: str, *, longest: int) -> str:
        """Returns a text of 1 to ``longest`` printable characters."""
        value = self.values.get(key)
        if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
            raise self._unfit(key, f"1 to {longest} printable characters")
        return value

    def sha256(self, key: str) -> str:
        """Returns a SHA-256, hexadecimal."""
        value = self.values.get(key)
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise self._unfit(key, "64 digits from 0 to f")
        return value

    def integer(self, key: str, *, least: int, most: int) -> int:
        """Returns an integer from ``least`` to ``most``."""
        value = self.values.get(key)
        if type(value) is not int or not least <= value <= most:
            raise self._unfit(key, f"an integer from {least} to {most}")
        return value

    def instant(self, key: str) -> datetime | None:
        """Returns a time in UTC such as 2027-01-31T00:00:00Z; None where there is no such key."""
        value = self.values.get(key)
        try:
            if key in self.values and not (isinstance(value, str) and _INSTANT.fullmatch(value)):
                raise ValueError
            return None if value is None else datetime.fromisoformat(value)
        except ValueError:
            raise self._unfit(key, "a time in UTC such as 2027-01-31T00:00:00Z") from None

    def number(self, key: str, *, least: float = -math.inf, most: float = math.inf) -> float:
        """Returns a finite number from ``least`` to ``most``."""
        value = self.values.get(key)
        if not _is_finite(value) or not least <= value <= most:
            raise self._unfit(key, f"a number from {least:g} to {most:g}" if most < math.inf else "a finite number")
        return float(value)

    def numbers(self, key: str, *, count: int) -> tuple[float, ...]:
        """Returns a list of ``count`` finite numbers."""
        values = self.values.get(key)
        if not isinstance(values, list) or len(values) != count or not all(map(_is_finite, values)):
            raise self._unfit(key, f"{count} finite numbers")
        return tuple(map(float, values))

    def _unfit(self, key: str, expected: str) -> ValueError:
        given = f"{key} is {_SHORT.repr(self.values[key])}" if key in self.values else f"{key} is missing"
        return ValueError(f"{given}, expected {expected}")


def _is_finite(value: Any) -> TypeGuard[int | float]:
    return type(value) in (int, float) and abs(value) < 1e300  # an integer over that is no float
