"""Trains the transformers whose attention is labelled: ``python -m attention_patterns_training.sources.source_models FOLDER``, 90 minutes.

Small models of several kinds grow different heads: encoders with segment embeddings, trained to guess masked tokens
and whether two texts belong together, decoders with learned and with rotary positions, a vision transformer on drawn
shapes, and the MiniLM encoder fine-tuned on tasks of our own. Each model is saved twice, early and at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModel,
    AutoTokenizer,
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

from attention_patterns.sample import sample_encoder
from attention_patterns_training.sources import sentences as made
from attention_patterns_training.sources.corpus import HELD_BACK, VOCABULARY, paragraphs, sentences, train_tokenizer
from attention_patterns_training.sources.shapes import PATCH, SHAPES, SIDE, draw_shapes
from attention_patterns_training.sources.source_training import (
    SEED,
    Heads,
    Schedule,
    fit_source,
    masked_loss,
    next_token_loss,
    pair_batches,
    token_runs,
)

WIDTH, HEADS, LAYERS = 192, 8, 6


@dataclass(frozen=True)
class SourceModel:
    """How one model is made and trained."""

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


def train_text_model(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast, texts: list[list[str]]) -> None:
    """Trains one encoder or decoder on the corpus."""
    kind = (ENCODERS | DECODERS)[name]
    torch.manual_seed(SEED)
    net = Heads(kind.build())
    runs, batches = token_runs(tokenizer, texts), pair_batches(tokenizer, texts, name)

    def loss_of() -> torch.Tensor:
        return (
            next_token_loss(net, next(runs)) if name in DECODERS else masked_loss(net, tokenizer, *next(batches), name)
        )

    fit_source(net, name, Schedule(kind.steps, kind.rate), loss_of, folder)


def train_vision_model(folder: Path) -> None:
    """A vision transformer that says which shape is drawn, where and how many times."""
    torch.manual_seed(SEED)
    model = ViTModel(
        ViTConfig(
            image_size=SIDE, patch_size=PATCH, hidden_size=96, num_hidden_layers=5, num_attention_heads=6,
            intermediate_size=192,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    net = Heads(model, labels=len(SHAPES) * 4)
    rng = np.random.default_rng(SEED)

    def loss_of() -> torch.Tensor:
        drawn = [draw_shapes(rng) for _ in range(32)]
        hidden = model(torch.stack([torch.from_numpy(image) for image, _ in drawn])).last_hidden_state
        return cross_entropy(net.label(hidden[:, 0]), torch.tensor([label for _, label in drawn]))

    fit_source(net, "vit-small", Schedule(1500, 1e-3), loss_of, folder)


TASKS: dict[str, tuple[Callable[[np.random.Generator], Any], int]] = {
    "relation": (made.pair, 3),
    "answer": (made.question_pair, 2),
    "opinion": (made.judged, 2),
    "order": (made.scrambled, 2),
}


def fine_tune(task: str, folder: Path) -> None:
    """Fine-tunes the MiniLM encoder on one task of our own; all weights move."""
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(sample_encoder())
    model = AutoModel.from_pretrained(sample_encoder(), attn_implementation="eager")
    draw, labels = TASKS[task]
    net = Heads(model, labels)
    rng = np.random.default_rng(SEED)

    def loss_of() -> torch.Tensor:
        drawn = [draw(rng) for _ in range(16)]
        texts = [tuple(row[:-1]) if len(row) > 2 else row[0] for row in drawn]
        encoding = tokenizer(texts, padding=True, return_tensors="pt")
        hidden = model(**encoding).last_hidden_state
        return cross_entropy(net.label(hidden[:, 0]), torch.tensor([row[-1] for row in drawn]))

    fit_source(net, f"minilm-{task}", Schedule(220, 2e-4), loss_of, folder)


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
