"""What the benchmarks share: attention to work on, rates by callers, rounds in turns, and results that are kept."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

LAYERS, HEADS = 12, 12
RESULTS = Path(__file__).parent / "results.json"
_WIDTH = 120  # of a table, at least; where nothing is known of the terminal, 80 are taken and it is cut
README = Path(__file__).parent.parent / "README.md"
_BEGIN, _END = "<!-- benchmarks: written by python -m benchmarks.harness -->", "<!-- end of benchmarks -->"


def sample_attention(length: int, layers: int = LAYERS) -> NDArray[np.float32]:
    """Attention [layers, 12, L, L]: softmaxes of random logits with a sink in the first column."""
    logits = 2 * np.random.default_rng(length).standard_normal((layers, HEADS, length, length), np.float32)
    logits[..., 0] += 4
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)


@dataclass(frozen=True)
class Load:
    """What callers saw: calls a second, and quantiles of how long a call took, ms."""

    rate: float
    median: float
    p99: float


def load(call: Callable[[], object], *, callers: int, seconds: float) -> Load:
    """Calls from ``callers`` threads in a loop for ``seconds``, each at least once."""
    started = time.perf_counter()
    until = started + seconds

    def caller(_: int) -> list[float]:
        times: list[float] = []
        while not times or time.perf_counter() < until:
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
        return times

    with ThreadPoolExecutor(callers) as pool:
        times = np.concatenate(list(pool.map(caller, range(callers))))
    median, p99 = 1000 * np.quantile(times, (0.5, 0.99))
    return Load(len(times) / (time.perf_counter() - started), float(median), float(p99))


def in_turns(
    calls: Mapping[str, Callable[[], object]], *, callers: int, seconds: float, rounds: int
) -> dict[str, Load]:
    """Loads all in turns, round after round; medians over the rounds. The first call of each is not counted."""
    for call in calls.values():
        call()
    found: dict[str, list[Load]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(load(call, callers=callers, seconds=seconds))
    return {
        name: Load(*(float(np.median([getattr(one, field) for one in loads])) for field in ("rate", "median", "p99")))
        for name, loads in found.items()
    }


def keep(section: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, and keeps it for the README."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, _WIDTH)
    console.print(table)
    content: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    content[section] = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def written(content: Mapping[str, Any]) -> str:
    """The results as Markdown tables."""
    parts = []
    for section in content.values():
        head = [" | ".join(section["columns"]), " | ".join("---" for _ in section["columns"])]
        lines = [*head, *(" | ".join(row) for row in section["rows"])]
        parts.append(f"{section['title']}\n\n" + "\n".join(f"| {line} |" for line in lines))
    return "\n\n".join(parts)


def main() -> None:
    """Writes the results into the README."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    tables = written(json.loads(RESULTS.read_text(encoding="utf-8")))
    README.write_text(f"{before}{_BEGIN}\n{tables}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
