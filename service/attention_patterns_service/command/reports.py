"""Errors of a command as sentences on standard error and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from attention_patterns.errors import AttentionPatternsError
from attention_patterns.programs.foreign_text import print_error


@contextmanager
def errors_reported(command: str) -> Iterator[None]:
    """Ends ``command`` with exit code 1 and a line per sentence of an error of ours or of the system raised inside.

    Raises:
        typer.Exit: Such an error was raised.
    """
    try:
        yield
    except (AttentionPatternsError, OSError) as error:  # OSError: a full disk, a folder without permission
        for sentence in str(error).splitlines():
            print_error(f"{command}: {sentence}")
        raise typer.Exit(1) from error
