"""What was measured, a section a program, in ``training/results.json``: the model card is written from it."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results.json"


def read_results() -> dict[str, Any]:
    """All sections; none where nothing was measured yet."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def write_section(name: str, content: Any) -> None:
    """Replaces one section, numbers rounded to four decimals."""
    results = read_results() | {name: _rounded(content)}
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n", encoding="utf-8")


def forget(*names: str) -> None:
    """Drops sections: what was measured of a model that is no longer there."""
    results = {name: content for name, content in read_results().items() if name not in names}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _rounded(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_rounded(value) for value in content]
    return round(float(content), 4) if isinstance(content, float) else content
