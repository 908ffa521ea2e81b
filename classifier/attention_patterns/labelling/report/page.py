"""``write_report``: the page and the figures of a run, written into its folder."""

from pathlib import Path

from attention_patterns.errors import OutputError, SourceError
from attention_patterns.labelling.output.folder import RunFolder, write_whole
from attention_patterns.labelling.summary.summary import summarise

_NEEDED = ("jinja2", "matplotlib", "PIL")


def write_report(folder: RunFolder) -> Path:
    """Writes ``report.html``, one page that needs nothing else, and ``figures/`` as PNG and SVG; gives the page.

    Raises:
        SourceError: it is no folder of a run, or the extra "report" is not installed.
        OutputError: the folder cannot be written to.
    """
    job = folder.job()
    try:
        from attention_patterns.labelling.report.document import document  # noqa: PLC0415  it belongs to an extra
        from attention_patterns.labelling.report.figures import write_figures  # noqa: PLC0415  likewise
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        raise SourceError(
            f"report needs the extra 'report' ({error.name} is missing): pip install 'attention-patterns[report]'"
        ) from None
    stacks = summarise(folder.table_files("labels"))
    path = folder.path / "report.html"
    try:
        figures = write_figures(stacks, folder.path / "figures")
        write_whole(path, document(folder, job, stacks, [file.name for file in figures]).encode())
    except OSError as error:
        raise OutputError(f"report {path} could not be written: {error}") from error
    return path
