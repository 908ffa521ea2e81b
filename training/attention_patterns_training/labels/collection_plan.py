"""The plan of a collection: the sources that maps are drawn from, how many of each, and the shares of the splits."""

from dataclasses import dataclass

import numpy as np

from attention_patterns_training.sources.source_models import TASKS

SEED = 20260101
SPLITS = ("train", "validation", "test")
SHARES = (0.62, 0.14, 0.24)  # of the texts and of the heads
PLAIN = {"train": 430, "validation": 70, "test": 150}  # maps of MiniLM as the model gives them
EACH_INTERVENTION = {"train": 32, "validation": 8, "test": 14}  # maps of each intervention
SHARE_OF_MAPS = {"train": 0.60, "validation": 0.15, "test": 0.25}  # of every other source
ON_MINILM = ("segment-bias", "segment-bias-no-sink", "no-sink", "causal", "temperature-half", "temperature-double")
HELD_OUT = "encoder, rotary positions"
LONG = 128  # tokens of a long map, or more
LIMIT = 200  # tokens of an input of the models trained here
IMAGES = 80
LONG_KINDS = ("documentation long", "made passage", "made passages")
SURE = 0.97  # least confidence of the bundled model in maps that the second round leaves out


@dataclass(frozen=True)
class Source:
    """A source of maps.

    Attributes:
        kind: Name in the column source.
        checkpoints: Models that its maps are drawn from, in equal numbers.
        maps: Number of maps.
        long: Number of long ones among them.
        intervention: Name of the intervention on every head, or "".
    """

    kind: str
    checkpoints: tuple[str, ...]
    maps: int
    long: int = 0
    intervention: str = ""


_FINE_TUNED = tuple(f"minilm-{task}-{when}" for task in TASKS for when in ("early", "late"))
SOURCES = (
    Source("MiniLM, long inputs", ("minilm",), 130, 130),
    Source("MiniLM, fine-tuned", _FINE_TUNED, 320, 20),
    Source("encoder, learned positions", ("bert-small-early", "bert-small-late"), 330, 45),
    Source("encoder, shared layers", ("albert-small-early", "albert-small-late"), 170, 15),
    Source("encoder, relative positions", ("xlnet-small-early", "xlnet-small-late"), 260, 40),
    Source("decoder, learned positions", ("gpt2-small-early", "gpt2-small-late"), 210, 30),
    Source("decoder, rotary positions", ("llama-small-early", "llama-small-late"), 210, 30),
    Source("decoder, intervention: sink", ("gpt2-small-late", "llama-small-late"), 80, 10, "sink"),
    Source("vision transformer", ("vit-small-early", "vit-small-late"), 120),
    Source(HELD_OUT, ("roformer-small-early", "roformer-small-late"), 250, 30),
)  # fmt: skip
SECOND_ROUND = (  # drawn with the option --more
    Source("MiniLM", ("minilm",), 300),
    Source("MiniLM, fine-tuned", _FINE_TUNED, 280),
    Source("encoder, learned positions", ("bert-small-early", "bert-small-late"), 230),
    Source("encoder, shared layers", ("albert-small-early", "albert-small-late"), 110),
    Source("encoder, relative positions", ("xlnet-small-early", "xlnet-small-late"), 220),
    Source("decoder, learned positions", ("gpt2-small-early", "gpt2-small-late"), 140),
    Source("decoder, rotary positions", ("llama-small-early", "llama-small-late"), 160),
    Source("vision transformer", ("vit-small-early", "vit-small-late"), 40),
)


def deal(names: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Returns name -> split, dealt at random in the shares of the splits."""
    bounds = np.round(np.cumsum(SHARES) * len(names)).astype(int)
    order = rng.permutation(len(names))
    return {names[i]: SPLITS[int(np.searchsorted(bounds, rank, side="right"))] for rank, i in enumerate(order)}


def deal_heads(layers: int, heads: int, rng: np.random.Generator) -> dict[str, str]:
    """Returns "layer.head" -> split; the heads of each layer are dealt by themselves."""
    split: dict[str, str] = {}
    for layer in range(layers):
        split |= deal([f"{layer}.{head}" for head in range(heads)], rng)
    return split
