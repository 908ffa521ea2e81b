"""The figures of the model card: ``results.json``, one section per program that measures."""

import json
from pathlib import Path
from typing import Any

from attention_patterns.programs.whole_files import write_whole

RESULTS = Path(__file__).parents[1] / "results.json"


def read_results() -> dict[str, Any]:
    """Reads all sections; {} before anything is measured."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def write_section(name: str, content: Any) -> None:
    """Replaces one section, numbers rounded to four decimals."""
    results = read_results() | {name: _round(content)}
    write_whole(RESULTS, json.dumps(dict(sorted(results.items())), indent=1) + "\n")


def drop_sections(*names: str) -> None:
    """Drops sections whose figures are of a model that is no longer there."""
    results = {name: content for name, content in read_results().items() if name not in names}
    write_whole(RESULTS, json.dumps(results, indent=1) + "\n")


def _round(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _round(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_round(value) for value in content]
    return round(float(content), 4) if isinstance(content, float) else content
