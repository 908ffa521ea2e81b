"""What a run's summary is written as: ``summary.json`` for people and scripts, ``heads.parquet`` for tables."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attention_patterns.labelling.output.folder import PartRecord, RunFolder, write_whole
from attention_patterns.labelling.output.table import HEADS, PATTERN_COLUMNS, SCHEMA_VERSION, versioned
from attention_patterns.labelling.summary.summary import STABLE, StackSummary, summarise
from attention_patterns.labelling.summary.sums import Shares, entropy
from attention_patterns.patterns import PATTERN_NAMES


def write_summary(folder: RunFolder, errors: Sequence[Mapping[str, str | None]]) -> list[StackSummary]:
    """Sums the run up, and writes it beside its tables; ``errors`` are lines of the errors file.

    Raises:
        OSError: say, the disk is full.
    """
    stacks = summarise(folder.table_files("labels"))
    sink: Any = pa.BufferOutputStream()
    pq.write_table(_heads(stacks), sink, compression="zstd")
    write_whole(folder.path / "heads.parquet", bytes(memoryview(sink.getvalue())))
    said = json.dumps(_summary(folder.records(), errors, stacks), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder.path / "summary.json", said.encode())
    return stacks


def _heads(stacks: Sequence[StackSummary]) -> pa.Table:
    rows = [row for stack in stacks for row in _head_rows(stack)]
    return pa.Table.from_pylist(rows, schema=versioned(HEADS))


def _head_rows(stack: StackSummary) -> list[dict[str, Any]]:
    places = product(range(len(stack.layers)), range(len(stack.heads)))
    return [_head_row(stack, layer, head) for layer, head in places if stack.counts[layer, head].any()]


def _head_row(stack: StackSummary, layer: int, head: int) -> dict[str, Any]:
    shares = stack.of_heads
    ends = {"share": shares.share, "low": shares.low, "high": shares.high}
    return {
        **_key(stack),
        "layer": stack.layers[layer],
        "head": stack.heads[head],
        "inputs": int(stack.counts[layer, head].sum()),
        "verdict": "stable" if stack.stable[layer, head] else "mixed",
        "pattern": PATTERN_NAMES[stack.counts[layer, head].argmax()],
        **{
            f"{end}_{name}": float(values[layer, head, n])
            for n, name in enumerate(PATTERN_COLUMNS)
            for end, values in ends.items()
        },
        "entropy": float(stack.entropy[layer, head]),
        "uncertain": float(stack.uncertain[layer, head]),
        **{name: _known(values[layer, head]) for name, values in stack.measures.items()},
        "attention_to": [
            {"group": group, **{name: _known(values[layer, head]) for name, values in means.items()}}
            for group, means in stack.attention_to.items()
        ],
    }


def _summary(
    records: Sequence[PartRecord], errors: Sequence[Mapping[str, str | None]], stacks: Sequence[StackSummary]
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "inputs": sum(record.inputs for record in records),
        "maps": sum(record.maps for record in records),
        "inputs_with_warnings": sum(record.warned for record in records),
        "failed": len(errors),
        "failed_by_error": dict(Counter(str(error["error"]) for error in errors).most_common()),
        "stable_from": STABLE,
        "tasks": [_of_stack(stack) for stack in stacks],
    }


def _of_stack(stack: StackSummary) -> dict[str, Any]:
    there = stack.counts.any(axis=-1)
    commonest = np.bincount(stack.counts.argmax(axis=-1)[there], minlength=len(PATTERN_NAMES))
    return {
        **_key(stack),
        "inputs": stack.inputs,
        "mean_length": round(stack.mean_length, 1),
        "heads": int(there.sum()),
        "heads_stable": int(stack.stable[there].sum()),
        "heads_by_commonest_pattern": dict(zip(PATTERN_NAMES, commonest.tolist(), strict=True)),
        "uncertain": _rounded(np.nanmean(stack.uncertain)),
        "entropy": _rounded(entropy(stack.of_all.share)),
        "shares": _shares(stack.of_all),
        "attention_to": _attention(stack.attention_to),
        "layers": [_of_layer(stack, n) for n in range(len(stack.layers))],
    }


def _of_layer(stack: StackSummary, n: int) -> dict[str, Any]:
    shares = stack.of_layers
    return {
        "layer": stack.layers[n],
        "heads_stable": int(stack.stable[n].sum()),
        "entropy": _rounded(entropy(shares.share[n])),
        "shares": _shares(Shares(shares.share[n], shares.low[n], shares.high[n])),
        "attention_to": _attention({g: {m: v[n] for m, v in of.items()} for g, of in stack.attention_to.items()}),
    }


def _key(stack: StackSummary) -> dict[str, str | None]:
    return {"task": stack.task, "part": stack.part, "model": stack.model, "revision": stack.revision}


def _shares(shares: Shares) -> dict[str, dict[str, float | None]]:
    """Pattern -> its share and the interval."""
    return {
        pattern: {
            "share": _rounded(shares.share[n]),
            "low": _rounded(shares.low[n]),
            "high": _rounded(shares.high[n]),
        }
        for n, pattern in enumerate(PATTERN_NAMES)
    }


def _attention(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Group -> measure -> its mean over heads."""
    return {group: {name: _mean(values) for name, values in means.items()} for group, means in groups.items()}


def _mean(values: Any) -> float | None:
    known = values[~np.isnan(values)]
    return _rounded(known.mean()) if known.size else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _rounded(value: Any) -> float | None:
    """To four digits, which is more than any run can tell apart."""
    return None if math.isnan(value) else round(float(value), 4)
