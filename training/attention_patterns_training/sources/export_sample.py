"""Writes the bundled sample, attention of MiniLM for a pair of sentences: ``python -m attention_patterns_training.sources.export_sample``."""

import numpy as np

from attention_patterns.sample import SAMPLE
from attention_patterns_training.sources.attention_sources import minilm_attention
from attention_patterns_training.sources.texts import SourceText

PAIR = SourceText(
    text_id="sample",
    kind="pair",
    first="The lamp on the pier goes out at midnight.",
    second="After that, the fishermen find their way home by the stars.",
)


def main() -> None:
    """Runs the encoder and writes attention as float16, with tokens and segment ids."""
    (found,) = minilm_attention([PAIR])
    np.savez_compressed(
        SAMPLE, attention=found.attention.astype(np.float16), tokens=np.array(found.tokens), segments=found.segments
    )


if __name__ == "__main__":
    main()
