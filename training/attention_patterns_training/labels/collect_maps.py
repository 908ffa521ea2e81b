"""The maps to be labelled: run by the source models, drawn, and dealt to splits.

Texts are dealt to train, validation and test, and so are the heads of each model; a map is eligible where text and head
are of the same split, so that no text and no (model, layer, head) of the test split is seen in training. Models that
come from one encoder (MiniLM, its interventions and fine-tunings), and the two checkpoints of one model, share their
deal. One kind of source is held out of training altogether.

Maps are drawn without looking at them: a third among those whose measured attention lies in lines, a third among those
whose attention keeps to the segments, the rest among all, or lines and squares would hardly occur. A source that the
data set holds already is left as it is. Once a model is trained, a second round can be drawn for the training split
alone, in the same way, among maps of which the bundled model is not sure: those teach it most.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from attention_patterns.attention_map import SHORTEST_LABELLED, read_attention, read_declaration
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.programs.terminal import show
from attention_patterns.rendering import find_causal, survey
from attention_patterns_training.labels.collection_plan import (
    EACH_INTERVENTION,
    HELD_OUT,
    IMAGES,
    LIMIT,
    LONG,
    LONG_KINDS,
    ON_MINILM,
    PLAIN,
    SECOND_ROUND,
    SEED,
    SHARE_OF_MAPS,
    SOURCES,
    SPLITS,
    SURE,
    Source,
    deal,
    deal_heads,
)
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
from attention_patterns_training.sources.corpus import HELD_BACK, read_paragraphs
from attention_patterns_training.sources.texts import SourceText, documentation_texts, make_texts, source_texts


@dataclass
class Collection:
    """The maps and rows of a data set as they are gathered."""

    maps: dict[str, NDArray[np.float16]]
    rows: list[dict[str, object]]

    def add(self, result: TextAttention, attention: NDArray[np.floating], *, prefix: str, **columns: object) -> None:
        """Adds one map [L, L] of an input, with what its row holds beside the input's own columns."""
        map_id = f"{prefix}-{result.text.text_id}-{columns['layer']}-{columns['head']}"
        self.maps[map_id] = attention.astype(np.float16)
        segments = "+".join(str(n) for n in np.bincount(result.segments))
        row = {"map_id": map_id, "text_id": result.text.text_id, "length": len(attention), "segments": segments}
        self.rows.append(row | columns)


