"""The page as HTML: the values of the template, and its styles and scripts in one file."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.output.tally import Line, Tally
from attention_patterns.labelling.report.contents import as_json, contents
from attention_patterns.labelling.report.palette import COLOUR_ORDER, LETTER_ORDER, title_of
from attention_patterns.labelling.summary.summary import STABLE, StackSummary
from attention_patterns.measures import EVIDENCE
from attention_patterns.patterns import PATTERNS
from attention_patterns.programs.foreign_text import visible

_FILES = Path(__file__).parent / "template"
_SCRIPTS = ("base.js", "maps.js", "grid.js", "panel.js", "lists.js", "start.js")  # in this order
_MOST_ROWS = 200  # of shares by task
_MOST_LINES = 12  # of errors, warnings, sources
_LONGEST = 400  # characters of a line


@dataclass(frozen=True)
class Bar:
    """A pattern's share in a stack.

    Attributes:
        share: Share of the maps, per cent.
        low: Lower end of the 95 % interval, per cent; None where there are too few inputs for one.
        high: Upper end of the interval, per cent; None where there are too few inputs for one.
    """

    share: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """A stack's row in the table of shares."""

    title: str
    inputs: int
    heads: int
    stable: int
    bars: tuple[Bar, ...]


def document(
    folder: RunFolder, request: Mapping[str, Any], stacks: Sequence[StackSummary], figures: Sequence[Path]
) -> str:
    """Returns the page of a run as HTML that holds its scripts, styles, numbers and pictures.

    Args:
        folder: Folder of the run.
        request: Content of its run.json.
        stacks: Summary of the run.
        figures: Paths of its figures.
    """
    environment = Environment(
        loader=FileSystemLoader(_FILES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = "".join((_FILES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    records = folder.records()
    errors = [error for record in records for error in record.errors]
    return environment.get_template("report.html.j2").render(
        name=_shown(folder.path.resolve().name),
        style=(_FILES / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_digest=digest,
        data=as_json(contents(folder, stacks)),
        inputs=sum(record.inputs for record in records),
        maps=sum(record.maps for record in records),
        warned=sum(record.warned for record in records),
        failed=len(errors),
        errors=_tally_errors(errors),
        warnings=_tally_warnings(folder),
        rows=[_row(stack, stacks) for stack in stacks[:_MOST_ROWS]],
        rows_left=max(0, len(stacks) - _MOST_ROWS),
        patterns=list(zip(map(str, PATTERNS), LETTER_ORDER, COLOUR_ORDER, strict=True)),
        provenance=_provenance(folder, request, stacks),
        sources=_sources(request),
        sources_left=max(0, len(request.get("sources", {})) - _MOST_LINES),
        figures=bool(figures),
        measures=[(measure.label, _in_html(measure.formula)) for measure in EVIDENCE.values() if measure.of_heads],
        stable=f"{STABLE:.0%}".replace("%", " %"),
    )


def _row(stack: StackSummary, stacks: Sequence[StackSummary]) -> Row:
    ends = zip(stack.of_all.share.tolist(), stack.of_all.low.tolist(), stack.of_all.high.tolist(), strict=True)
    return Row(
        title=_shown(title_of(stack, stacks)),
        inputs=stack.inputs,
        heads=int((stack.counts.sum(axis=-1) > 0).sum()),
        stable=int(stack.stable.sum()),
        bars=tuple(Bar(100 * share, _per_cent(low), _per_cent(high)) for share, low, high in ends),
    )


def _per_cent(value: float) -> float | None:
    return None if value != value else 100 * value  # noqa: PLR0124  NaN


def _tally_errors(errors: Iterable[Mapping[str, str | None]]) -> list[Line]:
    tally = Tally()
    tally.add_errors(errors)
    return _most_frequent(tally)


def _tally_warnings(folder: RunFolder) -> list[Line]:
    tally = Tally()
    for file in folder.table_files("inputs"):
        table = pq.read_table(file, columns=["input_id", "warnings"])
        for row in table.filter(pc.greater(pc.list_value_length(table["warnings"]), 0)).to_pylist():
            for warning in row["warnings"]:
                tally.add("warning", row["input_id"], warning)
    return _most_frequent(tally)


def _most_frequent(tally: Tally) -> list[Line]:
    lines = sorted(tally.lines, key=lambda line: -line.count)[:_MOST_LINES]
    return [replace(line, example=_shown(line.example)) for line in lines]


def _provenance(folder: RunFolder, request: Mapping[str, Any], stacks: Sequence[StackSummary]) -> list[tuple[str, str]]:
    """Returns names and values of versions, models and settings of the run."""
    try:
        installed = version("attention-patterns")
    except PackageNotFoundError:
        installed = "not installed"
    models = dict.fromkeys(
        f"{stack.model}, revision {stack.revision}" if stack.revision else stack.model
        for stack in stacks
        if stack.model
    )
    tables = (
        f"schema version {request.get('schema_version')}, {len(folder.records())} of {request.get('units')} parts "
        "finished"
    )
    versions = [
        ("report by", f"attention-patterns {installed}"),
        ("classifier", ", ".join(_classifiers(folder)) or "none"),
        ("attention of", ", ".join(filter(None, models)) or "dumps"),
        ("rendering", f"version {request.get('rendering_version')}"),
        ("tables", tables),
    ]
    settings = request.get("settings") or {}
    return [(name, _shown(value)) for name, value in versions] + [
        (_shown(name), _shown(_format_setting(value))) for name, value in settings.items()
    ]


def _format_setting(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "not given", True: "yes", False: "no"}[value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _classifiers(folder: RunFolder) -> list[str]:
    """Returns names and versions of the nets that read the maps of the first and the last part."""
    files = folder.table_files("labels")
    ends = files if len(files) < 3 else [files[0], files[-1]]
    columns = (pq.read_table(file, columns=["classifier"])["classifier"].unique().to_pylist() for file in ends)
    return list(dict.fromkeys(str(name) for names in columns for name in names))


def _sources(request: Mapping[str, Any]) -> list[tuple[str, str]]:
    first = list(request.get("sources", {}).items())[:_MOST_LINES]
    return [(_shown(name), _shown(fingerprint)) for name, fingerprint in first]


def _in_html(formula: str) -> str:
    """Returns a formula without the marks of code that it has in docstrings."""
    return formula.replace("``", "")


def _shown(text: object) -> str:
    return visible(text, longest=_LONGEST)
