"""Writes ``DATASET_CARD.md`` and ``croissant.json`` from the data set: ``python -m attention_patterns_training.evaluation.data_card``."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from sklearn.metrics import cohen_kappa_score

from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns_training.evaluation.evaluate import annotators, certain
from attention_patterns_training.labels.dataset import COLUMNS, DATA, disputed, read_labels

NAMES = PATTERN_NAMES.tolist()
TEMPLATES = Path(__file__).parents[1] / "templates"
CALIBRATED = {  # python -m attention_patterns_training.labels.hand_labels calibration, which needs the maps from elsewhere
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


def markdown(table: pd.DataFrame, head: str) -> str:
    """A table with its index as first column."""
    lines = [[head, *map(str, table.columns)], ["---"] * (1 + len(table.columns))]
    lines += [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _kappas(table: pd.DataFrame) -> pd.DataFrame:
    """Maps, kappa and classes of each source."""
    rows = {}
    for source, part in table.groupby("source"):
        counts = part["pattern"].value_counts().reindex(NAMES, fill_value=0)
        kappa = cohen_kappa_score(part["annotator_a"], part["annotator_b"])
        rows[source] = {"maps": len(part), **counts.to_dict(), "kappa": f"{kappa:.2f}"}
    return pd.DataFrame.from_dict(rows, orient="index")


def _classes(table: pd.DataFrame) -> pd.DataFrame:
    """For each class: maps, and kappa of the class against the rest."""
    kappas = {n: cohen_kappa_score(table["annotator_a"] == n, table["annotator_b"] == n) for n in NAMES}
    counts = table["pattern"].value_counts()
    rows = {n: {"maps": int(counts[n]), "kappa against the rest": f"{kappas[n]:.3f}"} for n in NAMES}
    return pd.DataFrame.from_dict(rows, orient="index")


def _three_decimals(figures: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in figures.items()}


def card_text(folder: Path = DATA) -> str:
    """The card of the data set."""
    table = read_labels(folder)
    seconds = (table[["annotator_a_second", "annotator_b_second"]] != "").any(axis=1)
    given = pd.read_csv(folder / "calibration_answers.csv")
    environment = Environment(
        loader=PackageLoader("attention_patterns_training"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("DATASET_CARD.md").render(
        count=len(table),
        sources=markdown(_kappas(table), "source"),
        splits=markdown(table.groupby(["split", "pattern"]).size().unstack(fill_value=0)[NAMES], "split"),
        classes=markdown(_classes(table), "class"),
        pairs=int(table["segments"].str.contains("+", regex=False).sum()),
        causal=int((table["direction"] == "causal").sum()),
        long=int((table["length"] >= 128).sum()),
        shortest=int(table["length"].min()),
        longest=int(table["length"].max()),
        disputed=int(disputed(table).sum()),
        minilm=int(table["source"].isin(["MiniLM"]).sum() + table["source"].str.startswith("MiniLM, inter").sum()),
        sure=int(certain(table).sum()),
        doubtful=f"{seconds.mean():.0%}",
        agreement=_three_decimals(annotators(table)),
        rounds={n: _three_decimals(annotators(part)) | {"maps": len(part)} for n, part in table.groupby("round")},
        calibrated=given["annotator"].nunique(),
        calibration=CALIBRATED,
    )


def croissant(folder: Path = DATA) -> dict[str, Any]:
    """Croissant 1.0 metadata: the files, and the columns of labels.csv."""

    def file(name: str, media: str) -> dict[str, str]:
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
        "distribution": [file(name, media) for name, media in _FILES.items()],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "labels", "name": "labels", "field": fields}],
    }


def main() -> None:
    """Writes both into the data set's folder."""
    (DATA / "DATASET_CARD.md").write_text(card_text(), encoding="utf-8")
    (DATA / "croissant.json").write_text(json.dumps(croissant(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
