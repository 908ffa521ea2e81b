"""The golden files and their generator; ``python -m tests.helpers.golden_files`` rewrites them after a change."""

import json
from pathlib import Path

import numpy as np

from attention_patterns import PATTERNS, ModelBundle, PatternClassifier
from attention_patterns.rendering import render
from attention_patterns.sample import load_sample
from tests.helpers.drawn_maps import draw

FOLDER = Path(__file__).parents[1] / "library" / "golden"
SIZE = ModelBundle.read().image_size  # pixels per side of the images that the shipped net reads
LENGTHS = (8, 31, SIZE - 1, SIZE, SIZE + 1, 200)  # tokens


def images():
    """Returns images of drawn patterns at several lengths and of the first head of each layer of the sample."""
    drawn = [render(draw(pattern, length), image_size=SIZE)[0] for pattern in PATTERNS for length in LENGTHS]
    return np.stack([*drawn, *render(load_sample().attention[:, 0], image_size=SIZE)])


def classification():
    """Returns the bundled model's answer to the sample, probabilities to four decimals."""
    sample = load_sample()
    result = PatternClassifier.load().classify(sample.attention, tokens=sample.tokens, segments=sample.segments)
    return {
        "model": result.model,
        "patterns": result.patterns.tolist(),
        "probabilities": np.round(result.probabilities.astype(float), 4).tolist(),
        "share": {name: np.round(to.share.astype(float), 5).tolist() for name, to in result.attention_to.items()},
    }


def main():
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / "images.npz", images=images())
    (FOLDER / "classification.json").write_text(json.dumps(classification()) + "\n")


if __name__ == "__main__":
    main()
