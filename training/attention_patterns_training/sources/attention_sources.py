"""Runs the models whose attention is labelled over the source texts, as they are and under stated interventions.

An intervention is a bias on the attention logits of one head, or a temperature: the softmax is taken again over
``log A + bias``, which equals adding the bias to the head's own logits. Such maps are marked by their source.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from attention_patterns.sample import sample_encoder
from attention_patterns_training.sources.shapes import draw_shapes
from attention_patterns_training.sources.texts import SourceText

MODEL = "all-MiniLM-L6-v2"
LAYERS, HEADS = 6, 12


@dataclass(frozen=True)
class TextAttention:
    """Attention of all heads for one text: float32 [layers, heads, L, L], tokens and segment ids of length L."""

    text: SourceText
    tokens: tuple[str, ...]
    segments: NDArray[np.int64]
    attention: NDArray[np.float32]


def minilm_attention(texts: list[SourceText], weights: Path | None = None) -> Iterator[TextAttention]:
    """Yields the attention of the MiniLM encoder, or of a fine-tuned one, text pairs with segment ids 0 and 1."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    tokenizer = AutoTokenizer.from_pretrained(sample_encoder())
    model = AutoModel.from_pretrained(weights or sample_encoder(), attn_implementation="eager").eval()
    for text in texts:
        encoding = tokenizer(text.first, text.second, return_tensors="pt", truncation=True)
        with torch.inference_mode():
            layers = model(**encoding, output_attentions=True).attentions
        yield TextAttention(
            text=text,
            tokens=tuple(tokenizer.convert_ids_to_tokens(encoding["input_ids"][0].tolist())),
            segments=encoding["token_type_ids"][0].numpy(),
            attention=torch.cat(layers).numpy(),  # each [1, heads, L, L] -> [layers, heads, L, L]
        )


def encode(
    tokenizer: PreTrainedTokenizerFast, text: SourceText, limit: int, *, cls_last: bool = False
) -> tuple[list[int], list[int]]:
    """Token ids and segment ids, cut to ``limit`` tokens: [CLS] first [SEP] second [SEP]; in XLNet [CLS] comes last."""
    one = tokenizer.encode(text.first, add_special_tokens=False)
    two = tokenizer.encode(text.second, add_special_tokens=False) if text.second else []
    room = limit - 3
    two = two[: max(room - len(one), room // 2)]
    one = one[: room - len(two)]
    cls, sep = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    first, second = [*one, *sep], [*two, *sep] if two else []
    ids = first + second + cls if cls_last else cls + first + second
    return ids, [0] * (len(ids) - len(second) - cls_last) + [1] * (len(second) + cls_last) if two else [0] * len(ids)


def text_model_attention(
    texts: list[SourceText], weights: Path, tokenizer: PreTrainedTokenizerFast, limit: int
) -> Iterator[TextAttention]:
    """Yields the attention of a model of ``source_models``; decoders read one text, a pair as two lines of it."""
    model = AutoModel.from_pretrained(weights, attn_implementation="eager").eval()
    decoder = model.config.model_type in ("gpt2", "llama")
    for text in texts:
        if decoder:
            ids = [
                tokenizer.cls_token_id,
                *tokenizer.encode(f"{text.first} {text.second or ''}", add_special_tokens=False),
            ]
            ids, segments = ids[:limit], [0] * len(ids[:limit])
        else:
            ids, segments = encode(tokenizer, text, limit, cls_last=model.config.model_type == "xlnet")
        types = {} if decoder else {"token_type_ids": torch.tensor([segments])}
        with torch.inference_mode():
            layers = model(input_ids=torch.tensor([ids]), output_attentions=True, **types).attentions
        yield TextAttention(
            text=text,
            tokens=tuple(tokenizer.convert_ids_to_tokens(ids)),
            segments=np.array(segments),
            attention=torch.cat(layers).numpy(),
        )


def vision_attention(count: int, weights: Path) -> Iterator[TextAttention]:
    """Yields the attention of the vision transformer for drawn images: [CLS] and the patches, row by row."""
    model = AutoModel.from_pretrained(weights, attn_implementation="eager", add_pooling_layer=False).eval()
    rng = np.random.default_rng(20260104)
    for i in range(count):
        image, _ = draw_shapes(rng)
        with torch.inference_mode():
            layers = model(torch.from_numpy(image)[None], output_attentions=True).attentions
        attention = torch.cat(layers).numpy()
        length = attention.shape[-1]
        yield TextAttention(
            text=SourceText(f"image-{i:03}", "image", ""),
            tokens=("[CLS]", *(f"patch {n}" for n in range(length - 1))),
            segments=np.zeros(length, np.int64),
            attention=attention,
        )


Logits = NDArray[np.float32]  # [L, L], up to a constant in each row
Change = Callable[[Logits, NDArray[np.bool_]], Logits]  # of the logits, given which pairs are of one segment


def _no_sink(logits: Logits) -> Logits:
    """Masks the first and the last token as keys, where this encoder parks its attention."""
    masked = logits.copy()
    masked[:, [0, -1]] = -np.inf
    return masked


INTERVENTIONS: dict[str, Change] = {
    "segment-bias": lambda logits, same: logits + 2.5 * same,
    "segment-bias-no-sink": lambda logits, same: _no_sink(logits) + 3.0 * same,
    "no-sink": lambda logits, _: _no_sink(logits),
    "causal": lambda logits, _: np.where(np.tri(len(logits), dtype=bool), logits, -np.inf),
    "sink": lambda logits, _: logits + 4.0 * (np.arange(len(logits)) == 0),
    "temperature-half": lambda logits, _: logits / 0.5,
    "temperature-double": lambda logits, _: logits / 2.0,
}
NEEDS_PAIR = {"segment-bias", "segment-bias-no-sink"}


def intervene(name: str, attention: NDArray[np.float32], segments: NDArray[np.int64]) -> NDArray[np.float32]:
    """One map [L, L] under the named intervention: softmax over the changed logits, rows sum to 1."""
    with np.errstate(divide="ignore"):
        logits = INTERVENTIONS[name](np.log(attention), segments[:, None] == segments[None, :])
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)
