"""``attention-label``: labels dumps, or a model's attention over texts, into a Parquet file.

Exit codes: 0 all inputs were labelled; 1 some failed, see ``<output>.errors.jsonl``; 2 nothing was written.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from classifier.classification import Classifier
from classifier.dumps import dump_files, read_dumps
from classifier.errors import AttentionPatternsError, SourceError
from classifier.label_input import FailedInput, LabelInput
from classifier.labelling import LabelSummary, Tally, label
from classifier.pattern_classifier import PatternClassifier
from classifier.patterns import PATTERNS
from classifier.terminal import attention_table, pattern_grid, pattern_shares, titled

app = typer.Typer(add_completion=False)

_MOST_GRIDS = 4  # of a run over models of different sizes


@dataclass(frozen=True)
class _Source:
    """The inputs of a run, and how many files or texts they come from."""

    inputs: Iterable[LabelInput | FailedInput]
    units: int


@app.command()
def main(
    dumps: Annotated[
        list[Path] | None, typer.Argument(help=".npz, .npy, .safetensors files, or folders of them")
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="the Parquet file to write")],
    model: Annotated[str | None, typer.Option(help="folder or hub name of a Hugging Face model to run")] = None,
    texts: Annotated[Path | None, typer.Option(help="its texts: one, or a tab-separated pair, a line")] = None,
    endpoint: Annotated[str | None, typer.Option(help="HOST:PORT of a server to classify at, not here")] = None,
    bundle: Annotated[Path | None, typer.Option(help="folder of the model bundle to use, not the bundled one")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the output if it exists")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show errors only")] = False,
) -> None:
    """Labels attention dumps, or the attention of a model over texts, into a Parquet file of one row a head."""
    try:
        _check_usage(dumps, model=model, texts=texts, endpoint=endpoint, bundle=bundle)
        _check_output(output, overwrite=overwrite)
        with _classifier(endpoint, bundle=bundle) as engine:
            source = _model_source(model, texts) if model and texts else _dump_source(dumps or [])
            summary = _label(source, engine=engine, output=output, quiet=quiet)
    except (AttentionPatternsError, OSError) as error:  # OSError: a full disk, a folder without permission
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if not quiet:
        _show(summary)
    if summary.errors:
        typer.echo(f"{_number(summary.failed, 'input')} failed, see {summary.errors}", err=True)
        raise typer.Exit(1)


class _UsageError(AttentionPatternsError):
    """The command line asks for what cannot be done."""


def _check_usage(
    dumps: list[Path] | None, *, model: str | None, texts: Path | None, endpoint: str | None, bundle: Path | None
) -> None:
    if (model is None) != (texts is None):
        raise _UsageError("--model and --texts go together, and one of them is missing")
    if bool(dumps) == bool(model):
        found = "both dumps and --model are" if dumps else "neither dumps nor --model is"
        raise _UsageError(f"{found} given, expected one of them; see --help")
    if endpoint and bundle:
        raise _UsageError("--bundle has no say in what the server at --endpoint uses; leave one of them out")


def _check_output(output: Path, *, overwrite: bool) -> None:
    if not output.parent.is_dir():
        raise _UsageError(f"output folder {output.parent} does not exist")
    if output.is_dir() or (output.exists() and not overwrite):
        raise _UsageError(f"output {output} is {'a folder' if output.is_dir() else 'there; --overwrite replaces it'}")


def _dump_source(paths: list[Path]) -> _Source:
    files = dump_files(paths)
    return _Source(read_dumps(files), len(files))


def _model_source(name: str, texts: Path) -> _Source:
    try:
        from classifier.hugging_face import AttentionModel, read_texts  # noqa: PLC0415  torch takes seconds to import
    except ModuleNotFoundError as error:
        raise SourceError(
            f"--model needs the extra 'models': pip install 'attention-patterns[models]' ({error})"
        ) from None
    lines = read_texts(texts)
    return _Source(AttentionModel(name).attention(lines), len(lines))


@dataclass(frozen=True)
class _Engine:
    """A classifier, and the rendering its model reads."""

    classifier: Classifier
    rendering_version: int


@contextmanager
def _classifier(endpoint: str | None, *, bundle: Path | None) -> Iterator[_Engine]:
    if endpoint is None:
        own = PatternClassifier.load(bundle)
        yield _Engine(own, own.bundle.rendering_version)
        return
    clients = entry_points(group="attention_patterns.clients", name="grpc")
    if not clients:
        raise _UsageError("--endpoint needs the client of attention-patterns, and this installation declares none")
    with next(iter(clients)).load()(endpoint) as client:
        yield _Engine(client, client.model().rendering_version)


def _label(source: _Source, *, engine: _Engine, output: Path, quiet: bool) -> LabelSummary:
    progress = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[maps]:,} maps, {task.fields[rate]:,.0f} a second"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )
    task = progress.add_task("label", total=source.units, maps=0, rate=0.0)

    def advance(done: float, maps: int) -> None:
        now = progress.tasks[task]
        total = now.fields["maps"] + maps
        progress.update(task, advance=done, maps=total, rate=total / max(now.elapsed or 0, 1e-3))

    with progress:
        return label(
            source.inputs,
            classifier=engine.classifier,
            output=output,
            rendering_version=engine.rendering_version,
            on_progress=advance,
        )


def _show(summary: LabelSummary) -> None:
    console = Console(highlight=False)
    warned = f", {summary.warned:,} of them with warnings" if summary.warned else ""
    written = f"{_number(summary.maps, 'map')} of {_number(summary.inputs, 'input')}{warned}"
    console.print(f"{summary.output}: {written}\n", soft_wrap=True)
    if not summary.tallies:
        return
    counts = np.concatenate([tally.counts.reshape(-1, len(PATTERNS)) for tally in summary.tallies])
    console.print(titled("patterns", pattern_shares(counts)))
    drawn = [tally for tally in summary.tallies if tally.counts[..., 0].size > 1]
    for tally in sorted(drawn, key=lambda tally: -tally.inputs)[:_MOST_GRIDS]:
        _show_tally(console, tally)
    if len(drawn) > _MOST_GRIDS:
        console.print(f"{len(drawn) - _MOST_GRIDS} more grids of other sizes are not shown")


def _show_tally(console: Console, tally: Tally) -> None:
    layers, heads, _ = tally.counts.shape
    of = f"{tally.part or 'attention'}: {layers} x {heads} heads, {_number(tally.inputs, 'input')}"
    console.print(titled(of, pattern_grid(tally.counts)))
    if tally.attention_to:
        console.print(titled("attention to, mean over heads and inputs", attention_table(tally.attention_to)))


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}{'' if count == 1 else 's'}"


if __name__ == "__main__":
    app()
