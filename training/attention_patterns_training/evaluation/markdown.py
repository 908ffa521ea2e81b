"""The tables and templates of the cards."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill_template(name: str, **values: Any) -> str:
    """Returns the text of a template of the folder templates; every value it names must be given."""
    environment = Environment(
        loader=PackageLoader("attention_patterns_training"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(name).render(**values)
