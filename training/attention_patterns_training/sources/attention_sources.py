"""The models whose attention is labelled, run over the source texts as they are and under stated interventions.

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
    """The attention of all heads of a model for one text, or for one picture and its patches.

    Attributes:
        text: The input.
        tokens: Tokens, L in all.
        segments: Segment ids, int64 [L].
        attention: float32 [layers, heads, L, L].
    """

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


@dataclass(frozen=True)
class Encoding:
    """Token ids and segment ids of one input, lists of the same length."""

    ids: list[int]
    segments: list[int]


def encode(tokenizer: PreTrainedTokenizerFast, text: SourceText, limit: int, *, cls_last: bool = False) -> Encoding:
    """Encodes a text as [CLS] first [SEP] second [SEP], cut to ``limit`` tokens; in XLNet [CLS] comes last."""
    first = tokenizer.encode(text.first, add_special_tokens=False)
    second = tokenizer.encode(text.second, add_special_tokens=False) if text.second else []
    room = limit - 3
    second = second[: max(room - len(first), room // 2)]
    first = first[: room - len(second)]
    cls, sep = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    first, second = [*first, *sep], [*second, *sep] if second else []
    ids = first + second + cls if cls_last else cls + first + second
    if not second:
        return Encoding(ids, [0] * len(ids))
    later = len(second) + cls_last  # tokens of the second segment
    return Encoding(ids, [0] * (len(ids) - later) + [1] * later)


def _encode_for_decoder(tokenizer: PreTrainedTokenizerFast, text: SourceText, limit: int) -> Encoding:
    """Encodes a text, or a pair as one text, after [CLS], cut to ``limit`` tokens."""
    words = tokenizer.encode(f"{text.first} {text.second or ''}", add_special_tokens=False)
    ids = [tokenizer.cls_token_id, *words][:limit]
    return Encoding(ids, [0] * len(ids))


def text_model_attention(
    texts: list[SourceText], weights: Path, tokenizer: PreTrainedTokenizerFast, limit: int
) -> Iterator[TextAttention]:
    """Yields the attention of an encoder or decoder of ``source_models``; a decoder reads a pair as one text."""
    model = AutoModel.from_pretrained(weights, attn_implementation="eager").eval()
    decoder = model.config.model_type in ("gpt2", "llama")
    for text in texts:
        if decoder:
            encoding, types = _encode_for_decoder(tokenizer, text, limit), {}
        else:
            encoding = encode(tokenizer, text, limit, cls_last=model.config.model_type == "xlnet")
            types = {"token_type_ids": torch.tensor([encoding.segments])}
        with torch.inference_mode():
            layers = model(input_ids=torch.tensor([encoding.ids]), output_attentions=True, **types).attentions
        yield TextAttention(
            text=text,
            tokens=tuple(tokenizer.convert_ids_to_tokens(encoding.ids)),
            segments=np.array(encoding.segments),
            attention=torch.cat(layers).numpy(),
        )


def vision_attention(count: int, weights: Path) -> Iterator[TextAttention]:
    """Yields the attention of the vision transformer for drawn pictures: [CLS] and the patches, row by row."""
    model = AutoModel.from_pretrained(weights, attn_implementation="eager", add_pooling_layer=False).eval()
    rng = np.random.default_rng(20260104)
    for i in range(count):
        pixels = torch.from_numpy(draw_shapes(rng).pixels)
        with torch.inference_mode():
            layers = model(pixels[None], output_attentions=True).attentions
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


def _mask_sinks(logits: Logits) -> Logits:
    """Masks the first and the last token as keys, where this encoder parks its attention."""
    masked = logits.copy()
    masked[:, [0, -1]] = -np.inf
    return masked


INTERVENTIONS: dict[str, Change] = {
    "segment-bias": lambda logits, same: logits + 2.5 * same,
    "segment-bias-no-sink": lambda logits, same: _mask_sinks(logits) + 3.0 * same,
    "no-sink": lambda logits, _: _mask_sinks(logits),
    "causal": lambda logits, _: np.where(np.tri(len(logits), dtype=bool), logits, -np.inf),
    "sink": lambda logits, _: logits + 4.0 * (np.arange(len(logits)) == 0),
    "temperature-half": lambda logits, _: logits / 0.5,
    "temperature-double": lambda logits, _: logits / 2.0,
}
NEEDS_PAIR = {"segment-bias", "segment-bias-no-sink"}


def intervene(name: str, attention: NDArray[np.float32], segments: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns one map [L, L] under the named intervention: softmax over the changed logits, rows sum to 1."""
    with np.errstate(divide="ignore"):
        logits = INTERVENTIONS[name](np.log(attention), segments[:, None] == segments[None, :])
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)
