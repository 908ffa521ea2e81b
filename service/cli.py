"""``attention-serve``: the server as a process."""

import signal
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

from classifier import AttentionPatternsError, PatternClassifier
from service.server import MAX_MESSAGE_BYTES, THREADS, AttentionServer

_MIB = 1 << 20

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option(help="Interface to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind; 0 takes a free one.", min=0, max=65535)] = 50051,
    model_dir: Annotated[Path | None, typer.Option(help="Model bundle; the bundled model by default.")] = None,
    max_message_mib: Annotated[
        int, typer.Option(help="Largest message taken, MiB.", min=1, max=2047)
    ] = MAX_MESSAGE_BYTES // _MIB,
    threads: Annotated[int, typer.Option(help="Calls answered at a time; an open stream holds one.", min=1)] = THREADS,
    grace: Annotated[float, typer.Option(help="Seconds that calls in flight get to finish on SIGTERM.", min=0)] = 30,
) -> None:
    """Serves the attention pattern classifier over gRPC until SIGTERM or SIGINT."""
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        classifier = PatternClassifier.load(model_dir)
        server = AttentionServer(
            classifier, host=host, port=port, max_message_bytes=max_message_mib * _MIB, threads=threads
        )
        classifier.warm_up()
    except AttentionPatternsError as error:
        typer.echo(f"attention-serve: {error}", err=True)
        raise typer.Exit(1) from error
    server.start()
    name = f"attention-patterns {version('attention-patterns')} (bundle {classifier.model})"
    typer.echo(f"serving {name} on {server.endpoint}")  # a caller reads the endpoint from its end
    stopping.wait()
    server.stop(grace=grace)


if __name__ == "__main__":
    app()
