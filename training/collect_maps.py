"""Collects the maps to be labelled: ``python -m training.collect_maps --folder NEW``.

Texts and heads are dealt to train, validation and test, each by itself; a map is eligible where text and head stand on
the same side, so that no text and no (layer, head) of the test split is seen in training. Within a split the maps are
drawn at random, without looking at them.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich import print as show

from training.attention_sources import HEADS, INTERVENTIONS, LAYERS, MODEL, NEEDS_PAIR, intervene, minilm_attention
from training.dataset import COLUMNS, DATA, write_labels
from training.texts import source_texts

SEED = 20260101
SPLITS = ("train", "validation", "test")
SHARES = (0.62, 0.14, 0.24)  # of the texts and of the heads
PLAIN = {"train": 430, "validation": 70, "test": 150}  # maps as the model gives them
EACH_INTERVENTION = {"train": 32, "validation": 8, "test": 14}  # maps of each intervention


def _deal(names: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Assigns each name to a split, in the given shares."""
    bounds = np.round(np.cumsum(SHARES) * len(names)).astype(int)
    order = rng.permutation(len(names))
    return {names[i]: SPLITS[int(np.searchsorted(bounds, rank, side="right"))] for rank, i in enumerate(order)}


def main(folder: Annotated[Path, typer.Option(help="where maps.npz and labels.csv are written")] = DATA) -> None:
    """Runs the encoder over all source texts, draws the maps and writes them without labels."""
    if (folder / "labels.csv").exists():
        raise typer.BadParameter(f"{folder} holds labels.csv, whose hand labels would be lost; expected a new --folder")
    rng = np.random.default_rng(SEED)
    texts = source_texts()
    text_split: dict[str, str] = {}
    for kind in sorted({text.kind for text in texts}):  # every kind of text is in every split that can hold one
        text_split |= _deal([text.text_id for text in texts if text.kind == kind], rng)
    head_split: dict[str, str] = {}
    for layer in range(LAYERS):
        head_split |= _deal([f"{layer}.{head}" for head in range(HEADS)], rng)
    seen = {result.text.text_id: result for result in minilm_attention(texts)}

    maps: dict[str, NDArray[np.float16]] = {}
    rows = []
    for split in SPLITS:
        pairs = [(t, h) for t, s in text_split.items() if s == split for h, hs in head_split.items() if hs == split]
        for source, count in [("minilm", PLAIN[split])] + [(name, EACH_INTERVENTION[split]) for name in INTERVENTIONS]:
            able = [p for p in pairs if source not in NEEDS_PAIR or seen[p[0]].segments.any()]
            for i in rng.permutation(len(able))[:count]:
                text_id, name = able[i]
                layer, head = map(int, name.split("."))
                found = seen[text_id]
                attention = found.attention[layer, head]
                if source in INTERVENTIONS:
                    attention = intervene(source, attention, found.segments)
                map_id = f"{source}-{text_id}-{layer}-{head}"
                maps[map_id] = attention.astype(np.float16)
                rows.append(
                    {
                        "map_id": map_id,
                        "source": "minilm" if source == "minilm" else f"minilm intervention: {source}",
                        "model": MODEL,
                        "text_id": text_id,
                        "layer": layer,
                        "head": head,
                        "length": len(attention),
                        "direction": "causal" if source == "causal" else "bidirectional",
                        "segments": "+".join(str(n) for n in np.bincount(found.segments)),
                        "split": split,
                    }
                )
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "maps.npz", allow_pickle=False, **maps)
    write_labels(pd.DataFrame(rows).reindex(columns=list(COLUMNS), fill_value=""), folder)
    show(pd.DataFrame(rows).groupby(["source", "split"]).size().unstack())


if __name__ == "__main__":
    typer.run(main)