def collect_minilm(into: Collection, text_split: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    """Draws maps of MiniLM over the texts written for this project, plain and under interventions.

    Adds the split of each text to ``text_split``, and returns that of each head, "layer.head" -> split.
    """
    texts = source_texts()
    for kind in sorted({text.kind for text in texts}):  # every kind of text is in every split that can hold one
        text_split |= deal([text.text_id for text in texts if text.kind == kind], rng)
    head_split = deal_heads(LAYERS, HEADS, rng)
    results = {result.text.text_id: result for result in minilm_attention(texts)}
    for split in SPLITS:
        pairs = [(t, h) for t, s in text_split.items() if s == split for h, hs in head_split.items() if hs == split]
        for variant, count in [("minilm", PLAIN[split])] + [(name, EACH_INTERVENTION[split]) for name in ON_MINILM]:
            eligible = [p for p in pairs if variant not in NEEDS_PAIR or results[p[0]].segments.any()]
            for i in rng.permutation(len(eligible))[:count]:
                text_id, head = eligible[i]
                _add_minilm(into, results[text_id], variant, head, split)
    return head_split


def _add_minilm(into: Collection, result: TextAttention, variant: str, name: str, split: str) -> None:
    """Adds a map of MiniLM: ``variant`` is "minilm" or an intervention, ``name`` "layer.head"."""
    layer, head = map(int, name.split("."))
    attention, changed = result.attention[layer, head], variant in ON_MINILM
    into.add(
        result,
        intervene(variant, attention, result.segments) if changed else attention,
        prefix=variant,
        source=f"MiniLM, intervention: {variant}" if changed else "MiniLM",
        model=MODEL,
        layer=layer,
        head=head,
        direction="causal" if variant == "causal" else "bidirectional",
        split=split,
    )


def _find_strata(result: TextAttention) -> NDArray[np.int64]:
    """Returns 1 for heads [layers, heads] of attention in lines, 2 where it keeps to the segments, 0 for the others."""
    maps = read_attention(result.attention, None)
    pair = bool(result.segments.any())
    declaration = read_declaration(maps.length, segments=result.segments if pair else None)
    causal = find_causal(maps, declaration)
    measures = survey(maps, declaration, causal, image_size=64, begin=0, end=len(maps.values)).measures
    stripe, line, segment = (measures[name] for name in ("stripe_mass", "line_mass", "segment_mass"))
    shares = np.bincount(result.segments) / maps.length
    by_chance = float(shares @ shares)  # attention to the own segment of a head that attends evenly
    squares = pair & (segment - by_chance > 0.2) & (stripe < 0.5) & (line < 0.25)
    return np.where(line > 0.2, 1, np.where(squares, 2, 0)).reshape(result.attention.shape[:2])


@dataclass(frozen=True, eq=False)
class Candidate:
    """A map that may be drawn.

    Attributes:
        source: Source of the map.
        checkpoint: Model.
        result: Attention of the model for the input, without intervention.
        attention: The map, float16 [L, L].
        layer: Layer, from 0.
        head: Head, from 0.
        split: Split of text and head.
        stratum: 1 attention in lines, 2 attention within the segments, 0 neither.
    """

    source: Source
    checkpoint: str
    result: TextAttention
    attention: NDArray[np.float16]
    layer: int
    head: int
    split: str
    stratum: int

    def add_to(self, collection: Collection) -> None:
        """Adds the map and its row."""
        collection.add(
            self.result,
            self.attention,
            prefix="-".join(filter(None, (self.checkpoint, self.source.intervention))),
            source=self.source.kind,
            model=MODEL if self.checkpoint == "minilm" else self.checkpoint,
            layer=self.layer,
            head=self.head,
            direction="causal" if self.source.kind.startswith("decoder") else "bidirectional",
            split=self.split,
        )


@dataclass(frozen=True)
class SourceRunner:
    """Runs the source models over their inputs.

    Attributes:
        models: Folder of the models.
        texts: All texts.
        text_split: Split of each text and picture, by text_id.
    """

    models: Path
    texts: list[SourceText]
    text_split: dict[str, str]

    def run(self, checkpoint: str) -> Iterator[TextAttention]:
        """Yields the attention of one checkpoint for its inputs; fine-tuned MiniLM reads few of the long ones."""
        if checkpoint.startswith("vit-"):
            return vision_attention(IMAGES, self.models / checkpoint)
        if checkpoint == "minilm":
            return minilm_attention(self.texts)
        if checkpoint.startswith("minilm-"):
            few = [t for n, t in enumerate(self.texts) if t.kind not in LONG_KINDS or n % 5 == 0]
            return minilm_attention(few, self.models / checkpoint)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.models / "tokenizer")
        return text_model_attention(self.texts, self.models / checkpoint, tokenizer, LIMIT)

    def candidates(self, source: Source, checkpoint: str, heads: dict[str, str] | None) -> Iterator[Candidate]:
        """Yields all maps of one checkpoint that may be drawn.

        Args:
            source: Source of the maps.
            checkpoint: Model.
            heads: "layer.head" -> split; None to deal them when the model's size is known.
        """
        held_out = source.kind == HELD_OUT
        for result in self.run(checkpoint):
            split = self.text_split[result.text.text_id]
            layers, count, length = result.attention.shape[:3]
            heads = heads or deal_heads(layers, count, np.random.default_rng([SEED, count]))
            if length < SHORTEST_LABELLED or (held_out and split == "train"):
                continue
            changed = _intervene_on_all(result, source.intervention)
            strata = _find_strata(changed)
            for layer, head in np.ndindex(layers, count):
                if held_out or heads[f"{layer}.{head}"] == split:
                    attention = changed.attention[layer, head].astype(np.float16)
                    own = "held-out" if held_out else split
                    yield Candidate(source, checkpoint, result, attention, layer, head, own, int(strata[layer, head]))


def _intervene_on_all(result: TextAttention, intervention: str) -> TextAttention:
    """Returns the result under an intervention on every head; "" is none."""
    if not intervention:
        return result
    length = result.attention.shape[-1]
    maps = [intervene(intervention, a, result.segments) for a in result.attention.reshape(-1, length, length)]
    return replace(result, attention=np.stack(maps).reshape(result.attention.shape))


