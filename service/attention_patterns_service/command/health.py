"""``attention-serve health HOST:PORT``: asks a server whether it serves, for probes.

Imports nothing of the classifier, so that a probe costs a busy machine little.
"""

from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVICE = "attention_patterns.v1.AttentionPatternService"
_LONGEST = 1000  # characters of a message

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def health(
    endpoint: Annotated[str, typer.Argument(help="Address of the server.", metavar="HOST:PORT")],
    *,
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="Authority that signed the server's certificate, a PEM file (default: no TLS)."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate for a server that asks clients for one, a PEM file.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of --tls-cert, a PEM file.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.1)] = 3.0,
) -> None:
    """Prints the state of a server; exits with 0 if SERVING, else 1.

    No access token is needed.
    """
    with _channel(endpoint, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=_SERVICE), timeout=timeout
            )
        except grpc.RpcError as error:
            raise _fail_with(f"{endpoint} gave no state: {error.code().name}, {error.details()}") from None
    typer.echo(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    raise typer.Exit(answer.status != health_pb2.HealthCheckResponse.SERVING)


def _channel(endpoint: str, *, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None) -> grpc.Channel:
    if tls_ca is None:
        if tls_cert or tls_key:
            raise _fail_with("--tls-cert and --tls-key are given without --tls-ca; expected all three")
        return grpc.insecure_channel(endpoint)
    try:
        files = [None if path is None else path.read_bytes() for path in (tls_ca, tls_key, tls_cert)]
    except OSError as error:
        raise _fail_with(f"certificate file {error.filename} cannot be read: {error.strerror}") from None
    return grpc.secure_channel(endpoint, grpc.ssl_channel_credentials(*files))


def _fail_with(message: str) -> typer.Exit:
    # As attention_patterns.programs.foreign_text does, whose import would take a second of each probe that fails.
    safe = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message[:_LONGEST])
    typer.echo(f"attention-serve health: {safe}", err=True)
    return typer.Exit(1)
