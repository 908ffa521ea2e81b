"""The files of a run's summary: ``summary.json`` for people and scripts, ``heads.parquet`` for tables."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attention_patterns.labelling.output.folder import PartRecord, RunFolder
from attention_patterns.labelling.output.table import HEADS, PATTERN_COLUMNS, SCHEMA_VERSION, with_versions
from attention_patterns.labelling.summary.summary import STABLE, StackSummary, summarise
from attention_patterns.labelling.summary.sums import Shares, entropy
from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.programs.whole_files import write_whole


def write_summary(folder: RunFolder, errors: Sequence[Mapping[str, str | None]]) -> list[StackSummary]:
    """Sums up a run and writes the summary beside its tables.

    Args:
        folder: Folder of the run.
        errors: Failures of the run, as lines of the errors file.

    Raises:
        OSError: A file cannot be written, for example because the disk is full.
    """
    stacks = summarise(folder.table_files("labels"))
    sink: Any = pa.BufferOutputStream()
    pq.write_table(_heads_table(stacks), sink, compression="zstd")
    write_whole(folder.path / "heads.parquet", bytes(memoryview(sink.getvalue())))
    summary = _run_entry(folder.records(), errors, stacks)
    write_whole(folder.path / "summary.json", json.dumps(summary, indent=1, allow_nan=False))
    return stacks


def _heads_table(stacks: Sequence[StackSummary]) -> pa.Table:
    rows = [row for stack in stacks for row in _head_rows(stack)]
    return pa.Table.from_pylist(rows, schema=with_versions(HEADS))


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
        **{name: _nan_to_none(values[layer, head]) for name, values in stack.measures.items()},
        "attention_to": [
            {
                "group": name,
                "inputs": int(group.of_heads[layer, head]),
                **{measure: _nan_to_none(values[layer, head]) for measure, values in group.means.items()},
            }
            for name, group in stack.attention_to.items()
        ],
    }


def _run_entry(
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
        "tasks": [_stack_entry(stack) for stack in stacks],
    }


def _stack_entry(stack: StackSummary) -> dict[str, Any]:
    labelled = stack.counts.any(axis=-1)
    commonest = np.bincount(stack.counts.argmax(axis=-1)[labelled], minlength=len(PATTERN_NAMES))
    return {
        **_key(stack),
        "inputs": stack.inputs,
        "mean_length": round(stack.mean_length, 1),
        "heads": int(labelled.sum()),
        "heads_stable": int(stack.stable[labelled].sum()),
        "heads_by_commonest_pattern": dict(zip(PATTERN_NAMES, commonest.tolist(), strict=True)),
        "uncertain": _round(np.nanmean(stack.uncertain)),
        "entropy": _round(entropy(stack.of_all.share)),
        "shares": _share_entries(stack.of_all),
        "attention_to": _attention_entries(stack, slice(None)),
        "layers": [_layer_entry(stack, n) for n in range(len(stack.layers))],
    }


def _layer_entry(stack: StackSummary, n: int) -> dict[str, Any]:
    shares = stack.of_layers
    return {
        "layer": stack.layers[n],
        "heads_stable": int(stack.stable[n].sum()),
        "entropy": _round(entropy(shares.share[n])),
        "shares": _share_entries(Shares(shares.share[n], shares.low[n], shares.high[n])),
        "attention_to": _attention_entries(stack, n),
    }


def _key(stack: StackSummary) -> dict[str, str | None]:
    return {"task": stack.task, "part": stack.part, "model": stack.model, "revision": stack.revision}


def _share_entries(shares: Shares) -> dict[str, dict[str, float | None]]:
    """Returns pattern -> its share and the ends of the interval."""
    return {
        pattern: {
            "share": _round(shares.share[n]),
            "low": _round(shares.low[n]),
            "high": _round(shares.high[n]),
        }
        for n, pattern in enumerate(PATTERN_NAMES)
    }


def _attention_entries(stack: StackSummary, layer: int | slice) -> dict[str, dict[str, float | None]]:
    """Returns token group -> number of the inputs that hold it, and the mean of each measure over these and heads."""
    return {
        name: {"inputs": group.inputs, **{measure: _mean(values[layer]) for measure, values in group.means.items()}}
        for name, group in stack.attention_to.items()
    }


def _mean(values: Any) -> float | None:
    known = values[~np.isnan(values)]
    return _round(known.mean()) if known.size else None


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _round(value: Any) -> float | None:
    """Rounds to four digits, which is finer than any run can distinguish; None for NaN."""
    return None if math.isnan(value) else round(float(value), 4)
