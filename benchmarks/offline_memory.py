"""Measures the peak memory of labelling: ``python -m benchmarks.offline_memory``.

The peak is the kernel's high-water mark of the whole process, read until it ends. Attention comes from float16 dumps
of 12 x 12 heads, and from a GPT-2 of 4 layers with 12 heads, made here, over texts of the length in question.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

from attention_patterns.labelling.sources.memory import in_words
from benchmarks.harness import HEADS, sample_attention
from benchmarks.tables import ResultTable, keep

_LENGTHS = (128, 256, 512, 1024, 2048)
_LIMITS = ("512M", "1G", "2G", "4G")
_WORDS = ["the", "ferry", "leaves", "at", "seven", "and", "who", "is", "late", "waits", "for", "tide"]


@dataclass(frozen=True)
class _Peak:
    """The peak memory of one run of the command, and the number of inputs it labelled; 0 where it refused to run."""

    bytes: int
    labelled: int


def main() -> None:
    """Prints and keeps the tables."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        table = ResultTable(
            title="Peak memory of labelling, by number of inputs",
            shows="One .npy file of 1,000 inputs of 12 x 12 heads and 64 tokens, and ten such files.",
            columns=("inputs", "peak", "times the first"),
            rows=_flat(place),
        )
        keep("offline_flat", table)
    with tempfile.TemporaryDirectory() as folder:
        table = ResultTable(
            title="Peak memory of labelling under --max-memory",
            shows="Peak and number of inputs labelled, of 4: dumps of 12 x 12 heads, and a GPT-2 of 4 layers with 12 "
            "heads. Where the limit is too small, nothing is labelled and the message says so.",
            columns=("L", "source", *(f"--max-memory {limit}" for limit in _LIMITS)),
            rows=_limits(Path(folder)),
        )
        keep("offline_memory", table)


def _flat(place: Path) -> list[tuple[str, ...]]:
    attention = sample_attention(64).astype(np.float16)
    (place / "dumps").mkdir()
    np.save(place / "dumps" / "0.npy", np.broadcast_to(attention, (1000, *attention.shape)))
    few = _peak(place, [str(place / "dumps"), "--axes", "inputs,layers,heads"])
    for n in range(1, 10):
        os.link(place / "dumps" / "0.npy", place / "dumps" / f"{n}.npy")
    many = _peak(place, [str(place / "dumps"), "--axes", "inputs,layers,heads"])
    return [(f"{peak.labelled:,}", in_words(peak.bytes), f"{peak.bytes / few.bytes:.2f}") for peak in (few, many)]


def _limits(place: Path) -> list[tuple[str, ...]]:
    model, rows = _gpt2(place), []
    for length in _LENGTHS:
        (place / str(length)).mkdir()
        attention = sample_attention(length).astype(np.float16)
        for n in range(4):
            np.savez(place / str(length) / f"{n}.npz", attention=attention)
        texts = place / f"{length}.txt"
        texts.write_text("".join(f"{' '.join(_WORDS[(n + m) % 12] for m in range(length))}\n" for n in range(4)))
        for source, inputs in (("dumps", [str(place / str(length))]), ("GPT-2", [str(texts), "--model", str(model)])):
            peaks = [_peak(place, [*inputs, "--max-memory", limit]) for limit in _LIMITS]
            rows.append((str(length), source, *(map(_cell, peaks))))
    return rows


def _cell(peak: _Peak) -> str:
    return f"{in_words(peak.bytes)}, {peak.labelled}" if peak.labelled else "too little"


def _gpt2(place: Path) -> Path:
    """Writes a model of random weights with a tokenizer that takes each word for a token, and returns its folder."""
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["[UNK]", *_WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=4096).save_pretrained(place / "gpt2")
    config = GPT2Config(
        vocab_size=16, n_positions=4096, n_embd=192, n_layer=4, n_head=HEADS, bos_token_id=0, eos_token_id=0
    )
    GPT2Model(config).save_pretrained(place / "gpt2")
    return place / "gpt2"


def _peak(place: Path, arguments: Sequence[str]) -> _Peak:
    run = place / "run"
    command = [
        sys.executable,
        "-m",
        "attention_patterns.labelling.command.cli",
        "run",
        *arguments,
        "-o",
        str(run),
        "-q",
        "--overwrite",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _high_water(process.pid))
            time.sleep(0.02)
    if process.returncode == 2:
        return _Peak(peak, 0)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return _Peak(peak, summary["inputs"])


def _high_water(process: int) -> int:
    """Returns the most bytes that a process held so far; wait4 would count those of its parent from before exec too."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    typer.run(main)
