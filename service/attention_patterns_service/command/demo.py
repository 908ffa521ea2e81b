"""``make run``: the bundled sample, labelled through a real server, and its report page.

A server process on a free local port; then ``attention-label`` labels the attention of a real encoder for a pair of
sentences through that server, shows the patterns in the terminal and writes a page with all maps to click.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from attention_patterns.errors import ServerError
from attention_patterns.sample import SAMPLE
from attention_patterns_service.command.reports import errors_reported

_SCRIPTS = Path(sys.executable).parent
_SERVING = re.compile(r"serving attention-patterns \S+ on (\S+)\n")


@contextmanager
def server_process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yields a server process on a free local port, and its endpoint; stops it with SIGTERM.

    Raises:
        ServerError: The server did not start, or did not stop with exit code 0.
    """
    command = [str(_SCRIPTS / "attention-serve"), "--port=0", "--log-level=warning", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")  # they end if the process does
            endpoint = next((match[1] for line in lines if (match := _SERVING.fullmatch(line))), None)
            if endpoint is None:
                raise ServerError(f"the server did not start, exit code {process.wait()}")
            yield process, endpoint
        finally:
            process.terminate()
            code = process.wait()
    if code:
        raise ServerError(f"the server stopped with exit code {code}, expected 0")


@contextmanager
def running_server(*options: str) -> Iterator[str]:
    """Yields the endpoint of such a process."""
    with server_process(*options) as (_, endpoint):
        yield endpoint


def main(
    output: Annotated[Path, typer.Option(help="Folder of the run; an earlier run there is replaced.")] = Path(
        "run/sample"
    ),
) -> None:
    """Labels the bundled sample through a server, shows its patterns and writes its report page."""
    with errors_reported("demo"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with running_server() as endpoint:
            typer.echo(f"labelling {SAMPLE} through the server on {endpoint}\n")
            _label("run", str(SAMPLE), f"--output={output}", f"--endpoint={endpoint}", "--keep-maps", "--overwrite")
        page = _label("report", str(output), stdout=subprocess.PIPE).strip()
    typer.echo(f"report page, with a map behind each head: {page}")


def _label(*arguments: str, stdout: int | None = None) -> str:
    """Runs ``attention-label`` and returns what it prints to a pipe.

    Raises:
        typer.Exit: It failed, with its exit code; its message is on standard error.
    """
    done = subprocess.run([str(_SCRIPTS / "attention-label"), *arguments], check=False, stdout=stdout, text=True)
    if done.returncode:
        raise typer.Exit(done.returncode)
    return done.stdout or ""


if __name__ == "__main__":
    typer.run(main)
