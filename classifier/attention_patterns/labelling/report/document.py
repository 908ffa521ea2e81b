"""The page: what the template is given, and the template's files put together into one."""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.report.contents import as_json, contents
from attention_patterns.labelling.report.palette import COLOUR_ORDER, LETTER_ORDER, title_of
from attention_patterns.labelling.summary.summary import STABLE, StackSummary
from attention_patterns.patterns import PATTERNS

_FILES = Path(__file__).parent
_SCRIPTS = ("base.js", "maps.js", "grid.js", "panel.js", "lists.js", "start.js")  # in this order
_MOST_ROWS = 200  # of shares by task
_MOST_LINES = 12  # of errors, warnings, sources
_LONGEST = 400  # letters of a line


@dataclass(frozen=True)
class Bar:
    """A pattern's share in a stack.

    Attributes:
        share: per cent.
        low: of its 95 % interval, per cent; None where there are too few inputs.
        high: likewise.
    """

    share: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """A stack's line in the table of shares."""

    title: str
    inputs: int
    heads: int
    stable: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Line:
    """Something that happened to some inputs: how many, its name, and how the first of them was told of."""

    count: int
    name: str
    example: str


def document(folder: RunFolder, job: Mapping[str, Any], stacks: Sequence[StackSummary], figures: Sequence[str]) -> str:
    """The report as HTML; scripts, styles, numbers and pictures stand in it."""
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
        name=_clean(folder.path.resolve().name),
        style=(_FILES / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_digest=digest,
        data=as_json(contents(folder, stacks)),
        inputs=sum(record.inputs for record in records),
        maps=sum(record.maps for record in records),
        warned=sum(record.warned for record in records),
        failed=len(errors),
        errors=_errors(errors)[:_MOST_LINES],
        warnings=_grouped(_warnings(folder))[:_MOST_LINES],
        rows=[_row(stack, stacks) for stack in stacks[:_MOST_ROWS]],
        rows_left=max(0, len(stacks) - _MOST_ROWS),
        patterns=list(zip(map(str, PATTERNS), LETTER_ORDER, COLOUR_ORDER, strict=True)),
        made=_made(folder, job, stacks),
        sources=_sources(job),
        sources_left=max(0, len(job.get("sources", {})) - _MOST_LINES),
        figures=[name for name in figures if name.endswith(".svg")],
        stable=f"{STABLE:.0%}".replace("%", " %"),
    )


def _row(stack: StackSummary, stacks: Sequence[StackSummary]) -> Row:
    ends = zip(stack.of_all.share.tolist(), stack.of_all.low.tolist(), stack.of_all.high.tolist(), strict=True)
    return Row(
        title=_clean(title_of(stack, stacks)),
        inputs=stack.inputs,
        heads=int((stack.counts.sum(axis=-1) > 0).sum()),
        stable=int(stack.stable.sum()),
        bars=tuple(Bar(100 * share, _per_cent(low), _per_cent(high)) for share, low, high in ends),
    )


def _per_cent(value: float) -> float | None:
    return None if value != value else 100 * value  # noqa: PLR0124  NaN


def _errors(errors: Iterable[Mapping[str, str | None]]) -> list[Line]:
    """Failed inputs by the kind of error and its sentence, in which numbers and names count for nothing."""
    told = ((str(one["error"]), f"{one['input_id']}: {one['message']}", _kind(str(one["message"]))) for one in errors)
    return _grouped(told)


def _warnings(folder: RunFolder) -> Iterator[tuple[str, str, str]]:
    for file in folder.table_files("inputs"):
        table = pq.read_table(file, columns=["input_id", "warnings"])
        for one in table.filter(pc.greater(pc.list_value_length(table["warnings"]), 0)).to_pylist():
            for warning in one["warnings"]:
                yield "warning", f"{one['input_id']}: {warning}", _kind(warning)


def _kind(sentence: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*\d\S*", "#", sentence)


def _grouped(told: Iterable[tuple[str, str, str]]) -> list[Line]:
    """Lines of (name, sentence, kind), most frequent first; each shows the first sentence of its kind."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for name, sentence, kind in told:
        counts[name, kind] += 1
        first.setdefault((name, kind), sentence)
    return [Line(count, name, _clean(first[name, kind])) for (name, kind), count in counts.most_common()]


def _made(folder: RunFolder, job: Mapping[str, Any], stacks: Sequence[StackSummary]) -> list[tuple[str, str]]:
    """How the run was made, as names and values."""
    try:
        installed = version("attention-patterns")
    except PackageNotFoundError:
        installed = "not installed"
    models = dict.fromkeys(
        f"{stack.model}, revision {stack.revision}" if stack.revision else stack.model
        for stack in stacks
        if stack.model
    )
    made = [
        ("report by", f"attention-patterns {installed}"),
        ("classifier", ", ".join(_classifiers(folder)) or "none"),
        ("attention of", ", ".join(filter(None, models)) or "dumps"),
        ("rendering", f"version {job.get('rendering_version')}"),
        (
            "tables",
            f"schema {job.get('schema_version')}, {len(folder.records())} of {job.get('units')} parts are there",
        ),
    ]
    settings = job.get("settings") or {}
    return [(name, _clean(value)) for name, value in made] + [
        (_clean(str(name)), _clean(_told(value))) for name, value in settings.items()
    ]


def _told(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "not given", True: "yes", False: "no"}[value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _classifiers(folder: RunFolder) -> list[str]:
    """Names and versions of the nets that read the maps of the first and the last part."""
    files = folder.table_files("labels")
    ends = files if len(files) < 3 else [files[0], files[-1]]
    found = (pq.read_table(file, columns=["classifier"])["classifier"].unique().to_pylist() for file in ends)
    return list(dict.fromkeys(str(name) for names in found for name in names))


def _sources(job: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(_clean(name), _clean(str(state))) for name, state in list(job.get("sources", {}).items())[:_MOST_LINES]]


def _clean(text: str) -> str:
    """Text of a bearable length, in which a control character shows."""
    shown = "".join(letter if letter.isprintable() else "�" for letter in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} …"
