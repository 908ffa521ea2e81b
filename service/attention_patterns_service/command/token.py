"""``attention-serve token add``: new tokens for callers."""

from pathlib import Path
from typing import Annotated

import typer

from attention_patterns_service.command.reports import errors_reported
from attention_patterns_service.server.access import add_token

app = typer.Typer(help="Makes the tokens that callers must show.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def token() -> None:
    """Makes the tokens that callers must show."""


@app.command()
def add(
    name: Annotated[
        str,
        typer.Argument(help="Name of the caller, as logs show it; a token of that name is replaced.", metavar="NAME"),
    ],
    *,
    tokens: Annotated[
        Path, typer.Option(help="Token file to add to; made where it does not exist.", envvar="ATTENTION_SERVE_TOKENS")
    ],
    calls_per_second: Annotated[int, typer.Option(help="Calls per second that the caller may make.", min=1)] = 100,
) -> None:
    """Adds a token to a file and prints it, once: the file keeps its hash alone.

    A server that runs with the file reads it again on SIGHUP.
    """
    with errors_reported("attention-serve token add"):
        typer.echo(add_token(tokens, name, calls_per_second=calls_per_second))
