"""Memory of labelling offline: ``python -m benchmarks.offline_memory``.

The peak is the kernel's high-water mark of the whole process, read until it ends. Attention is that of float16 dumps of
12 x 12 heads, and of a small GPT-2 of 4 layers with 12 heads, made here, over texts of so many tokens.
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
from benchmarks.harness import HEADS, keep, sample_attention

_LENGTHS = (128, 256, 512, 1024, 2048)
_LIMITS = ("512M", "1G", "2G", "4G")
_WORDS = ["the", "ferry", "leaves", "at", "seven", "and", "who", "is", "late", "waits", "for", "tide"]


@dataclass(frozen=True)
class _Peak:
    """What a run of the command took, and how many inputs it labelled and failed."""

    bytes: int
    labelled: int
    failed: int


def main() -> None:
    """Prints and keeps the tables."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        title = "Peak memory by inputs: one .npy file of 1,000 inputs of 12 x 12 heads, L = 64, and ten such files"
        keep("offline_flat", title, ("inputs", "peak", "times the first"), _flat(place))
    with tempfile.TemporaryDirectory() as folder:
        title = "Peak memory under --max-memory, and inputs labelled of 4; dumps of 12 x 12 heads, GPT-2 of 4 x 12"
        keep(
            "offline_memory",
            title,
            ("L", "source", *(f"--max-memory {most}" for most in _LIMITS)),
            _limits(Path(folder)),
        )


def _flat(place: Path) -> list[tuple[str, ...]]:
    one = sample_attention(64).astype(np.float16)
    (place / "dumps").mkdir()
    np.save(place / "dumps" / "0.npy", np.broadcast_to(one, (1000, *one.shape)))
    few = _peak(place, [str(place / "dumps")])
    for n in range(1, 10):
        os.link(place / "dumps" / "0.npy", place / "dumps" / f"{n}.npy")
    many = _peak(place, [str(place / "dumps")])
    return [(f"{one.labelled:,}", in_words(one.bytes), f"{one.bytes / few.bytes:.2f}") for one in (few, many)]


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
            peaks = [_peak(place, [*inputs, "--max-memory", most]) for most in _LIMITS]
            rows.append((str(length), source, *(_told(peak) for peak in peaks)))
    return rows


def _told(peak: _Peak) -> str:
    return f"{in_words(peak.bytes)}, {peak.labelled}" if peak.labelled else "told that it is too little"


def _gpt2(place: Path) -> Path:
    """A folder with a model of random weights, and a tokenizer that takes each word for a token."""
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
        return _Peak(peak, 0, 0)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return _Peak(peak, summary["inputs"], summary["failed"])


def _high_water(process: int) -> int:
    """The most bytes that a process had so far; what wait4 says counts those of its parent from before exec."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    typer.run(main)
