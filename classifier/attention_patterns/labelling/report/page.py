"""The page and the figures of a run, written into its folder."""

from pathlib import Path

from attention_patterns.errors import OutputError
from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.summary.summary import summarise
from attention_patterns.programs.extras import name_missing_extra
from attention_patterns.programs.whole_files import write_whole


def write_report(folder: RunFolder) -> Path:
    """Writes ``report.html``, a page that loads no other file, and ``figures/``; returns the path of the page.

    Raises:
        SourceError: The folder is not a run folder.
        MissingExtraError: A package of the extra "report" is not installed.
        OutputError: The folder cannot be written to.
    """
    request = folder.read_request()
    with name_missing_extra("report", needed_by="attention-label report"):
        from attention_patterns.labelling.report.document import document  # noqa: PLC0415  loads packages of the extra
        from attention_patterns.labelling.report.figures import write_figures  # noqa: PLC0415  loads them too
    stacks = summarise(folder.table_files("labels"))
    path = folder.path / "report.html"
    try:
        figures = write_figures(stacks, folder.path / "figures")
        write_whole(path, document(folder, request, stacks, figures))
    except OSError as error:
        raise OutputError(f"report '{path}' cannot be written: {error}") from error
    return path
