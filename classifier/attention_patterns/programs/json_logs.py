"""Logs as one JSON object per line, each of a bounded length and without the content of what is worked on."""

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from attention_patterns.programs.foreign_text import shorten

_LONGEST = 4000  # characters of a text in a line
_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def json_handler() -> logging.Handler:
    """Returns a handler that writes each record on standard error as one JSON object."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_formatter())
    return handler


def json_formatter() -> logging.Formatter:
    """Returns a formatter that turns a record into one JSON object: time, "event" (the message) and extra fields."""
    return _Formatter("%(message)s", timestamp=True, rename_fields={"message": "event"})


class _Formatter(JsonFormatter):
    """JSON escapes whatever a terminal would act upon; here texts are shortened, and exceptions do not speak."""

    def process_log_record(self, log_record: dict[str, Any]) -> dict[str, Any]:
        return {name: _shorten(value) for name, value in log_record.items()}

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802  the name that logging gives it
        """Returns where an exception was raised and its kind, without its message, which may quote somebody's text."""
        error, parts = ei[1], list[str]()
        while error is not None:
            parts.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n\n".join(reversed(parts))


def _shorten(value: Any) -> Any:
    if isinstance(value, list):
        return [_shorten(inner) for inner in value]
    return shorten(value, _LONGEST) if isinstance(value, str) else value
