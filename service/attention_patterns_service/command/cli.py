"""The command line of ``attention-serve``: serving, with one option per setting, and the sub-commands."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from attention_patterns_service.command import health, token, triton
from attention_patterns_service.command.handshake import Supervisor
from attention_patterns_service.command.process import serve as serve_here
from attention_patterns_service.command.reports import errors_reported
from attention_patterns_service.command.settings import DEATH_SECONDS, LogLevel, Settings
from attention_patterns_service.command.workers import serve_by_workers
from attention_patterns_service.limits import MIB, Limits, connections_by_open_files

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(token.app, name="token")
app.command("health")(health.health)
app.command("triton")(triton.triton)

_DEFAULT, _LIMITS = Settings(), Limits()


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    *,
    host: Annotated[str, typer.Option(help="Interface to bind, or unix:PATH for a socket file.")] = (_DEFAULT.host),
    port: Annotated[int, typer.Option(help="Port to bind; 0 takes a free one.", min=0, max=65535)] = _DEFAULT.port,
    model_dir: Annotated[Path | None, typer.Option(help="Folder of the model bundle (default: the bundled one).")] = (
        _DEFAULT.model_dir
    ),
    load_seconds: Annotated[
        float,
        typer.Option(help="Seconds in which a model bundle that is read again must be loaded and tried.", min=1),
    ] = _DEFAULT.load_seconds,
    workers: Annotated[
        int, typer.Option(help="Number of processes, which share the port and the cores.", min=1)
    ] = _DEFAULT.workers,
    max_deaths: Annotated[
        int,
        typer.Option(
            help=f"Deaths of workers within {DEATH_SECONDS:g} seconds at which the server gives up; until then each "
            "dead worker is replaced.",
            min=1,
        ),
    ] = _DEFAULT.max_deaths,
    grace: Annotated[
        float, typer.Option(help="Seconds that calls in flight get to finish after SIGTERM.", min=0)
    ] = _DEFAULT.grace,
    health_port: Annotated[
        int | None,
        typer.Option(
            help="Port that answers health checks alone, without TLS, for probes that speak none (default: no such "
            "port).",
            min=1,
            max=65535,
        ),
    ] = _DEFAULT.health_port,
    metrics_host: Annotated[str, typer.Option(help="Interface of the metrics page.")] = _DEFAULT.metrics_host,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Port of the metrics page, for Prometheus (default: no page).", min=1, max=65535),
    ] = _DEFAULT.metrics_port,
    metrics_tls: Annotated[
        bool, typer.Option("--metrics-tls", help="Encrypt the metrics page by --tls-cert and --tls-key.")
    ] = _DEFAULT.metrics_tls,
    metrics_tokens: Annotated[
        Path | None,
        typer.Option(
            help="Access tokens of the metrics page, a JSON file made by 'attention-serve token add' "
            "(default: readers need no access token)."
        ),
    ] = _DEFAULT.metrics_tokens,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Certificate chain of the server, a PEM file, read again when renewed (default: no TLS)."),
    ] = _DEFAULT.tls_cert,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of --tls-cert, a PEM file.")] = _DEFAULT.tls_key,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Certificate authority that must have signed the clients' certificates, a PEM file (default: clients "
            "need no certificate)."
        ),
    ] = _DEFAULT.tls_client_ca,
    tls_client_names: Annotated[
        list[str] | None,
        typer.Option(
            "--tls-client-name",
            help="Name, in a client's certificate, that is let in; may be given several times (default: all that "
            "--tls-client-ca has signed).",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="Access tokens, a JSON file made by 'attention-serve token add', of which clients must send one "
            "(default: clients need no access token)."
        ),
    ] = _DEFAULT.tokens,
    reflection: Annotated[
        bool, typer.Option("--reflection", help="Describe the methods to clients that ask (gRPC server reflection).")
    ] = _DEFAULT.reflection,
    max_message_mib: Annotated[
        int, typer.Option(help="Size of the largest message accepted, MiB.", min=1, max=2047)
    ] = (_LIMITS.message_bytes // MIB),
    max_maps: Annotated[int, typer.Option(help="Number of maps in the largest request.", min=1)] = _LIMITS.maps,
    max_length: Annotated[int, typer.Option(help="Number of tokens of the longest map.", min=1)] = _LIMITS.length,
    max_calls: Annotated[
        int, typer.Option(help="Number of calls in flight, an open stream being one; more are refused at once.", min=1)
    ] = _LIMITS.calls,
    max_token_calls: Annotated[
        int, typer.Option(help="Number of these calls that callers with one access token may have.", min=1)
    ] = _LIMITS.token_calls,
    max_bytes_mib: Annotated[
        int,
        typer.Option(
            help="Memory of the messages of all calls in flight, their work and answers, MiB; more are refused.", min=1
        ),
    ] = _LIMITS.bytes // MIB,
    max_seconds: Annotated[
        float, typer.Option(help="Seconds after which a request is cancelled.", min=0)
    ] = _LIMITS.seconds,
    max_idle_seconds: Annotated[
        float, typer.Option(help="Seconds without a good request after which an open stream is ended.", min=0)
    ] = _LIMITS.idle_seconds,
    max_stream_seconds: Annotated[
        float, typer.Option(help="Seconds after which an open stream is ended.", min=0)
    ] = _LIMITS.stream_seconds,
    max_connections: Annotated[
        int | None,
        typer.Option(
            help="Number of connections; more are closed at once (default: what the limit of open files allows).", min=1
        ),
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option(help="Least severe level to log; info logs one line per call.", case_sensitive=False)
    ] = LogLevel.INFO,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Print the configuration, try all that a server with it needs, test one, and exit."
        ),
    ] = False,
) -> None:
    """Serves the attention pattern classifier over gRPC until SIGTERM or SIGINT.

    SIGHUP makes the server read the model bundle and the access tokens again. Each option has an environment variable:
    ATTENTION_SERVE_PORT for --port, and so on. The commands below serve nothing and take none of these options.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    with errors_reported("attention-serve"):
        settings = Settings(
            host=host,
            port=port,
            model_dir=model_dir,
            load_seconds=load_seconds,
            workers=workers,
            max_deaths=max_deaths,
            grace=grace,
            health_port=health_port,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            metrics_tls=metrics_tls,
            metrics_tokens=metrics_tokens,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            tls_client_names=tuple(tls_client_names or ()),
            tokens=tokens,
            reflection=reflection,
            log_level=log_level.value,
            limits=Limits(
                message_bytes=max_message_mib * MIB,
                maps=max_maps,
                length=max_length,
                calls=max_calls,
                token_calls=max_token_calls,
                bytes=max_bytes_mib * MIB,
                seconds=max_seconds,
                idle_seconds=max_idle_seconds,
                stream_seconds=max_stream_seconds,
                connections=max_connections or connections_by_open_files(),
            ),
        )
        if check:
            from attention_patterns_service.command.check import check_settings  # noqa: PLC0415  tables, for --check only

            raise typer.Exit(0 if check_settings(settings) else 1)
        _serve(settings)


def _refuse_options(context: typer.Context) -> None:
    """Refuses options of serving in front of a sub-command, which would be without effect there."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            name = parameter.opts[0]
            raise typer.BadParameter(
                f"{name} is an option of serving, without effect on '{context.invoked_subcommand}'; leave it out"
            )


def _serve(settings: Settings) -> None:
    supervisor = Supervisor.of_this_process()
    if supervisor:
        serve_here(settings, as_worker=True, on_ready=lambda server: supervisor.report(_port_of(server.endpoint)))
    elif settings.workers > 1:
        serve_by_workers(settings, sys.argv[1:], on_ready=lambda endpoint, _: _print_endpoint(endpoint))
    else:
        serve_here(settings, on_ready=lambda server: _print_endpoint(server.endpoint))


def _port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def _print_endpoint(endpoint: str) -> None:
    """Prints the one line of standard output; programs read the endpoint from its end."""
    typer.echo(f"serving attention-patterns {version('attention-patterns')} on {endpoint}")
