"""``attention-label``: labels dumps, or the attention of models over texts and pictures, into a folder of tables.

Exit codes: 0 all inputs were labelled; 1 some failed, see ``errors.jsonl`` in the folder; 2 nothing was labelled, the
message says why; 130 the run was interrupted, and the same command continues it.
"""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from attention_patterns.errors import AttentionPatternsError, InvalidSettingsError
from attention_patterns.labelling.command.job import ClassifierChoice, Job, indices_of
from attention_patterns.labelling.command.progress import log, log_error, reporting, write_logs
from attention_patterns.labelling.command.shown import show_comparison, show_estimate, show_result, show_stacks
from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.run.estimate import estimate
from attention_patterns.labelling.run.run import Engine, RunResult, in_process, label
from attention_patterns.labelling.sources.memory import Memory, bytes_of
from attention_patterns.labelling.sources.source import Selection
from attention_patterns.labelling.summary.paper import paper_task
from attention_patterns.labelling.summary.summary_files import write_summary

app = typer.Typer(
    no_args_is_help=True,
    help="Labels attention maps by pattern, offline and in bulk: dumps, or models over texts and pictures.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class LogFormat(enum.StrEnum):
    """How a run tells where it is."""

    TEXT = "text"
    JSON = "json"


class EngineName(enum.StrEnum):
    """What does the work."""

    IN_PROCESS = "in-process"
    RAY = "ray"


class DataType(enum.StrEnum):
    """Of a model's weights."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


_RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run", show_default=False)]
_ComparePaper = Annotated[
    str | None,
    typer.Option(metavar="TASK", help="print the shares beside those that Kovaleva et al. 2019 found for a GLUE task"),
]


@app.command()
def run(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Dumps (.npz, .npy, .safetensors, .parquet, .zarr), or with --model texts (.tsv, .csv, .jsonl, .txt, "
            "datasets:NAME) or pictures; a file, folder, glob or URL, each perhaps as TASK=PATH.",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the run, new or to be continued")],
    model: Annotated[list[str] | None, typer.Option(help="folder or hub name of a model to run; repeatable")] = None,
    columns: Annotated[str | None, typer.Option(help="the column of the texts, or both of a pair: A,B")] = None,
    id_column: Annotated[str | None, typer.Option(help="the column of the texts' ids")] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="cut texts longer than the model takes")] = False,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of the models on the hub")] = None,
    device: Annotated[str, typer.Option(help="torch device of the models, for example cuda:0")] = "cpu",
    dtype: Annotated[DataType, typer.Option(help="of the models' weights")] = DataType.FLOAT32,
    layers: Annotated[str | None, typer.Option(help="only these layers, from 0: 0-3,7")] = None,
    heads: Annotated[str | None, typer.Option(help="only these heads, from 0")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N inputs")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="only N inputs, drawn at random")] = None,
    seed: Annotated[int, typer.Option(help="of --sample")] = 0,
    max_memory: Annotated[str | None, typer.Option(help="most memory of the process, for example 2G")] = None,
    keep_maps: Annotated[bool, typer.Option("--keep-maps", help="keep the images of all maps, 1 to 3 KB each")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="begin anew in a folder of another run")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="try again what failed before")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="try a few inputs, tell what all would take")] = False,
    engine: Annotated[EngineName, typer.Option(help="what does the work")] = EngineName.IN_PROCESS,
    ray_address: Annotated[str | None, typer.Option(help="a Ray cluster; without, one is started here")] = None,
    endpoint: Annotated[str | None, typer.Option(help="HOST:PORT of a server to classify at, not here")] = None,
    bundle: Annotated[Path | None, typer.Option(help="folder of a model bundle, not the bundled one")] = None,
    compare_paper: _ComparePaper = None,
    log_format: Annotated[LogFormat, typer.Option(help="of what is told meanwhile")] = LogFormat.TEXT,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show errors only")] = False,
) -> None:
    """Labels inputs into the folder of a run. The same command continues a run that was interrupted."""
    write_logs(log_format=log_format.value, quiet=quiet)
    with _told(log_format):
        if compare_paper is not None:
            paper_task(compare_paper)  # a wrong name is told before the work, not after it
        job = Job(
            inputs=tuple(inputs),
            models=tuple(model or ()),
            columns=tuple(columns.split(",")) if columns else (),
            id_column=id_column,
            revision=revision,
            device=device,
            dtype=dtype.value,
            truncate=truncate,
            selection=Selection(
                None if layers is None else indices_of(layers, option="--layers"),
                None if heads is None else indices_of(heads, option="--heads"),
            ),
            limit=limit,
            sample=sample,
            seed=seed,
        )
        most = None if max_memory is None else bytes_of(max_memory)
        choice = ClassifierChoice(endpoint, bundle)
        chosen_engine = _engine(engine, choice, address=ray_address, max_memory=most, device=device)
        source = job.source()
        opened = choice.open(warm=most is not None)
        with opened.context:
            maker = PartMaker(source, opened.classifier, Memory.from_now(most), keep_maps)
            units = source.units()
            if dry_run:
                show_estimate(estimate(maker, units))
                return
            with reporting(sum(unit.inputs for unit in units), log_format=log_format.value, quiet=quiet) as told:
                result = label(
                    maker,
                    output=output,
                    settings={"classifier": opened.identity, "keep_maps": keep_maps, **job.settings()},
                    engine=chosen_engine,
                    overwrite=overwrite,
                    retry_failed=retry_failed,
                    units=units,
                    on_begin=told.begin,
                    advance=told.advance,
                )
        _tell(result, compare_paper, log_format=log_format, quiet=quiet)


@app.command()
def summary(run: _RunFolder, *, compare_paper: _ComparePaper = None) -> None:
    """Sums a run up again, finished or not, and shows it."""
    with _told(LogFormat.TEXT):
        folder = RunFolder(run)
        folder.job()
        stacks = write_summary(folder, folder.errors())
        console = Console(highlight=False)
        show_stacks(console, stacks)
        if compare_paper is not None:
            show_comparison(console, stacks, compare_paper)


@app.command()
def report(run: _RunFolder) -> None:
    """Writes report.html, a page to look at a run, and figures/, its figures for a paper."""
    with _told(LogFormat.TEXT):
        from attention_patterns.labelling.report.page import write_report  # noqa: PLC0415  its packages are an extra

        typer.echo(write_report(RunFolder(run)))


@contextmanager
def _told(log_format: LogFormat) -> Iterator[None]:
    """Tells of errors, and makes exit codes of them."""
    try:
        yield
    except (AttentionPatternsError, OSError) as error:  # OSError: a full disk, a folder without permission
        if log_format is LogFormat.JSON:
            log_error(error)
        else:
            typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command continues the run", err=True)
        raise typer.Exit(130) from None


def _engine(
    name: EngineName, choice: ClassifierChoice, *, address: str | None, max_memory: int | None, device: str
) -> Engine:
    if name is EngineName.IN_PROCESS:
        if address:
            raise InvalidSettingsError("--ray-address is for --engine ray, which is not asked for")
        return in_process
    if device != "cpu":
        raise InvalidSettingsError(f"--device is {device}, and the workers of --engine ray see no accelerator")
    from attention_patterns.labelling.run.ray_engine import ray_engine  # noqa: PLC0415  an extra, and slow to import

    return ray_engine(choice.load, address=address, max_memory=max_memory)


def _tell(result: RunResult, compare_paper: str | None, *, log_format: LogFormat, quiet: bool) -> None:
    if log_format is LogFormat.JSON:
        log("end", output=str(result.folder.path), inputs=result.inputs, maps=result.maps, failed=len(result.errors))
    elif not quiet:
        show_result(Console(highlight=False), result)
    if compare_paper is not None:
        show_comparison(Console(highlight=False), result.stacks, compare_paper)
    if result.errors:
        if log_format is LogFormat.TEXT:
            failed = f"{len(result.errors):,} input{'' if len(result.errors) == 1 else 's'} failed"
            typer.echo(f"{failed}, see {result.folder.path / 'errors.jsonl'}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
