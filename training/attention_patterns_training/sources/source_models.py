"""The transformers that are trained here for their attention, in about 90 minutes.

Small models of several kinds grow different heads: encoders with segment embeddings, trained to guess masked tokens
and whether two texts belong together, decoders with learned and with rotary positions, a vision transformer on drawn
shapes, and the MiniLM encoder fine-tuned on tasks of our own. Each model is saved twice, early and at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from attention_patterns.sample import sample_encoder
from attention_patterns_training.sources import sentences
from attention_patterns_training.sources.corpus import (
    HELD_BACK,
    VOCABULARY,
    cut_sentences,
    read_paragraphs,
    train_tokenizer,
)
from attention_patterns_training.sources.shapes import PATCH, SHAPES, SIDE, draw_shapes
from attention_patterns_training.sources.source_training import (
    SEED,
    ModelInTraining,
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
    """A model to be trained: its constructor, the number of steps, and the highest learning rate."""

    build: Callable[[], nn.Module]
    steps: int
    rate: float


def _builder(family: str, **sizes: int) -> Callable[[], nn.Module]:
    """Returns the constructor of a model by the prefix of its classes in transformers, which load slowly: "Bert"."""

    def build() -> nn.Module:
        config = getattr(transformers, f"{family}Config")
        model: nn.Module = getattr(transformers, f"{family}Model")(
            config(vocab_size=VOCABULARY, attn_implementation="eager", **sizes)
        )
        return model

    return build


_BERT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    "max_position_embeddings": 512,
}
ENCODERS = {
    "bert-small": SourceModel(_builder("Bert", **_BERT), 3200, 8e-4),
    "albert-small": SourceModel(_builder("Albert", embedding_size=96, **_BERT), 1400, 8e-4),
    "xlnet-small": SourceModel(
        _builder("XLNet", d_model=WIDTH, n_layer=5, n_head=HEADS, d_inner=2 * WIDTH), 1500, 8e-4
    ),
    "roformer-small": SourceModel(_builder("RoFormer", embedding_size=WIDTH, **_BERT), 1800, 8e-4),
}
DECODERS = {
    "gpt2-small": SourceModel(
        _builder("GPT2", n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=256), 2400, 1e-3
    ),
    "llama-small": SourceModel(
        _builder(
            "Llama", hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            num_key_value_heads=HEADS // 2, intermediate_size=2 * WIDTH, max_position_embeddings=256,
        ),
        2400,
        1e-3,
    ),
}  # fmt: skip


def train_text_model(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast, texts: list[list[str]]) -> None:
    """Trains one encoder or decoder on the corpus, ``texts`` as lists of sentences."""
    kind = (ENCODERS | DECODERS)[name]
    torch.manual_seed(SEED)
    net = ModelInTraining(kind.build())
    runs, batches = token_runs(tokenizer, texts), pair_batches(tokenizer, texts, name)

    def loss_of_batch() -> torch.Tensor:
        if name in DECODERS:
            return next_token_loss(net, next(runs))
        return masked_loss(net, tokenizer, next(batches), name)

    fit_source(net, name, Schedule(kind.steps, kind.rate), loss_of_batch, folder)


def train_vision_model(folder: Path) -> None:
    """Trains a vision transformer to name the shape that is drawn and its quarter."""
    torch.manual_seed(SEED)
    model = transformers.ViTModel(
        transformers.ViTConfig(
            image_size=SIDE, patch_size=PATCH, hidden_size=96, num_hidden_layers=5, num_attention_heads=6,
            intermediate_size=192,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    net = ModelInTraining(model, labels=len(SHAPES) * 4)
    rng = np.random.default_rng(SEED)

    def loss_of_batch() -> torch.Tensor:
        pictures = [draw_shapes(rng) for _ in range(32)]
        hidden = model(torch.stack([torch.from_numpy(picture.pixels) for picture in pictures])).last_hidden_state
        return cross_entropy(net.score_labels(hidden[:, 0]), torch.tensor([picture.label for picture in pictures]))

    fit_source(net, "vit-small", Schedule(1500, 1e-3), loss_of_batch, folder)


@dataclass(frozen=True)
class Task:
    """A task to fine-tune MiniLM on: how its examples are drawn, and how many labels there are."""

    draw: Callable[[np.random.Generator], sentences.Example]
    labels: int


TASKS = {
    "relation": Task(sentences.draw_relation, 3),
    "answer": Task(sentences.draw_answer, 2),
    "opinion": Task(sentences.draw_opinion, 2),
    "order": Task(sentences.draw_order, 2),
}


def fine_tune(task: str, folder: Path) -> None:
    """Fine-tunes the MiniLM encoder on one task of our own; all weights move."""
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(sample_encoder())
    model = AutoModel.from_pretrained(sample_encoder(), attn_implementation="eager")
    net = ModelInTraining(model, TASKS[task].labels)
    rng = np.random.default_rng(SEED)

    def loss_of_batch() -> torch.Tensor:
        examples = [TASKS[task].draw(rng) for _ in range(16)]
        texts = [e.first if e.second is None else (e.first, e.second) for e in examples]
        encoding = tokenizer(texts, padding=True, return_tensors="pt")
        hidden = model(**encoding).last_hidden_state
        return cross_entropy(net.score_labels(hidden[:, 0]), torch.tensor([e.label for e in examples]))

    fit_source(net, f"minilm-{task}", Schedule(220, 2e-4), loss_of_batch, folder)


def train_source_models(folder: Path, *, only: list[str] | None = None, threads: int = 2) -> None:
    """Trains every model, or those of the names in ``only``, that the folder does not hold yet."""
    torch.set_num_threads(threads)
    held_in = [p for i, p in enumerate(read_paragraphs(folder / "corpus")) if i % HELD_BACK]
    texts = [text for text in map(cut_sentences, held_in) if len(text) > 1]
    if not (folder / "tokenizer").exists():
        train_tokenizer([" ".join(text) for text in texts]).save_pretrained(folder / "tokenizer")
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
