"""How the source models are trained: batches, losses and the loop."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich import print as show
from rich.progress import track
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from attention_patterns_training.sources.attention_sources import encode
from attention_patterns_training.sources.texts import SourceText

EARLY = 0.3  # of the steps: when the early checkpoint is saved
SEED = 11
LONGEST = 256  # tokens
BATCH = 1024  # tokens
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Schedule:
    """Steps of one batch each, and the highest learning rate."""

    steps: int
    rate: float


class Heads(nn.Module):
    """A model with what it is trained by: guesses of tokens, tied to its embedding, and of a label at one position."""

    def __init__(self, model: nn.Module, labels: int = 2) -> None:
        super().__init__()
        self.model = model
        width = int(getattr(model.config, "hidden_size"))  # noqa: B009  # nn.Module's attributes are tensors to mypy
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.label = nn.Linear(width, labels)

    def tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of all tokens; ALBERT's embedding is narrower than its layers: the first columns are compared."""
        table: torch.Tensor = self.model.get_input_embeddings().weight  # type: ignore[operator]
        return torch.as_tensor(self.transform(hidden)[..., : table.shape[1]] @ table.T)


def fit_source(net: Heads, name: str, schedule: Schedule, loss_of: Callable[[], torch.Tensor], folder: Path) -> None:
    """AdamW with warm-up and cosine decay; saves ``name-early`` and ``name-late`` in the folder."""
    torch.manual_seed(SEED)
    steps, warm = schedule.steps, max(20, schedule.steps // 20)
    optimizer = torch.optim.AdamW(net.parameters(), lr=schedule.rate, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / warm, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))
    )
    net.train()
    seen = 0.0  # the loss, averaged over some fifty steps
    for step in track(range(1, steps + 1), f"{name:<16}"):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rates.step()
        seen = float(loss.detach()) if step == 1 else 0.98 * seen + 0.02 * float(loss.detach())
        for when, due in (("early", int(EARLY * steps)), ("late", steps)):
            if step == due:
                net.model.save_pretrained(folder / f"{name}-{when}")  # type: ignore[operator]
                show(f"{name} {when}: loss {seen:.2f}")


def _pairs(texts: list[list[str]], rng: np.random.Generator) -> tuple[str, str | None, int]:
    """A text and, mostly, its continuation (label 1) or one from elsewhere (label 0); of one to six sentences each."""

    def part(document: list[str], start: int, count: int) -> str:
        return " ".join(document[start : start + count])

    document = texts[int(rng.integers(len(texts)))]
    cut = 1 + int(rng.integers(len(document) - 1))
    long = rng.random() < 0.2
    first = part(document[:cut], max(0, cut - (6 if long else 1 + int(rng.integers(2)))), 6)
    kind = rng.random()
    if kind < 0.15:
        return first, None, 1
    if kind < 0.5:
        return first, part(document, cut, 6 if long else 1 + int(rng.integers(2))), 1
    other = texts[int(rng.integers(len(texts)))]
    return first, part(other, int(rng.integers(len(other))), 6 if long else 1 + int(rng.integers(2))), 0


def _encoded(tokenizer: PreTrainedTokenizerFast, name: str, first: str, second: str | None) -> dict[str, list[int]]:
    text = SourceText("", "", first, second)
    ids, segments = encode(tokenizer, text, LONGEST, cls_last=name.startswith("xlnet"))
    return {"input_ids": ids, "token_type_ids": segments}


def _padded(rows: list[dict[str, list[int]]]) -> Batch:
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {key: torch.zeros(len(rows), longest, dtype=torch.long) for key in (*rows[0], "attention_mask")}
    for n, row in enumerate(rows):
        for key, values in row.items():
            batch[key][n, : len(values)] = torch.tensor(values)
        batch["attention_mask"][n, : len(row["input_ids"])] = 1
    return batch


def pair_batches(
    tokenizer: PreTrainedTokenizerFast, texts: list[list[str]], name: str
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Batches of about a thousand tokens, of inputs of like lengths, and whether their two texts belong together."""
    rng = np.random.default_rng(SEED)
    while True:
        drawn = [_pairs(texts, rng) for _ in range(256)]
        rows = [(_encoded(tokenizer, name, first, second), label) for first, second, label in drawn]
        rows.sort(key=lambda row: len(row[0]["input_ids"]))
        batches: list[list[tuple[dict[str, list[int]], int]]] = [[]]
        for row in rows:
            if (len(batches[-1]) + 1) * len(row[0]["input_ids"]) > BATCH and batches[-1]:
                batches.append([])
            batches[-1].append(row)
        for i in rng.permutation(len(batches)):
            yield _padded([row for row, _ in batches[i]]), torch.tensor([label for _, label in batches[i]])


def masked_loss(
    net: Heads, tokenizer: PreTrainedTokenizerFast, batch: Batch, labels: torch.Tensor, name: str
) -> torch.Tensor:
    """Masked tokens (15 %) and whether the two texts belong together."""
    ids = batch["input_ids"]
    ordinary = (batch["attention_mask"] == 1) & (ids != tokenizer.cls_token_id) & (ids != tokenizer.sep_token_id)
    chosen = ordinary & (torch.rand(ids.shape) < 0.15)
    if not chosen.any():
        chosen = ordinary
    inputs = torch.where(chosen & (torch.rand(ids.shape) < 0.9), tokenizer.mask_token_id, ids)
    hidden = net.model(**batch | {"input_ids": inputs}).last_hidden_state
    at = batch["attention_mask"].sum(1) - 1 if name.startswith("xlnet") else torch.zeros(len(ids), dtype=torch.long)
    together = net.label(hidden[torch.arange(len(ids)), at])
    return cross_entropy(net.tokens(hidden[chosen]), ids[chosen]) + cross_entropy(together, labels)


def next_token_loss(net: Heads, batch: Batch) -> torch.Tensor:
    """Every token guessed from those before it."""
    hidden = net.model(input_ids=batch["input_ids"]).last_hidden_state
    return cross_entropy(net.tokens(hidden[:, :-1]).flatten(0, 1), batch["input_ids"][:, 1:].flatten())


def token_runs(tokenizer: PreTrainedTokenizerFast, texts: list[list[str]]) -> Iterator[Batch]:
    """Batches of a thousand tokens: runs of 32 to 256 tokens out of whole documents, each begun by [CLS]."""
    rng = np.random.default_rng(SEED)
    stream = np.array(tokenizer(" ".join(" ".join(t) for t in texts), add_special_tokens=False)["input_ids"])
    while True:
        length = int(rng.choice([32, 64, 64, 128, 256]))
        starts = rng.integers(0, len(stream) - length, BATCH // length)
        runs = np.stack([stream[s : s + length] for s in starts])
        runs[:, 0] = tokenizer.cls_token_id
        yield {"input_ids": torch.from_numpy(runs.astype(np.int64))}
