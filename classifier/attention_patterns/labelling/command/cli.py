"""The commands of ``attention-label``: run, summary and report.

Exit codes: 0 all inputs were labelled; 1 some failed, see ``errors.jsonl`` in the run folder; 2 the run could not start
or go on, and the message gives the reason; 130 the run was interrupted.
"""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from attention_patterns.errors import AttentionPatternsError, InvalidSettingsError
from attention_patterns.labelling.command.classifier_choice import ClassifierChoice
from attention_patterns.labelling.command.printing import (
    describe_tasks,
    failure_sentences,
    print_comparison,
    print_estimate,
    print_result,
    print_stacks,
    with_unit,
)
from attention_patterns.labelling.command.progress import configure_logs, log_error, log_event, report_progress
from attention_patterns.labelling.command.request import RunRequest, parse_indices
from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.run.estimate import estimate
from attention_patterns.labelling.run.run import Engine, RunResult, in_process, label
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.memory import Memory, bytes_of
from attention_patterns.labelling.sources.source import Selection
from attention_patterns.labelling.summary.paper import SHARES, paper_task
from attention_patterns.labelling.summary.summary_files import write_summary
from attention_patterns.programs.foreign_text import print_error, print_path
from attention_patterns.programs.terminal import SafeConsole

_EPILOG = """\b
Examples:
  attention-label run dumps/ -o RUN
  attention-label run pairs.tsv -o RUN --model bert-base-uncased

\b
Exit codes:
    0  all inputs were labelled
    1  some inputs failed, see errors.jsonl in the run folder
    2  the run could not start or go on; the message gives the reason
  130  the run was interrupted; the same command continues it
"""

