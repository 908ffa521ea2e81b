"""The bundled sample: attention of the MiniLM encoder for a pair of sentences."""

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


def export_sample() -> None:
    """Runs the encoder and writes its attention as float16, with tokens and segment ids."""
    (result,) = minilm_attention([PAIR])
    np.savez_compressed(
        SAMPLE, attention=result.attention.astype(np.float16), tokens=np.array(result.tokens), segments=result.segments
    )
