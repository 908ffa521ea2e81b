"""Collects the maps to be labelled: ``python -m attention_patterns_training.labels.collect_maps MODELS``, which ``training.source_models`` made.

Texts are dealt to train, validation and test, and so are the heads of each model; a map is eligible where text and head
stand on the same side, so that no text and no (model, layer, head) of the test split is seen in training. Models that
come from one encoder (MiniLM, its interventions and fine-tunings), and the two checkpoints of one model, share their
deal. One kind of source is held out of training altogether.

Maps are drawn without looking at them: a third among those whose measured attention lies in lines, a third among those
whose attention keeps to the segments, the rest among all, or lines and squares would hardly occur. A source that the
data set holds already is left as it is. Once a model is trained, ``--more`` draws a second round for the training split
alone, in the same way, among maps of which the bundled model is not sure: those teach it most.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich import print as show
from transformers import PreTrainedTokenizerFast

from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.rendering import find_causal, survey
from attention_patterns_training.labels.dataset import COLUMNS, DATA, read_labels, read_maps, write_labels, write_maps
from attention_patterns_training.sources.attention_sources import (
    HEADS,
    LAYERS,
    MODEL,
    NEEDS_PAIR,
    TextAttention,
    intervene,
    minilm_attention,
    text_model_attention,
    vision_attention,
)
from attention_patterns_training.sources.corpus import HELD_BACK, paragraphs
from attention_patterns_training.sources.source_models import TASKS
from attention_patterns_training.sources.texts import SourceText, documentation_texts, made_texts, source_texts

SEED = 20260101
SPLITS = ("train", "validation", "test")
SHARES = (0.62, 0.14, 0.24)  # of the texts and of the heads
PLAIN = {"train": 430, "validation": 70, "test": 150}  # maps of MiniLM as the model gives them
EACH_INTERVENTION = {"train": 32, "validation": 8, "test": 14}  # maps of each intervention
SHARE_OF_MAPS = {"train": 0.60, "validation": 0.15, "test": 0.25}  # of every other source
ON_MINILM = ("segment-bias", "segment-bias-no-sink", "no-sink", "causal", "temperature-half", "temperature-double")
HELD_OUT = "encoder, rotary positions"
LONG = 128  # tokens
LIMIT = 200  # tokens, of the models trained here
IMAGES = 80
LONG_KINDS = ("documentation long", "made passage", "made passages")


@dataclass(frozen=True)
class Source:
    """A kind of source, the checkpoints it is drawn from (equally), how many maps, and how many of them long."""

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
MORE = (
    Source("MiniLM", ("minilm",), 300),
    Source("MiniLM, fine-tuned", _FINE_TUNED, 280),
    Source("encoder, learned positions", ("bert-small-early", "bert-small-late"), 230),
    Source("encoder, shared layers", ("albert-small-early", "albert-small-late"), 110),
    Source("encoder, relative positions", ("xlnet-small-early", "xlnet-small-late"), 220),
    Source("decoder, learned positions", ("gpt2-small-early", "gpt2-small-late"), 140),
    Source("decoder, rotary positions", ("llama-small-early", "llama-small-late"), 160),
    Source("vision transformer", ("vit-small-early", "vit-small-late"), 40),
)  # of the second round
SURE = 0.97  # of the maps of the second round the bundled model's confidence is below it


def _deal(names: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Assigns each name to a split, in the given shares."""
    bounds = np.round(np.cumsum(SHARES) * len(names)).astype(int)
    order = rng.permutation(len(names))
    return {names[i]: SPLITS[int(np.searchsorted(bounds, rank, side="right"))] for rank, i in enumerate(order)}


def _deal_heads(layers: int, heads: int, rng: np.random.Generator) -> dict[str, str]:
    split: dict[str, str] = {}
    for layer in range(layers):
        split |= _deal([f"{layer}.{head}" for head in range(heads)], rng)
    return split


@dataclass
class Collection:
    """Maps and rows of the data set as they are gathered."""

    maps: dict[str, NDArray[np.float16]]
    rows: list[dict[str, object]]

    def add(self, found: TextAttention, attention: NDArray[np.floating], **about: object) -> None:
        """Adds one map [L, L]."""
        map_id = f"{about.pop('prefix')}-{found.text.text_id}-{about['layer']}-{about['head']}"
        self.maps[map_id] = attention.astype(np.float16)
        segments = "+".join(str(n) for n in np.bincount(found.segments))
        self.rows.append(
            {"map_id": map_id, "text_id": found.text.text_id, "length": len(attention), "segments": segments} | about
        )


