"""The training of the source models: their batches, losses and training loop."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from attention_patterns.programs.terminal import show
from attention_patterns_training.sources.attention_sources import Encoding, encode
from attention_patterns_training.sources.sentences import Example
from attention_patterns_training.sources.texts import SourceText

EARLY = 0.3  # of the steps come before the early checkpoint
SEED = 11
LONGEST = 256  # tokens of an input
BATCH = 1024  # tokens of a batch, about
Tensors = dict[str, torch.Tensor]  # what a model of transformers takes, by name; int64 [inputs, L]


@dataclass(frozen=True)
class Schedule:
    """The number of steps, of one batch each, and the highest learning rate."""

    steps: int
    rate: float


class ModelInTraining(nn.Module):
    """A source model with the layers that score tokens, tied to its embedding, and the label of an input."""

    def __init__(self, model: nn.Module, labels: int = 2) -> None:
        super().__init__()
        self.model = model
        width = int(getattr(model.config, "hidden_size"))  # noqa: B009  # nn.Module's attributes are tensors to mypy
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.score_labels = nn.Linear(width, labels)

    def score_tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns the scores of all tokens, [..., vocabulary], for hidden states [..., width].

        ALBERT's embedding is narrower than its hidden states: only their first columns are scored.
        """
        table: torch.Tensor = self.model.get_input_embeddings().weight  # type: ignore[operator]
        return torch.as_tensor(self.transform(hidden)[..., : table.shape[1]] @ table.T)


def fit_source(
    net: ModelInTraining, name: str, schedule: Schedule, loss_of_batch: Callable[[], torch.Tensor], folder: Path
) -> None:
    """Trains by AdamW with warm-up and cosine decay, and saves ``name-early`` and ``name-late`` in the folder.

    Args:
        net: The model; trained in place.
        name: Name of the model.
        schedule: Steps and learning rate.
        loss_of_batch: Draws a batch and returns the net's loss on it.
        folder: Folder of the source models.
    """
    torch.manual_seed(SEED)
    steps, warm = schedule.steps, max(20, schedule.steps // 20)
    optimizer = torch.optim.AdamW(net.parameters(), lr=schedule.rate, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / warm, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))
    )
    net.train()
    average = 0.0  # loss over some fifty steps
    for step in track(range(1, steps + 1), f"{name:<16}"):
        optimizer.zero_grad()
        loss = loss_of_batch()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rates.step()
        average = float(loss.detach()) if step == 1 else 0.98 * average + 0.02 * float(loss.detach())
        for checkpoint, last in (("early", int(EARLY * steps)), ("late", steps)):
            if step == last:
                net.model.save_pretrained(folder / f"{name}-{checkpoint}")  # type: ignore[operator]
                show(f"{name} {checkpoint}: loss {average:.2f}")


@dataclass(frozen=True)
class Batch:
    """Encoded inputs, and whether the two texts of each belong together (1) or not (0), int64 [inputs]."""

    tensors: Tensors
    labels: torch.Tensor


def _draw_pair(texts: list[list[str]], rng: np.random.Generator) -> Example:
    """Draws a text and, mostly, its continuation (1) or a text from elsewhere (0); of one to six sentences each."""

    def join(document: list[str], start: int, count: int) -> str:
        return " ".join(document[start : start + count])

    document = texts[int(rng.integers(len(texts)))]
    cut = 1 + int(rng.integers(len(document) - 1))
    long = rng.random() < 0.2
    first = join(document[:cut], max(0, cut - (6 if long else 1 + int(rng.integers(2)))), 6)
    kind = rng.random()
    if kind < 0.15:
        return Example(1, first)
    if kind < 0.5:
        return Example(1, first, join(document, cut, 6 if long else 1 + int(rng.integers(2))))
    other = texts[int(rng.integers(len(texts)))]
    return Example(0, first, join(other, int(rng.integers(len(other))), 6 if long else 1 + int(rng.integers(2))))


