"""Writes ``MODEL_CARD.md`` from the figures in ``bundle.json``: ``python -m training.card`` after a change of words."""

from classifier.bundle import ModelBundle
from classifier.patterns import PATTERNS

_TEXT = """\
---
license: apache-2.0
pipeline_tag: image-classification
library_name: onnx
tags: [attention, interpretability, transformers]
---

# {name} {version}

A convolutional net that names the pattern of a transformer self-attention map: Vertical, Diagonal, Vertical+Diagonal,
Block or Heterogeneous, the classes of Kovaleva et al. 2019, "Revealing the Dark Secrets of BERT", section 4.1. Eight
convolutions with ReLU; it reads images uint8 [3, {image_size}, {image_size}] of rendering version {rendering_version}
and answers five probabilities. This card is written by `python -m training.card` from the figures in `bundle.json`.

## Use

For labelling attention heads by what their maps look like. A pattern describes a map; it does not say what a head does
for the model. Maps of fewer than 8 tokens are outside what the annotation guide labels. One input's map is one
observation: label a head over many inputs.

## Data

{labelled_maps:.0f} maps labelled by hand, described in `training/data/DATASET_CARD.md`: attention of one pre-trained
encoder (all-MiniLM-L6-v2), two thirds as it is and one third under stated interventions. Pre-trained on synthetic maps
of known composition, which are in no figure below. No text and no (layer, head) of the test split occurs in training.
The two annotators agree with Cohen's kappa {annotators_kappa:.3f}.

## Figures

| figure | validation | test |
|---|---|---|
| maps | {validation_maps:.0f} | {test_maps:.0f} |
| macro-F1 | {validation_macro_f1:.3f} | {test_macro_f1:.3f} |
| accuracy | {validation_accuracy:.3f} | {test_accuracy:.3f} |
| accuracy where no second choice was given | {validation_accuracy_certain:.3f} | {test_accuracy_certain:.3f} |

The annotators' macro-F1 against each other is {annotators_macro_f1:.3f} over all maps and
{annotators_test_macro_f1:.3f} on the test split: about what a net can reach.

Test split by class:

| class | precision | recall | F1 | maps |
|---|---|---|---|---|
{classes}

## Limits

The labelled maps come from one small encoder; on other models expect less, most of all on decoders and on heads with
squares. The test split holds few Diagonal and Block maps, so that their figures move by several points with one map.
Most errors lie between Vertical and Heterogeneous, as most of the annotators' differences do.

## Reproduce

`make train` repeats rendering, training, export and measurement in about 3 minutes on 2 cores. On one machine with the
locked packages the figures come out equal. Another order of summation makes another net: macro-F1 and accuracy should
come out within 0.03 of the figures above, which `python -m training.train --threads 1 --output FOLDER` shows.
"""


def card_text(bundle: ModelBundle) -> str:
    """The card of a bundle."""
    m = bundle.metrics
    rows = [
        f"| {pattern} | {m[f'test_precision_{pattern}']:.3f} | {m[f'test_recall_{pattern}']:.3f} "
        f"| {m[f'test_f1-score_{pattern}']:.3f} | {m[f'test_support_{pattern}']:.0f} |"
        for pattern in PATTERNS
    ]
    return _TEXT.format(
        name=bundle.name,
        version=bundle.version,
        image_size=bundle.image_size,
        rendering_version=bundle.rendering_version,
        classes="\n".join(rows),
        **bundle.metrics,
    )


def write_card(bundle: ModelBundle) -> None:
    """Writes the card into the bundle's folder."""
    (bundle.folder / "MODEL_CARD.md").write_text(card_text(bundle), encoding="utf-8")


if __name__ == "__main__":
    write_card(ModelBundle.read())