def collect_minilm(into: Collection, text_split: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    """MiniLM over the texts written for this project, plain and under interventions; returns the deal of its heads."""
    texts = source_texts()
    for kind in sorted({text.kind for text in texts}):  # every kind of text is in every split that can hold one
        text_split |= _deal([text.text_id for text in texts if text.kind == kind], rng)
    head_split = _deal_heads(LAYERS, HEADS, rng)
    seen = {result.text.text_id: result for result in minilm_attention(texts)}
    for split in SPLITS:
        pairs = [(t, h) for t, s in text_split.items() if s == split for h, hs in head_split.items() if hs == split]
        for source, count in [("minilm", PLAIN[split])] + [(name, EACH_INTERVENTION[split]) for name in ON_MINILM]:
            able = [p for p in pairs if source not in NEEDS_PAIR or seen[p[0]].segments.any()]
            for i in rng.permutation(len(able))[:count]:
                text_id, name = able[i]
                layer, head = map(int, name.split("."))
                found, changed = seen[text_id], source in ON_MINILM
                attention = found.attention[layer, head]
                into.add(
                    found,
                    intervene(source, attention, found.segments) if changed else attention,
                    prefix=source,
                    source=f"MiniLM, intervention: {source}" if changed else "MiniLM",
                    model=MODEL,
                    layer=layer,
                    head=head,
                    direction="causal" if source == "causal" else "bidirectional",
                    split=split,
                )
    return head_split


def _strata(found: TextAttention) -> NDArray[np.int64]:
    """For each head [layers, heads]: 1 attention in lines, 2 attention kept to the segments, 0 neither; by measures."""
    maps = read_attention(found.attention, None)
    declared = (
        read_declaration(maps.length, segments=found.segments)
        if found.segments.any()
        else read_declaration(maps.length)
    )
    seen = survey(maps, declared, find_causal(maps, declared), image_size=64, begin=0, end=len(maps.values))
    stripe, line, segment = (seen.measures[name] for name in ("stripe_mass", "line_mass", "segment_mass"))
    by_chance = float((np.bincount(found.segments) / maps.length) @ (np.bincount(found.segments) / maps.length))
    squares = found.segments.any() & (segment - by_chance > 0.2) & (stripe < 0.5) & (line < 0.25)
    return np.where(line > 0.2, 1, np.where(squares, 2, 0)).reshape(found.attention.shape[:2])


@dataclass(frozen=True, eq=False)
class Candidate:
    """A map that may be drawn: float16 [L, L]."""

    source: Source
    checkpoint: str
    found: TextAttention
    attention: NDArray[np.float16]
    layer: int
    head: int
    split: str
    stratum: int

    @property
    def prefix(self) -> str:
        """What its map_id begins with."""
        return "-".join(filter(None, (self.checkpoint, self.source.intervention)))

    def add_to(self, collection: Collection) -> None:
        """Adds the map and what is known of it."""
        collection.add(
            self.found,
            self.attention,
            prefix=self.prefix,
            source=self.source.kind,
            model=MODEL if self.checkpoint == "minilm" else self.checkpoint,
            layer=self.layer,
            head=self.head,
            direction="causal" if self.source.kind.startswith("decoder") else "bidirectional",
            split=self.split,
        )


@dataclass(frozen=True)
class Workshop:
    """What the sources are drawn from: the models' folder, all texts, and the split each text was dealt to."""

    models: Path
    texts: list[SourceText]
    text_split: dict[str, str]

    def attention(self, checkpoint: str) -> Iterator[TextAttention]:
        """Attention of one checkpoint for the texts it reads; fine-tuned MiniLM reads few of the long ones."""
        if checkpoint.startswith("vit-"):
            return vision_attention(IMAGES, self.models / checkpoint)
        if checkpoint == "minilm":
            return minilm_attention(self.texts)
        if checkpoint.startswith("minilm-"):
            short = [t for n, t in enumerate(self.texts) if t.kind not in LONG_KINDS or n % 5 == 0]
            return minilm_attention(short, self.models / checkpoint)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.models / "tokenizer")
        return text_model_attention(self.texts, self.models / checkpoint, tokenizer, LIMIT)


def _changed(found: TextAttention, intervention: str) -> TextAttention:
    """The same under an intervention on every head; "" is none."""
    if not intervention:
        return found
    length = found.attention.shape[-1]
    changed = [intervene(intervention, one, found.segments) for one in found.attention.reshape(-1, length, length)]
    return replace(found, attention=np.stack(changed).reshape(found.attention.shape))


