"""Asks a server whether it serves, for probes: ``python -m attention_patterns_service.command.health HOST:PORT [--tls-ca FILE]``.

The exit code is 0 where it does. Health is told without a token.
"""

from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVICE = "attention_patterns.v1.AttentionPatternService"


def main(
    endpoint: Annotated[str, typer.Argument(help="host:port")],
    tls_ca: Annotated[Path | None, typer.Option(help="Who signed the server's certificate, PEM.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="A certificate to show, where one is asked for.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=0.1)] = 3.0,
) -> None:
    """Prints what the server says of itself; exit code 0 where it is SERVING."""
    read = [None if path is None else path.read_bytes() for path in (tls_ca, tls_key, tls_cert)]
    channel = (
        grpc.secure_channel(endpoint, grpc.ssl_channel_credentials(*read))
        if tls_ca
        else grpc.insecure_channel(endpoint)
    )
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=_SERVICE), timeout=timeout
            )
        except grpc.RpcError as error:
            typer.echo(f"{endpoint}: {error.code().name} {error.details()}", err=True)
            raise typer.Exit(1) from None
    typer.echo(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    raise typer.Exit(answer.status != health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    typer.run(main)
