"""``attention-serve token``: access tokens for clients."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from attention_patterns.programs.terminal import show
from attention_patterns_service.command.reports import errors_reported
from attention_patterns_service.server.token_file import (
    MOST_CALLS_PER_SECOND,
    Token,
    add_token,
    read_tokens,
    remove_tokens,
    write_instant,
)

app = typer.Typer(help="Makes, lists and removes access tokens.", no_args_is_help=True, rich_markup_mode=None)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_HASH_SHOWN = 8  # digits, as the log shows of a token that is refused
_File = Annotated[
    Path, typer.Option("--tokens", help="Token file.", envvar="ATTENTION_SERVE_TOKENS", show_default=False)
]
_Name = Annotated[str, typer.Argument(help="Name of the client, as logs show it.", metavar="NAME")]


@app.callback()
def token() -> None:
    """Makes, lists and removes access tokens."""


@app.command()
def add(
    name: _Name,
    *,
    tokens: _File,
    calls_per_second: Annotated[
        int | None,
        typer.Option(
            help="Calls per second that the client may make.",
            min=1,
            max=MOST_CALLS_PER_SECOND,
            show_default="as for its earlier token, else 100",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            help="Time until which the token is good: 30d, 12h, 90m, or a date such as 2027-01-31 (0:00 UTC).",
            metavar="TIME",
            show_default="never",
        ),
    ] = None,
    overlap: Annotated[
        str | None,
        typer.Option(
            help="Time for which the client's earlier tokens stay good, such as 24h.",
            metavar="TIME",
            show_default="none: they are replaced",
        ),
    ] = None,
) -> None:
    """Makes an access token and prints it.

    It is printed once; the file stores only its hash. A server that runs with the file reads it again on SIGHUP.
    Clients send the token as metadata, "authorization: Bearer TOKEN", or pass it to Client(..., token="TOKEN").
    """
    with errors_reported("attention-serve token add"):
        typer.echo(
            add_token(
                tokens,
                name,
                calls_per_second=calls_per_second,
                expires=None if expires is None else _read_end(expires),
                overlap=timedelta(0) if overlap is None else _read_duration(overlap, "--overlap"),
            )
        )


@app.command()
def remove(name: _Name, *, tokens: _File) -> None:
    """Removes all tokens of a client.

    A server that runs with the file refuses them from the next SIGHUP on.
    """
    with errors_reported("attention-serve token remove"):
        count = remove_tokens(tokens, name)
        show(f"removed {count} token{'' if count == 1 else 's'} of {name}")


@app.command("list")
def list_(*, tokens: _File) -> None:
    """Lists the tokens of a file.

    Shows the client, its calls per second, the end of the token and the first digits of its hash.
    """
    table = Table("name", "calls per second", "expires", "sha256", box=None, pad_edge=False, header_style="dim")
    with errors_reported("attention-serve token list"):
        for entry in read_tokens(tokens):
            table.add_row(entry.name, str(entry.calls_per_second), _describe_end(entry), entry.sha256[:_HASH_SHOWN])
        show(table)


def _describe_end(entry: Token) -> str:
    if entry.expires is None:
        return "never"
    return f"{write_instant(entry.expires)}{', expired' if entry.is_expired() else ''}"


def _read_end(text: str) -> datetime:
    now = datetime.now(UTC)
    try:
        end = datetime.fromisoformat(text)
    except ValueError:
        return now + _read_duration(text, "--expires", or_else=" or a date such as 2027-01-31")
    end = (end if end.tzinfo else end.replace(tzinfo=UTC)).astimezone(UTC)
    if end <= now:
        raise typer.BadParameter(f"--expires is {text}, which is over; expected a time to come, UTC")
    return end


def _read_duration(text: str, option: str, *, or_else: str = "") -> timedelta:
    match = re.fullmatch("([1-9][0-9]{0,4})([mhd])", text)
    if match is None:
        expected = f"minutes, hours or days such as 90m, 24h or 30d{or_else}"
        raise typer.BadParameter(f"{option} is {text!r}, expected {expected}")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