def _pad(encodings: list[Encoding]) -> Tensors:
    longest = max(len(encoding.ids) for encoding in encodings)
    names = ("input_ids", "token_type_ids", "attention_mask")
    tensors = {name: torch.zeros(len(encodings), longest, dtype=torch.long) for name in names}
    for n, encoding in enumerate(encodings):
        length = len(encoding.ids)
        for name, values in zip(names, (encoding.ids, encoding.segments, [1] * length), strict=True):
            tensors[name][n, :length] = torch.tensor(values)
    return tensors


def pair_batches(tokenizer: PreTrainedTokenizerFast, texts: list[list[str]], name: str) -> Iterator[Batch]:
    """Yields batches of about a thousand tokens, of inputs of similar length, for ever.

    Args:
        tokenizer: Tokenizer of the model.
        texts: Documents, each a list of at least two sentences.
        name: Name of the model; XLNet reads [CLS] last.
    """
    rng = np.random.default_rng(SEED)
    while True:
        rows: list[tuple[Encoding, int]] = []
        for example in [_draw_pair(texts, rng) for _ in range(256)]:
            text = SourceText("", "", example.first, example.second)
            rows.append((encode(tokenizer, text, LONGEST, cls_last=name.startswith("xlnet")), example.label))
        rows.sort(key=lambda row: len(row[0].ids))
        batches: list[list[tuple[Encoding, int]]] = [[]]
        for row in rows:
            if (len(batches[-1]) + 1) * len(row[0].ids) > BATCH and batches[-1]:
                batches.append([])
            batches[-1].append(row)
        for i in rng.permutation(len(batches)):
            encodings, labels = zip(*batches[i], strict=True)
            yield Batch(_pad(list(encodings)), torch.tensor(labels))


def masked_loss(net: ModelInTraining, tokenizer: PreTrainedTokenizerFast, batch: Batch, name: str) -> torch.Tensor:
    """Returns the loss on masked tokens (15 %) plus that on whether the two texts belong together."""
    ids, mask = batch.tensors["input_ids"], batch.tensors["attention_mask"]
    ordinary = (mask == 1) & (ids != tokenizer.cls_token_id) & (ids != tokenizer.sep_token_id)
    chosen = ordinary & (torch.rand(ids.shape) < 0.15)
    if not chosen.any():
        chosen = ordinary
    inputs = torch.where(chosen & (torch.rand(ids.shape) < 0.9), tokenizer.mask_token_id, ids)
    hidden = net.model(**batch.tensors | {"input_ids": inputs}).last_hidden_state
    cls = mask.sum(1) - 1 if name.startswith("xlnet") else torch.zeros(len(ids), dtype=torch.long)
    together = net.score_labels(hidden[torch.arange(len(ids)), cls])
    return cross_entropy(net.score_tokens(hidden[chosen]), ids[chosen]) + cross_entropy(together, batch.labels)


def next_token_loss(net: ModelInTraining, ids: torch.Tensor) -> torch.Tensor:
    """Returns the loss on every token of int64 [inputs, L], guessed from those before it."""
    hidden = net.model(input_ids=ids).last_hidden_state
    return cross_entropy(net.score_tokens(hidden[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def token_runs(tokenizer: PreTrainedTokenizerFast, texts: list[list[str]]) -> Iterator[torch.Tensor]:
    """Yields batches int64 [inputs, L] of about a thousand tokens, for ever.

    An input is a run of 32 to 256 tokens out of whole documents, begun by [CLS].
    """
    rng = np.random.default_rng(SEED)
    stream = np.array(tokenizer(" ".join(" ".join(t) for t in texts), add_special_tokens=False)["input_ids"])
    while True:
        length = int(rng.choice([32, 64, 64, 128, 256]))
        starts = rng.integers(0, len(stream) - length, BATCH // length)
        runs = np.stack([stream[s : s + length] for s in starts])
        runs[:, 0] = tokenizer.cls_token_id
        yield torch.from_numpy(runs.astype(np.int64))
