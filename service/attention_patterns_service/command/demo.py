"""The main job on the bundled sample, as ``make run`` does it: ``python -m attention_patterns_service.command.demo [--output run/sample.html]``.

A server process on a free local port, the Python client, attention of a real encoder for a pair of sentences.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group

from attention_patterns import Classification, ServerError
from attention_patterns.programs.terminal import attention_table, pattern_grid, pattern_shares, with_title
from attention_patterns.sample import Sample, load_sample
from attention_patterns_service.client import Client


@contextmanager
def server_process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process on a free local port, and its endpoint; it is stopped with SIGTERM at the end.

    Raises:
        ServerError: the server did not start, or did not stop with exit code 0.
    """
    command = [
        sys.executable,
        "-m",
        "attention_patterns_service.command.cli",
        "--port=0",
        "--log-level=warning",
        *options,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()  # ends at once if the process does
            if not line:
                raise ServerError(f"the server did not start, exit code {process.wait()}")
            yield process, line.split()[-1]
        finally:
            process.terminate()
            code = process.wait()
    if code:
        raise ServerError(f"the server stopped with exit code {code}, expected 0")


@contextmanager
def running_server(*options: str) -> Iterator[str]:
    """The endpoint of such a process."""
    with server_process(*options) as (_, endpoint):
        yield endpoint


def overview(sample: Sample, result: Classification) -> Group:
    """Grid, shares and ratios of one input."""
    layers, heads, length, _ = sample.attention.shape
    return Group(
        f"[bold]{result.model}[/] on {layers} x {heads} heads of all-MiniLM-L6-v2, {length} tokens:",
        f"[italic]{' '.join(sample.tokens).replace(' ##', '')}[/]".replace("[CLS]", r"\[CLS]").replace(
            "[SEP]", r"\[SEP]"
        ),
        "",
        with_title("Pattern of each head", pattern_grid(result.patterns)),
        with_title("Share of each pattern", pattern_shares(result.patterns)),
        with_title(
            "Attention to special tokens, mean over heads",
            attention_table({name: to.share for name, to in result.attention_to.items()}),
        ),
    )


def main(
    output: Annotated[Path, typer.Option(help="the page to write")] = Path("run/sample.html"),
) -> None:
    """Classifies the bundled sample through a server and shows what came back."""
    sample = load_sample()
    console = Console(record=True)
    started = time.perf_counter()
    with running_server() as endpoint, Client(endpoint) as client:
        ready = time.perf_counter()
        result = client.classify(sample.attention, tokens=sample.tokens, segments=sample.segments)
        answered = time.perf_counter()
        console.print(overview(sample, result))
    output.parent.mkdir(parents=True, exist_ok=True)
    console.save_html(str(output))
    console.print(
        f"server ready in {ready - started:.1f} s, answered in {1000 * (answered - ready):.0f} ms, page: {output}"
    )


if __name__ == "__main__":
    typer.run(main)