def _candidates(
    workshop: Workshop, source: Source, checkpoint: str, heads: dict[str, str] | None
) -> Iterator[Candidate]:
    """All maps of one checkpoint that may be drawn; heads are dealt when the model's size is seen, unless given."""
    held_out = source.kind == HELD_OUT
    for found in workshop.attention(checkpoint):
        split = workshop.text_split[found.text.text_id]
        layers, count, length = found.attention.shape[:3]
        heads = heads or _deal_heads(layers, count, np.random.default_rng([SEED, count]))
        if length < 8 or (held_out and split == "train"):
            continue
        taken = _changed(found, source.intervention)
        strata = _strata(taken)
        for layer, head in np.ndindex(layers, count):
            if held_out or heads[f"{layer}.{head}"] == split:
                attention = taken.attention[layer, head].astype(np.float16)
                side = "held-out" if held_out else split
                yield Candidate(source, checkpoint, found, attention, layer, head, side, int(strata[layer, head]))


def draw(pool: list[Candidate], count: int, rng: np.random.Generator) -> list[Candidate]:
    """``count`` of them: a third of stratum 1, a third of stratum 2, as far as there are any, the rest among all."""
    shuffled = [pool[i] for i in rng.permutation(len(pool))]
    chosen = [c for s in (1, 2) for c in [c for c in shuffled if c.stratum == s][: count // 3]]
    taken = set(map(id, chosen))
    return chosen + [c for c in shuffled if id(c) not in taken][: count - len(chosen)]


def collect_source(
    into: Collection, workshop: Workshop, source: Source, heads: dict[str, str] | None, rng: np.random.Generator
) -> None:
    """Runs the checkpoints of one source and draws its maps, of each split the same share from each."""
    for checkpoint in source.checkpoints:
        pool = list(_candidates(workshop, source, checkpoint, heads))
        for split in sorted({c.split for c in pool}):
            for long, wanted in ((False, source.maps - source.long), (True, source.long)):
                count = round(wanted / len(source.checkpoints) * SHARE_OF_MAPS.get(split, 1.0))
                part = [c for c in pool if c.split == split and (len(c.attention) >= LONG) == long]
                for one in draw(part, count, rng):
                    one.add_to(into)


def collect_more(
    into: Collection, workshop: Workshop, source: Source, heads: dict[str, str] | None, rng: np.random.Generator
) -> None:
    """Draws shorter maps of the training split of which the bundled model is not sure."""
    classifier = PatternClassifier.load()

    def unsure(one: Candidate) -> bool:
        segments = one.found.segments if one.found.segments.any() else None
        return bool(classifier.classify(one.attention, segments=segments).probabilities.max() < SURE)

    for checkpoint in source.checkpoints:
        shorter = (c for c in _candidates(workshop, source, checkpoint, heads) if len(c.attention) < LONG)
        pool = [c for c in shorter if c.split == "train" and unsure(c)]
        for one in draw(pool, round(source.maps / len(source.checkpoints)), rng):
            one.add_to(into)


def main(
    models: Annotated[Path, typer.Argument(help="the folder of training.source_models")],
    *,
    folder: Annotated[Path, typer.Option(help="the data set that grows")] = DATA,
    more: Annotated[bool, typer.Option("--more", help="draw the second round, for training alone")] = False,
) -> None:
    """Adds the maps of every source that the data set does not hold yet, or of the second round, without labels."""
    old = read_labels(folder) if (folder / "labels.csv").exists() else pd.DataFrame(columns=list(COLUMNS))
    rng, gathered = np.random.default_rng(SEED), Collection({}, [])
    text_split: dict[str, str] = {}
    minilm_heads = collect_minilm(gathered, text_split, rng)
    held_back = [p for i, p in enumerate(paragraphs(models / "corpus")) if i % HELD_BACK == 0]
    made = made_texts() + documentation_texts(held_back)
    for kind in sorted({text.kind for text in made}):
        text_split |= _deal([text.text_id for text in made if text.kind == kind], rng)
    text_split |= _deal([f"image-{i:03}" for i in range(IMAGES)], rng)
    workshop = Workshop(models, source_texts() + made, text_split)
    for number, source in enumerate(MORE if more else SOURCES):
        ready = all(c == "minilm" or (models / c).exists() for c in source.checkpoints)
        if ready and (more or source.kind not in set(old["source"])):
            heads = minilm_heads if source.kind.startswith("MiniLM") else None
            collect, seed = (collect_more, [SEED, 1, number]) if more else (collect_source, [SEED, number])
            collect(gathered, workshop, source, heads, np.random.default_rng(seed))
    table = pd.DataFrame(gathered.rows).assign(round=2 if more else 1).reindex(columns=list(COLUMNS), fill_value="")
    new = table[~table["map_id"].isin(old["map_id"])]
    both = pd.concat([old, new], ignore_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_maps(gathered.maps | (read_maps(folder) if len(old) else {}), folder)
    write_labels(both, folder)
    show(both.groupby(["source", "split"]).size().unstack(fill_value=0))


if __name__ == "__main__":
    typer.run(main)
