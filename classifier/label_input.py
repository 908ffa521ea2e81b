"""What a source hands to the labeller: an input, or the reason why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from classifier.errors import AttentionPatternsError


@dataclass(frozen=True)
class LabelInput:
    """One input of the run; what is not described here is as ``PatternClassifier.classify`` takes it.

    Attributes:
        input_id: names the input in the table and in messages.
        part: "encoder" or "decoder", None where the source does not tell.
        warnings: sentences of the source, written beside those of the classifier.
        progress: how much of its file or text the input makes up, 0 to 1.
    """

    input_id: str
    attention: ArrayLike
    part: str | None = None
    tokens: Sequence[str] | None = None
    segments: ArrayLike | None = None
    valid_length: int | None = None
    mask: ArrayLike | None = None
    causal: bool | None = None
    data_type: str | None = None
    warnings: tuple[str, ...] = ()
    progress: float = 1.0


@dataclass(frozen=True)
class FailedInput:
    """An input that could not be read or classified, in place of its answer; attributes as those of ``LabelInput``."""

    input_id: str
    error: AttentionPatternsError
    part: str | None = None
    progress: float = 1.0
