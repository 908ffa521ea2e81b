"""Logs as one JSON object per line, on standard error."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def json_handler() -> logging.Handler:
    """Returns a handler that writes each record as one JSON object: time, "event" (the message) and extra fields."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter("%(message)s", timestamp=True, rename_fields={"message": "event"}))
    return handler
