"""The end of a command whose arguments are wrong: whatever stands in them, the message is safe to print."""

import sys
from typing import NoReturn

from typer._click.exceptions import ClickException

from attention_patterns.programs.foreign_text import visible


def end_with_usage_error(error: ClickException) -> NoReturn:
    """Prints what is wrong with the arguments of a command, and ends the process with the exit code for it."""
    error.message = visible(error.message)
    error.show()
    sys.exit(error.exit_code)
