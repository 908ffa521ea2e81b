"""Trains the transformers whose attention is labelled: ``python -m training.source_models FOLDER``, an hour on 2 cores.

Small models of several kinds grow different heads: encoders with segment embeddings, trained to guess masked tokens
and whether two texts belong together, decoders with learned and with rotary positions, a vision transformer on drawn
shapes, and the MiniLM encoder fine-tuned on tasks of our own. Each model is saved twice, early and at the end.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich import print as show
from rich.progress import track
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    RoFormerConfig,
    RoFormerModel,
    ViTConfig,
    ViTModel,
    XLNetConfig,
    XLNetModel,
)

from training import sentences as made
from training.attention_sources import minilm_folder
from training.corpus import HELD_BACK, VOCABULARY, paragraphs, sentences, train_tokenizer
from training.shapes import PATCH, SHAPES, SIDE, draw_shapes

WIDTH, HEADS, LAYERS = 192, 8, 6
EARLY = 0.3  # of the steps: when the early checkpoint is saved
SEED = 11
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class SourceModel:
    """How one model is made and trained: ``steps`` of about a thousand tokens."""

    build: Callable[[], nn.Module]
    steps: int
    rate: float


def _encoder(config: Any, model: Any, **sizes: int) -> Callable[[], nn.Module]:
    return lambda: model(config(vocab_size=VOCABULARY, attn_implementation="eager", **sizes))


_BERT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    "max_position_embeddings": 512,
}
ENCODERS = {
    "bert-small": SourceModel(_encoder(BertConfig, BertModel, **_BERT), 3200, 8e-4),
    "albert-small": SourceModel(_encoder(AlbertConfig, AlbertModel, embedding_size=96, **_BERT), 1400, 8e-4),
    "xlnet-small": SourceModel(
        _encoder(XLNetConfig, XLNetModel, d_model=WIDTH, n_layer=5, n_head=HEADS, d_inner=2 * WIDTH), 1500, 8e-4
    ),
    "roformer-small": SourceModel(_encoder(RoFormerConfig, RoFormerModel, embedding_size=WIDTH, **_BERT), 1800, 8e-4),
}
DECODERS = {
    "gpt2-small": SourceModel(
        _encoder(GPT2Config, GPT2Model, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=256), 2400, 1e-3
    ),
    "llama-small": SourceModel(
        _encoder(
            LlamaConfig, LlamaModel, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            num_key_value_heads=HEADS // 2, intermediate_size=2 * WIDTH, max_position_embeddings=256,
        ),
        2400,
        1e-3,
    ),
}  # fmt: skip


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
        return self.transform(hidden)[..., : table.shape[1]] @ table.T


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


def encode(
    tokenizer: PreTrainedTokenizerFast, name: str, first: str, second: str | None, limit: int
) -> dict[str, list[int]]:
    """Token ids and segment ids, cut to ``limit``: [CLS] first [SEP] second [SEP]; for XLNet the [CLS] comes last."""
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    one = tokenizer.encode(first, add_special_tokens=False)
    two = tokenizer.encode(second, add_special_tokens=False) if second is not None else []
    over = len(one) + len(two) + 3 - limit
    if over > 0:
        cut_two = min(over, max(0, len(two) - limit // 3))
        two = two[: len(two) - cut_two]
        one = one[: len(one) - max(0, over - cut_two)]
    a, b = [*one, sep], ([*two, sep] if two else [])
    if name.startswith("xlnet"):
        return {"input_ids": [*a, *b, cls], "token_type_ids": [0] * len(a) + [1] * len(b) + [1 if b else 0]}
    return {"input_ids": [cls, *a, *b], "token_type_ids": [0] * (1 + len(a)) + [1] * len(b)}


def _padded(rows: list[dict[str, list[int]]]) -> Batch:
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {key: torch.zeros(len(rows), longest, dtype=torch.long) for key in (*rows[0], "attention_mask")}
    for n, row in enumerate(rows):
        for key, values in row.items():
            batch[key][n, : len(values)] = torch.tensor(values)
        batch["attention_mask"][n, : len(row["input_ids"])] = 1
    return batch


def _text_batches(
    tokenizer: PreTrainedTokenizerFast, texts: list[list[str]], name: str
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Batches of about a thousand tokens, of inputs of like lengths, and whether their two texts belong together."""
    rng = np.random.default_rng(SEED)
    while True:
        drawn = [_pairs(texts, rng) for _ in range(256)]
        rows = [(encode(tokenizer, name, first, second, 256), label) for first, second, label in drawn]
        rows.sort(key=lambda row: len(row[0]["input_ids"]))
        batches: list[list[tuple[dict[str, list[int]], int]]] = [[]]
        for row in rows:
            if (len(batches[-1]) + 1) * len(row[0]["input_ids"]) > 1024 and batches[-1]:
                batches.append([])
            batches[-1].append(row)
        for i in rng.permutation(len(batches)):
            yield _padded([row for row, _ in batches[i]]), torch.tensor([label for _, label in batches[i]])


