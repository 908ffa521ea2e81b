"""``attention-label``: the command of the labeller.

classifier_choice.py  the classifier that a run uses: the net in this process, or a server
cli.py                commands, options and exit codes
printing.py           results, estimates and comparisons in the terminal
progress.py           the progress of a run on standard error: a bar, or JSON lines
request.py            the inputs that a run is asked to label, opened as a source
"""

import sys

from attention_patterns.errors import MissingExtraError
from attention_patterns.programs.extras import name_missing_extra
from attention_patterns.programs.foreign_text import print_error


def main() -> None:
    """Runs ``attention-label``; without its extra it prints what to install and exits with code 2."""
    try:
        with name_missing_extra("label", needed_by="attention-label"):
            from typer._click.exceptions import ClickException  # noqa: PLC0415  typer exports only some of its kinds

            from attention_patterns.labelling.command.cli import app  # noqa: PLC0415  loads packages of the extra
            from attention_patterns.programs.command_line import end_with_usage_error  # noqa: PLC0415  needs typer
    except MissingExtraError as error:
        print_error(f"error: {error}")
        sys.exit(2)
    try:
        sys.exit(app(standalone_mode=False))
    except ClickException as error:
        end_with_usage_error(error)
