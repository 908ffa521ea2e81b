"""The card of the data set, ``DATASET_CARD.md``, and its Croissant metadata, ``croissant.json``."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.metrics import cohen_kappa_score

from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.programs.whole_files import write_whole
from attention_patterns_training.evaluation.evaluate import annotator_agreement
from attention_patterns_training.evaluation.markdown import fill_template, markdown_table
from attention_patterns_training.labels.annotators import is_certain, is_disputed
from attention_patterns_training.labels.dataset import COLUMNS, DATA, read_labels

NAMES = PATTERN_NAMES.tolist()
TEMPLATES = Path(__file__).parents[1] / "templates"
CALIBRATED = {  # printed by the command calibration, which needs the maps from elsewhere
    "kappa": "0.872",
    "lowest": "0.800",
    "macro_f1": "0.905",
    "all_kappa": "0.836",
}
_TYPES = dict.fromkeys(("layer", "head", "length", "round"), "sc:Integer")
_FILES = {"labels.csv": "text/csv", "calibration_answers.csv": "text/csv", "maps.npz": "application/zip"}
_MEANING = {
    "map_id": "name of the map, and of its matrix in maps.npz",
    "pattern": "the label",
    "second": "second choice, or empty",
    "annotator_a": "label of the first blind pass",
    "annotator_a_second": "its second choice, or empty",
    "annotator_b": "label of the second blind pass",
    "annotator_b_second": "its second choice, or empty",
    "source": "kind of source; interventions are named",
    "model": "model and checkpoint",
    "text_id": "name of the input",
    "layer": "layer, from 0",
    "head": "head, from 0",
    "length": "tokens L",
    "direction": "bidirectional or causal",
    "segments": "lengths of the segments, joined by +",
    "split": "train, validation, test or held-out",
    "round": "1, or 2: drawn later for training, where a model was not sure",
}


def _markdown(table: pd.DataFrame, head: str) -> str:
    """Returns a table with its index as first column."""
    rows = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return markdown_table([head, *map(str, table.columns)], rows)


def _count_sources(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the maps, classes and kappa of each source."""
    rows = {}
    for source, own in table.groupby("source"):
        counts = own["pattern"].value_counts().reindex(NAMES, fill_value=0)
        kappa = cohen_kappa_score(own["annotator_a"], own["annotator_b"])
        rows[source] = {"maps": len(own), **counts.to_dict(), "kappa": f"{kappa:.2f}"}
    return pd.DataFrame.from_dict(rows, orient="index")


def _count_classes(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the maps of each class, and the kappa of the class against the rest."""
    kappas = {n: cohen_kappa_score(table["annotator_a"] == n, table["annotator_b"] == n) for n in NAMES}
    counts = table["pattern"].value_counts()
    rows = {n: {"maps": int(counts[n]), "kappa against the rest": f"{kappas[n]:.3f}"} for n in NAMES}
    return pd.DataFrame.from_dict(rows, orient="index")


def _format(figures: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in figures.items()}


def card_text(folder: Path = DATA) -> str:
    """Returns the card of the data set."""
    table = read_labels(folder)
    seconds = (table[["annotator_a_second", "annotator_b_second"]] != "").any(axis=1)
    return fill_template(
        "DATASET_CARD.md",
        count=len(table),
        sources=_markdown(_count_sources(table), "source"),
        splits=_markdown(table.groupby(["split", "pattern"]).size().unstack(fill_value=0)[NAMES], "split"),
        classes=_markdown(_count_classes(table), "class"),
        pairs=int(table["segments"].str.contains("+", regex=False).sum()),
        causal=int((table["direction"] == "causal").sum()),
        long=int((table["length"] >= 128).sum()),
        shortest=int(table["length"].min()),
        longest=int(table["length"].max()),
        disputed=int(is_disputed(table).sum()),
        minilm=int(table["source"].isin(["MiniLM"]).sum() + table["source"].str.startswith("MiniLM, inter").sum()),
        sure=int(is_certain(table).sum()),
        doubtful=f"{seconds.mean():.0%}",
        agreement=_format(annotator_agreement(table)),
        rounds={n: _format(annotator_agreement(own)) | {"maps": len(own)} for n, own in table.groupby("round")},
        calibrated=pd.read_csv(folder / "calibration_answers.csv")["annotator"].nunique(),
        calibration=CALIBRATED,
    )


def croissant(folder: Path = DATA) -> dict[str, Any]:
    """Returns Croissant 1.0 metadata: the files, and the columns of labels.csv."""

    def describe(name: str, media: str) -> dict[str, str]:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        return {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "encodingFormat": media,
            "sha256": digest,
        }

    fields = [
        {
            "@type": "cr:Field",
            "@id": f"labels/{column}",
            "name": column,
            "description": _MEANING[column],
            "dataType": _TYPES.get(column, "sc:Text"),
            "source": {"fileObject": {"@id": "labels.csv"}, "extract": {"column": column}},
        }
        for column in COLUMNS
    ]
    return {
        "@context": json.loads((TEMPLATES / "croissant_context.json").read_text(encoding="utf-8")),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "attention-maps-labelled-by-pattern",
        "description": "Self-attention maps of transformers, labelled by hand by the patterns of Kovaleva et al. 2019",
        "version": "2.1.0",
        "datePublished": "2026-11-22",
        "license": "https://www.apache.org/licenses/LICENSE-2.0",
        "url": "maps.npz",
        "distribution": [describe(name, media) for name, media in _FILES.items()],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "labels", "name": "labels", "field": fields}],
    }


def write_data_card() -> None:
    """Writes card and metadata into the folder of the data set."""
    write_whole(DATA / "DATASET_CARD.md", card_text())
    write_whole(DATA / "croissant.json", json.dumps(croissant(), indent=1) + "\n")