def _masked_loss(
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


def _next_token_loss(net: Heads, batch: Batch) -> torch.Tensor:
    hidden = net.model(input_ids=batch["input_ids"]).last_hidden_state
    return cross_entropy(net.tokens(hidden[:, :-1]).flatten(0, 1), batch["input_ids"][:, 1:].flatten())


def _token_runs(tokenizer: PreTrainedTokenizerFast, texts: list[list[str]]) -> Iterator[Batch]:
    """Batches of a thousand tokens: runs of 32 to 256 tokens out of whole documents, each begun by [CLS]."""
    rng = np.random.default_rng(SEED)
    stream = np.array(tokenizer(" ".join(" ".join(t) for t in texts), add_special_tokens=False)["input_ids"])
    while True:
        length = int(rng.choice([32, 64, 64, 128, 256]))
        starts = rng.integers(0, len(stream) - length, 1024 // length)
        runs = np.stack([stream[s : s + length] for s in starts])
        runs[:, 0] = tokenizer.cls_token_id
        yield {"input_ids": torch.from_numpy(runs.astype(np.int64))}


def _train(
    net: nn.Module, name: str, steps: int, rate: float, loss_of: Callable[[], torch.Tensor], save: Callable[[str], None]
) -> None:
    """AdamW with warm-up and cosine decay; saves an early and a late checkpoint."""
    torch.manual_seed(SEED)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    warm = max(20, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(s / warm, 0.5 + 0.5 * math.cos(math.pi * min(1.0, s / steps)))
    )
    net.train()
    seen = 0.0
    for step in track(range(steps), f"{name:<16}"):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen = float(loss.detach()) if step == 0 else 0.98 * seen + 0.02 * float(loss.detach())
        if step + 1 == int(EARLY * steps):
            save("early")
            show(f"{name} early: loss {seen:.2f}")
    save("late")
    show(f"{name} late: loss {seen:.2f}")


def train_text_model(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast, texts: list[list[str]]) -> None:
    """Trains one encoder or decoder on the corpus."""
    kind = (ENCODERS | DECODERS)[name]
    torch.manual_seed(SEED)
    net = Heads(kind.build())
    if name in DECODERS:
        runs = _token_runs(tokenizer, texts)
        loss_of = lambda: _next_token_loss(net, next(runs))  # noqa: E731
    else:
        batches = _text_batches(tokenizer, texts, name)
        loss_of = lambda: _masked_loss(net, tokenizer, *next(batches), name)  # noqa: E731
    _train(net, name, kind.steps, kind.rate, loss_of, lambda when: _save(net.model, folder / f"{name}-{when}"))


def _save(model: nn.Module, folder: Path) -> None:
    model.save_pretrained(folder)  # type: ignore[operator]


def train_vision_model(folder: Path) -> None:
    """A vision transformer that says which shape is drawn, where and how many times."""
    torch.manual_seed(SEED)
    model = ViTModel(
        ViTConfig(
            image_size=SIDE, patch_size=PATCH, hidden_size=96, num_hidden_layers=5, num_attention_heads=6,
            intermediate_size=192, attn_implementation="eager",
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    net = Heads(model, labels=len(SHAPES) * 4)
    rng = np.random.default_rng(SEED)

    def loss_of() -> torch.Tensor:
        drawn = [draw_shapes(rng) for _ in range(32)]
        hidden = model(torch.stack([torch.from_numpy(image) for image, _ in drawn])).last_hidden_state
        return cross_entropy(net.label(hidden[:, 0]), torch.tensor([label for _, label in drawn]))

    _train(net, "vit-small", 1500, 1e-3, loss_of, lambda when: _save(model, folder / f"vit-small-{when}"))


TASKS: dict[str, tuple[Callable[[np.random.Generator], Any], int]] = {
    "relation": (made.pair, 3),
    "answer": (made.question_pair, 2),
    "opinion": (made.judged, 2),
    "order": (made.scrambled, 2),
}


def fine_tune(task: str, folder: Path) -> None:
    """Fine-tunes the MiniLM encoder on one task of our own; all weights move."""
    from transformers import AutoTokenizer

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(minilm_folder(), attn_implementation="eager")
    draw, labels = TASKS[task]
    net = Heads(model, labels)
    rng = np.random.default_rng(SEED)

    def loss_of() -> torch.Tensor:
        drawn = [draw(rng) for _ in range(16)]
        texts = [tuple(row[:-1]) if len(row) > 2 else row[0] for row in drawn]
        encoding = tokenizer(texts, padding=True, return_tensors="pt")
        hidden = model(**encoding).last_hidden_state
        return cross_entropy(net.label(hidden[:, 0]), torch.tensor([row[-1] for row in drawn]))

    _train(net, f"minilm-{task}", 220, 2e-4, loss_of, lambda when: _save(model, folder / f"minilm-{task}-{when}"))


def main(
    folder: Annotated[Path, typer.Argument(help="where the models and the text they read are kept")],
    only: Annotated[list[str] | None, typer.Option(help="names of models; all by default")] = None,
    threads: Annotated[int, typer.Option(help="threads of torch")] = 2,
) -> None:
    """Trains every model that is not in the folder yet."""
    torch.set_num_threads(threads)
    texts = [sentences(p) for i, p in enumerate(paragraphs(folder / "corpus")) if i % HELD_BACK]
    texts = [t for t in texts if len(t) > 1]
    if not (folder / "tokenizer").exists():
        train_tokenizer([" ".join(t) for t in texts]).save_pretrained(folder / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    names = [*ENCODERS, *DECODERS, "vit-small", *(f"minilm-{task}" for task in TASKS)]
    for name in only or names:
        if (folder / f"{name}-late").exists():
            continue
        if name == "vit-small":
            train_vision_model(folder)
        elif name.startswith("minilm-"):
            fine_tune(name.removeprefix("minilm-"), folder)
        else:
            train_text_model(name, folder, tokenizer, texts)


if __name__ == "__main__":
    typer.run(main)
