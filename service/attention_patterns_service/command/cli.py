"""``attention-serve``: the server as a process."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from attention_patterns import AttentionPatternsError
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.limits import MIB, Limits

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_DEFAULT = Limits()
_TOKENS = "Tokens that callers must show, JSON (python -m attention_patterns_service.server.access makes them)."


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option(help="Interface to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind; 0 takes a free one.", min=0, max=65535)] = 50051,
    model_dir: Annotated[Path | None, typer.Option(help="Model bundle; the bundled model by default.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the port and the cores.", min=1)] = 1,
    grace: Annotated[float, typer.Option(help="Seconds that calls in flight get to finish on SIGTERM.", min=0)] = 30,
    metrics_host: Annotated[str, typer.Option(help="Interface of the metrics.")] = "127.0.0.1",
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the metrics, for Prometheus; none by default.", min=1, max=65535)
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM; read again when renewed.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Who signs the certificates that clients must show, PEM.")
    ] = None,
    tokens: Annotated[Path | None, typer.Option(help=_TOKENS)] = None,
    reflection: Annotated[bool, typer.Option("--reflection", help="Describe the methods to clients.")] = False,
    max_message_mib: Annotated[
        int, typer.Option(help="Largest message taken, MiB.", min=1, max=2047)
    ] = _DEFAULT.message_bytes // MIB,
    max_maps: Annotated[int, typer.Option(help="Most maps in a request.", min=1)] = _DEFAULT.maps,
    max_length: Annotated[int, typer.Option(help="Most tokens of a map.", min=1)] = _DEFAULT.length,
    max_calls: Annotated[int, typer.Option(help="Calls under way; an open stream is one.", min=1)] = _DEFAULT.calls,
    max_bytes_mib: Annotated[int, typer.Option(help="Messages under way, together, MiB.", min=1)] = _DEFAULT.bytes
    // MIB,
    max_seconds: Annotated[float, typer.Option(help="Longest that a request may take.", min=0)] = _DEFAULT.seconds,
    max_idle_seconds: Annotated[
        float, typer.Option(help="Longest that an open stream may stay silent.", min=0)
    ] = _DEFAULT.idle_seconds,
    log_level: Annotated[str, typer.Option(help="debug, info (a line a call), warning or error.")] = "info",
    check: Annotated[bool, typer.Option("--check", help="Print the configuration, test it, and end.")] = False,
    as_worker: Annotated[bool, typer.Option("--as-worker", hidden=True)] = False,
) -> None:
    """Serves the attention pattern classifier over gRPC until SIGTERM or SIGINT; SIGHUP reads model and tokens again.

    Each option may be set in the environment as well: ATTENTION_SERVE_PORT and so on.
    """
    try:
        settings = Settings(
            host=host,
            port=port,
            model_dir=model_dir,
            workers=workers,
            grace=grace,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            tokens=tokens,
            reflection=reflection,
            log_level=log_level,
            limits=Limits(
                message_bytes=max_message_mib * MIB,
                maps=max_maps,
                length=max_length,
                calls=max_calls,
                bytes=max_bytes_mib * MIB,
                seconds=max_seconds,
                idle_seconds=max_idle_seconds,
            ),
        )
        if check:
            from attention_patterns_service.command.check import check_settings  # noqa: PLC0415  what serves needs no tables

            raise typer.Exit(0 if check_settings(settings) else 1)
        if workers > 1 and not as_worker:
            from attention_patterns_service.command.workers import serve_by_workers  # noqa: PLC0415  they serve, this process only watches

            serve_by_workers(settings, sys.argv[1:], on_ready=lambda endpoint, _: _tell(endpoint))
        else:
            from attention_patterns_service.command.process import serve as serve_here  # noqa: PLC0415  loads the classifier

            serve_here(settings, shared_port=as_worker, on_ready=lambda server: _tell(server.endpoint))
    except AttentionPatternsError as error:
        typer.echo(f"attention-serve: {error}", err=True)
        raise typer.Exit(1) from error


def _tell(endpoint: str) -> None:
    """A caller reads the endpoint from the end of the line."""
    typer.echo(f"serving attention-patterns {version('attention-patterns')} on {endpoint}")


def main() -> None:
    """Runs the command."""
    app(auto_envvar_prefix="ATTENTION_SERVE")


if __name__ == "__main__":
    main()
