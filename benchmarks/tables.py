"""Keeps the tables that the benchmarks print, and writes them as Markdown: ``python -m benchmarks.tables``.

``results.json`` holds each table under its own key. From there they go into ``benchmarks/README.md``, and six lines of
them into the project's ``README.md``.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

_HERE = Path(__file__).parent
RESULTS = _HERE / "results.json"
ALL_TABLES = _HERE / "README.md"
SIX_LINES = _HERE.parent / "README.md"
_BEGIN, _END = "<!-- written by python -m benchmarks.tables -->", "<!-- end -->"
_WIDTH = 120  # of a printed table, at least; rich assumes 80 columns where there is no terminal, and cuts cells


@dataclass(frozen=True)
class ResultTable:
    """One table of figures.

    Attributes:
        title: Heading of the table.
        shows: Sentences on what was measured and how to read the columns.
        columns: Headings of the columns, each one different.
        rows: Cells as text, one list per row.
        processor: Name and number of cores of the machine; empty in tables that were kept without it.
    """

    title: str
    shows: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    processor: str = ""

    def cell(self, column: str, **where: str) -> str:
        """Returns the cell of a column in the one row that has the given cells: ``cell("calls/s", L="64")``."""
        wanted = {self.columns.index(name): value for name, value in where.items()}
        (row,) = [row for row in self.rows if all(row[place] == value for place, value in wanted.items())]
        return row[self.columns.index(column)]


def keep(key: str, table: ResultTable) -> None:
    """Prints a table, and keeps it in ``results.json`` with the processor of this machine."""
    shown = Table(*table.columns, title=table.title)
    for row in table.rows:
        shown.add_row(*row)
    console = Console()
    console.width = max(console.width, _WIDTH)
    console.print(shown)
    content = {name: asdict(kept) for name, kept in read_tables().items()} if RESULTS.exists() else {}
    content[key] = asdict(table) | {"processor": _processor()}
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_tables() -> dict[str, ResultTable]:
    """Returns the kept tables by their key."""
    return {key: ResultTable(**fields) for key, fields in json.loads(RESULTS.read_text(encoding="utf-8")).items()}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def all_tables(tables: Mapping[str, ResultTable]) -> str:
    """Returns all tables as Markdown, each with its heading and its explanation."""
    return "\n\n".join(map(_section, tables.values()))


def _section(table: ResultTable) -> str:
    measured_on = f" Measured on {table.processor}." if table.processor else ""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return f"### {table.title}\n\n{table.shows}{measured_on}\n\n" + "\n".join(
        f"| {' | '.join(line)} |" for line in lines
    )


def six_lines(tables: Mapping[str, ResultTable]) -> str:
    """Returns the figures that the project's README shows, as a Markdown list."""

    def figure(key: str, column: str, **where: str) -> str:
        return tables[key].cell(column, **where)

    call = {"L": "128", "dtype": "float32", "callers": "1"}
    single = {"L": "128", "callers": "1", "client": "default"}
    row = {"dump": ".npy, 28 per file"}
    lines = (
        f"Library: {figure('serving', 'in-process', **call)} maps/s of 128 tokens, float32, 144 heads per call.",
        f"Service: {figure('serving', 'client / in-process', **call)} of that through the client, which sends "
        "images made from the maps; "
        f"{figure('serving', 'maps sent / in-process', **call)} where whole maps are sent.",
        f"One map per call: {figure('single', 'calls/s', **single)} calls/s from one caller, "
        f"{figure('single', 'median ms', **single)} ms each; {figure('soak', 'value', figure='memory when idle, MiB')} "
        "MiB when idle.",
        "At ten times the load that it can carry the server still reaches "
        f"{figure('overload', 'value', figure='goodput / peak')} of its peak rate; all other calls are refused "
        "immediately.",
        f"Labelling dumps: {figure('offline_dumps', 'end to end', **row)} inputs/s of 12 x 12 heads and 128 tokens; "
        f"{figure('offline_flat', 'peak', inputs='10,000')} for 10,000 inputs.",
        f"Labelling MiniLM: {figure('offline_models', 'labelled / forward', tokens='128')} times its forward pass over "
        f"texts of 128 tokens, {figure('offline_models', 'labelled / forward', tokens='16')} times at 16 tokens.",
    )
    return "\n".join(f"- {line}" for line in lines)


def replace_figures(text: str, content: str) -> str:
    """Returns a Markdown file with ``content`` in the place between the two marks."""
    before, rest = text.split(_BEGIN)
    return f"{before}{_BEGIN}\n{content}\n{_END}{rest.partition(_END)[2]}"


def main() -> None:
    """Writes the tables into both files."""
    tables = read_tables()
    for file, content in ((ALL_TABLES, all_tables(tables)), (SIX_LINES, six_lines(tables))):
        file.write_text(replace_figures(file.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main()