def draw(pool: list[Candidate], count: int, rng: np.random.Generator) -> list[Candidate]:
    """Draws ``count`` maps: a third of stratum 1 and a third of stratum 2, as far as they go, the rest among all."""
    shuffled = [pool[i] for i in rng.permutation(len(pool))]
    chosen = [c for s in (1, 2) for c in [c for c in shuffled if c.stratum == s][: count // 3]]
    taken = set(map(id, chosen))
    return chosen + [c for c in shuffled if id(c) not in taken][: count - len(chosen)]


def collect_source(
    into: Collection, runner: SourceRunner, source: Source, heads: dict[str, str] | None, rng: np.random.Generator
) -> None:
    """Runs the checkpoints of one source and draws its maps, the same share of each split from each checkpoint."""
    for checkpoint in source.checkpoints:
        pool = list(runner.candidates(source, checkpoint, heads))
        for split in sorted({c.split for c in pool}):
            for long, maps in ((False, source.maps - source.long), (True, source.long)):
                count = round(maps / len(source.checkpoints) * SHARE_OF_MAPS.get(split, 1.0))
                eligible = [c for c in pool if c.split == split and (len(c.attention) >= LONG) == long]
                for candidate in draw(eligible, count, rng):
                    candidate.add_to(into)


def collect_unsure(
    into: Collection, runner: SourceRunner, source: Source, heads: dict[str, str] | None, rng: np.random.Generator
) -> None:
    """Draws shorter maps of the training split of which the bundled model is not sure."""
    classifier = PatternClassifier.load()

    def unsure(candidate: Candidate) -> bool:
        segments = candidate.result.segments if candidate.result.segments.any() else None
        return bool(classifier.classify(candidate.attention, segments=segments).probabilities.max() < SURE)

    for checkpoint in source.checkpoints:
        shorter = (c for c in runner.candidates(source, checkpoint, heads) if len(c.attention) < LONG)
        pool = [c for c in shorter if c.split == "train" and unsure(c)]
        for candidate in draw(pool, round(source.maps / len(source.checkpoints)), rng):
            candidate.add_to(into)


def collect_maps(models: Path, *, folder: Path = DATA, more: bool = False) -> None:
    """Adds the maps of every source that the data set does not hold yet, without labels.

    Args:
        models: Folder of the source models.
        folder: Folder of the data set that grows.
        more: Whether to draw the second round, for training alone, instead.
    """
    old = read_labels(folder) if (folder / "labels.csv").exists() else pd.DataFrame(columns=list(COLUMNS))
    rng, collection = np.random.default_rng(SEED), Collection({}, [])
    text_split: dict[str, str] = {}
    minilm_heads = collect_minilm(collection, text_split, rng)
    held_back = [p for i, p in enumerate(read_paragraphs(models / "corpus")) if i % HELD_BACK == 0]
    texts = make_texts() + documentation_texts(held_back)
    for kind in sorted({text.kind for text in texts}):
        text_split |= deal([text.text_id for text in texts if text.kind == kind], rng)
    text_split |= deal([f"image-{i:03}" for i in range(IMAGES)], rng)
    runner = SourceRunner(models, source_texts() + texts, text_split)
    for number, source in enumerate(SECOND_ROUND if more else SOURCES):
        ready = all(c == "minilm" or (models / c).exists() for c in source.checkpoints)
        if ready and (more or source.kind not in set(old["source"])):
            heads = minilm_heads if source.kind.startswith("MiniLM") else None
            collect, seed = (collect_unsure, [SEED, 1, number]) if more else (collect_source, [SEED, number])
            collect(collection, runner, source, heads, np.random.default_rng(seed))
    table = pd.DataFrame(collection.rows).assign(round=2 if more else 1).reindex(columns=list(COLUMNS), fill_value="")
    new = table[~table["map_id"].isin(old["map_id"])]
    both = pd.concat([old, new], ignore_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_maps(collection.maps | (read_maps(folder) if len(old) else {}), folder)
    write_labels(both, folder)
    show(both.groupby(["source", "split"]).size().unstack(fill_value=0))