app = typer.Typer(
    no_args_is_help=True,
    help="Labels attention maps by pattern, offline and in bulk: attention dumps, or the attention of Hugging Face "
    "models over texts and pictures.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class LogFormat(enum.StrEnum):
    """Format of the progress and errors of a run."""

    TEXT = "text"
    JSON = "json"


class EngineName(enum.StrEnum):
    """Name of the engine that does the work of a run."""

    IN_PROCESS = "in-process"
    RAY = "ray"


class WeightType(enum.StrEnum):
    """Data type of a model's weights."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


_RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder, as attention-label run wrote it.", show_default=False)
]
_ComparePaper = Annotated[
    str | None,
    typer.Option(
        metavar="TASK",
        help=f"GLUE task whose shares in Kovaleva et al. 2019 are printed beside the run's: {', '.join(SHARES)}.",
    ),
]


@app.command(epilog=_EPILOG)
def run(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Attention dumps (.npz, .npy, .safetensors, .parquet, .zarr) of an array 'attention' [layers, heads, "
            "L, L]; with --model texts (.tsv, .csv, .jsonl, .txt, datasets:NAME) or pictures (.png, .jpg, .webp, "
            ".bmp). Each INPUT is a file, folder, glob or URL. Results are summed up by task: TASK=INPUT names the "
            "task; by default each folder is a task, each file of texts, and all other files together.",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="RUN",
            help="Run folder; an unfinished run of the same inputs and options in it is continued.",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="MODEL", help="Folder or hub name of a model to run over the inputs; repeatable."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A[,B]",
            help="Column of the texts, or both columns of text pairs (default: those of a GLUE task, such as "
            "sentence1,sentence2, or the column text).",
        ),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of the texts' ids (default: ids are FILE:LINE).")
    ] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut texts that are too long for the model; otherwise they fail.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of the models on the hub (default: main).")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="Torch device of the models, such as cuda:0.")
    ] = "cpu",
    dtype: Annotated[WeightType, typer.Option(help="Data type of the models' weights.")] = WeightType.FLOAT32,
    axes: Annotated[
        Axes | None,
        typer.Option(
            help="Axes before L x L of dumps that have five axes; the second order is that of "
            "torch.stack(outputs.attentions) (default: as the declarations beside the attention show).",
        ),
    ] = None,
    renormalise: Annotated[
        bool,
        typer.Option("--renormalise", help="Divide each row of dumps by its sum, where weights were rounded or cut."),
    ] = False,
    layers: Annotated[
        str | None, typer.Option(metavar="LIST", help="Layers to label, from 0, such as 0-3,7 (default: all).")
    ] = None,
    heads: Annotated[
        str | None, typer.Option(metavar="LIST", help="Heads to label, from 0, such as 0-3,7 (default: all).")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Number of inputs to label, from the first (default: all).")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Number of inputs to label, drawn at random (default: all).")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed for --sample.")] = 0,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory limit, such as 2G, of the process, or of each worker of Ray (default: no limit, and "
            "attention takes at most half of the free memory).",
        ),
    ] = None,
    keep_maps: Annotated[
        bool,
        typer.Option(
            "--keep-maps",
            help="Keep an image of every map, 1 to 3 KB each (default: of 8 inputs per task, for the report).",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run that the folder holds, and start again.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="When continuing a run, try the inputs that failed again.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Label a few inputs, print the time and disk space of all; write nothing."),
    ] = False,
    engine: Annotated[
        EngineName, typer.Option(help="Engine that does the work: threads of this process, or Ray workers.")
    ] = EngineName.IN_PROCESS,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Ray cluster to join, or auto (default: one is started for the run)."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Server, without TLS and access tokens, that runs the net, for Ray workers as well (default: the net "
            "runs in this process).",
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Model bundle of the net (default: the bundled one).")
    ] = None,
    compare_paper: _ComparePaper = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="Format of progress and errors on standard error.")
    ] = LogFormat.TEXT,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Labels inputs into a run folder, or continues an interrupted run.

    The run folder holds tables of labels, inputs and heads as Parquet files, and summary.json.
    """
    configure_logs(log_format=log_format.value, quiet=quiet)
    with _exit_on_errors(log_format):
        if compare_paper is not None:
            paper_task(compare_paper)  # a wrong name is refused before the work, not after it
        request = RunRequest(
            inputs=tuple(inputs),
            models=tuple(model or ()),
            columns=tuple(columns.split(",")) if columns else (),
            id_column=id_column,
            revision=revision,
            device=device,
            dtype=dtype.value,
            truncate=truncate,
            axes=axes,
            renormalise=renormalise,
            selection=Selection(
                None if layers is None else parse_indices(layers, option="--layers"),
                None if heads is None else parse_indices(heads, option="--heads"),
            ),
            limit=limit,
            sample=sample,
            seed=seed,
        )
        most = None if max_memory is None else bytes_of(max_memory)
        choice = ClassifierChoice(endpoint, bundle)
        chosen_engine = _choose_engine(engine, choice, address=ray_address, max_memory=most, device=device)
        source = request.open_source()
        if log_format is LogFormat.JSON:
            log_event("tasks", tasks={task: len(items) for task, items in source.tasks})
        elif not quiet:
            typer.echo(describe_tasks(source, "input" if request.models else "file"), err=True)
        opened = choice.open(warm=most is not None)
        with opened.context:
            maker = PartMaker(source, opened.classifier, Memory.from_now(most), keep_maps)
            units = source.units()
            if dry_run:
                print_estimate(estimate(maker, units))
                return
            total = sum(unit.inputs for unit in units)
            with report_progress(total, log_format=log_format.value, quiet=quiet) as reporter:
                result = label(
                    maker,
                    output=output,
                    settings={"classifier": opened.identity, "keep_maps": keep_maps, **request.settings()},
                    engine=chosen_engine,
                    overwrite=overwrite,
                    retry_failed=retry_failed,
                    units=units,
                    on_begin=reporter.begin,
                    advance=reporter.advance,
                    on_failures=reporter.fail,
                )
        _report_result(result, compare_paper, log_format=log_format, quiet=quiet)


@app.command()
def summary(run: _RunFolder, *, compare_paper: _ComparePaper = None) -> None:
    """Sums up a run, finished or not, and prints the result.

    Rewrites summary.json and heads.parquet in the run folder.
    """
    with _exit_on_errors(LogFormat.TEXT):
        if compare_paper is not None:
            paper_task(compare_paper)
        folder = RunFolder(run)
        folder.read_request()  # refuses a folder that is not a run folder
        stacks = write_summary(folder, folder.errors())
        console = SafeConsole()
        print_stacks(console, stacks)
        if compare_paper is not None:
            print_comparison(console, stacks, compare_paper)


@app.command()
def report(run: _RunFolder) -> None:
    """Writes report.html and figures/ into the run folder.

    Prints the path of the page, which shows grids of heads and their maps. The figures, PNG and SVG, are for a paper.
    """
    with _exit_on_errors(LogFormat.TEXT):
        from attention_patterns.labelling.report.page import write_report  # noqa: PLC0415  other commands need no page

        print_path(write_report(RunFolder(run)))


@contextmanager
def _exit_on_errors(log_format: LogFormat) -> Iterator[None]:
    """Prints or logs the errors raised inside, and exits with their codes."""
    try:
        yield
    except (AttentionPatternsError, OSError) as error:  # OSError: a full disk, a folder without permission
        if log_format is LogFormat.JSON:
            log_error(error)
        else:
            print_error(f"error: {error}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        print_error("interrupted; the same command continues the run")
        raise typer.Exit(130) from None


def _choose_engine(
    name: EngineName, choice: ClassifierChoice, *, address: str | None, max_memory: int | None, device: str
) -> Engine:
    if name is EngineName.IN_PROCESS:
        if address:
            raise InvalidSettingsError("--ray-address only applies with --engine ray; give that too, or leave it out")
        return in_process
    if device != "cpu":
        raise InvalidSettingsError(f"--device is {device}; expected cpu, since the workers of --engine ray see no GPU")
    from attention_patterns.labelling.run.ray_engine import ray_engine  # noqa: PLC0415  an extra, and slow to import

    return ray_engine(choice.load, address=address, max_memory=max_memory)


def _report_result(result: RunResult, compare_paper: str | None, *, log_format: LogFormat, quiet: bool) -> None:
    """Prints or logs the result of a run; exits with 1 where inputs failed."""
    failed, failures = len(result.errors), failure_sentences(result.errors)
    if log_format is LogFormat.JSON:
        log_event(
            "end",
            output=str(result.folder.path),
            inputs=result.inputs,
            maps=result.maps,
            failed=failed,
            failures=failures,
        )
    elif not quiet:
        print_result(SafeConsole(), result)
    if compare_paper is not None:
        print_comparison(SafeConsole(), result.stacks, compare_paper)
    if failed:
        if log_format is LogFormat.TEXT:
            errors_file = result.folder.path / "errors.jsonl"
            print_error(f"{with_unit(failed, 'input')} failed, see {errors_file}")
            for sentence in failures:
                print_error(f"  {sentence}")
        raise typer.Exit(1)
