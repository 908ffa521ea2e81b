"""``attention-serve token add``: access tokens for clients."""

from pathlib import Path
from typing import Annotated

import typer

from attention_patterns_service.command.reports import errors_reported
from attention_patterns_service.server.access import add_token

app = typer.Typer(help="Makes access tokens for clients.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def token() -> None:
    """Makes access tokens for clients."""


@app.command()
def add(
    name: Annotated[
        str,
        typer.Argument(help="Name of the client, as logs show it; its earlier token is replaced.", metavar="NAME"),
    ],
    *,
    tokens: Annotated[
        Path, typer.Option(help="Token file to add to; created if it does not exist.", envvar="ATTENTION_SERVE_TOKENS")
    ],
    calls_per_second: Annotated[int, typer.Option(help="Calls per second that the client may make.", min=1)] = 100,
) -> None:
    """Makes an access token and prints it.

    It is printed once; the file stores only its hash. A server that runs with the file reads it again on SIGHUP.
    Clients send the token as metadata, "authorization: Bearer TOKEN", or pass it to Client(..., token="TOKEN").
    """
    with errors_reported("attention-serve token add"):
        typer.echo(add_token(tokens, name, calls_per_second=calls_per_second))
