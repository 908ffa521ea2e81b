"""Outputs of a Hugging Face model, taken apart into one input of the classifier per text of the batch.

Everything is read by name (``attentions``, ``input_ids``, ``attention_mask``), so that torch is not imported.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attention_patterns.errors import ShapeError
from attention_patterns.special_tokens import special_tokens_of

_AXES = ("batch", "heads", "L", "L")
_EAGER = 'load the model with attn_implementation="eager" and call it with output_attentions=True'


@dataclass(frozen=True)
class ModelInput:
    """The attention of one text, and its declarations by the names of ``PatternClassifier.classify``.

    Attributes:
        attention: Stack [layers, heads, L, L], padding included; float32, float16, float64, or bfloat16 bits in uint16.
        layers: Index in the model of each of these layers; a model has more where some have no attention.
        tokens: The L tokens.
        special_tokens: Special tokens of the tokenizer.
        segments: Segment of each token, int64 [L]; None where the encoding holds none.
        mask: Flags [L], False = padding; None where the encoding holds no attention mask.
        data_type: "bfloat16" where ``attention`` is uint16, else None.
    """

    attention: NDArray[Any]
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    special_tokens: frozenset[str]
    segments: NDArray[np.int64] | None
    mask: NDArray[np.bool_] | None
    data_type: str | None


class Tokenizer(Protocol):
    """The one method that is needed of a tokenizer; that of Hugging Face names its special tokens, too."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Returns the tokens of ``ids`` as strings."""


def inputs_of(outputs: object, encoding: Mapping[str, Any], tokenizer: Tokenizer) -> Iterator[ModelInput]:
    """Yields the inputs of a batch, one at a time, so that one copy of one input's attention is held.

    Args:
        outputs: Outputs of a model called with ``output_attentions=True``. Of an encoder-decoder, the encoder's
            self-attention is taken, which the encoding describes; ``inputs_of_layers`` takes the decoder's.
        encoding: Result of the tokenizer, with which the model was called: ``input_ids`` and, where present,
            ``attention_mask`` and the two texts of a pair (``sequence_ids`` of a fast tokenizer, or
            ``token_type_ids``). A single text is one segment.
        tokenizer: The tokenizer itself.

    Raises:
        ShapeError: The outputs hold no attention, or not that of this encoding.
    """
    layers = getattr(outputs, "attentions", None) or getattr(outputs, "encoder_attentions", None)
    return inputs_of_layers(layers, encoding, tokenizer)


def inputs_of_layers(
    layers: Sequence[Any | None] | None, encoding: Mapping[str, Any], tokenizer: Tokenizer
) -> Iterator[ModelInput]:
    """Yields the inputs of a batch as ``inputs_of`` does, from layers such as ``outputs.decoder_attentions``.

    Args:
        layers: The layers, each [batch, heads, L, L], or None for a layer without attention.
        encoding: As in ``inputs_of``.
        tokenizer: As in ``inputs_of``.

    Raises:
        ShapeError: A layer is missing or not of that shape, or the encoding is of another batch.
    """
    ids = np.atleast_2d(_array(encoding["input_ids"]))
    present = {index: layer for index, layer in enumerate(layers or ()) if layer is not None}
    shapes = _check_shapes(present)
    if any(shape != (len(ids), *shapes[0][1:]) for shape in shapes):
        raise ShapeError(
            f"attentions have shapes {', '.join(sorted(str(list(shape)) for shape in set(shapes)))}, expected "
            f"one shape [batch, heads, L, L] with a batch of {len(ids)}, that of input_ids"
        )
    return (_take_row(present, encoding, tokenizer, row) for row in range(len(ids)))


def _check_shapes(layers: Mapping[int, Any]) -> list[tuple[int, ...]]:
    if not layers:
        raise ShapeError(f"outputs hold no attentions; {_EAGER}")
    shapes = {index: tuple(getattr(layer, "shape", ())) for index, layer in layers.items()}
    for index, shape in shapes.items():
        if len(shape) != len(_AXES):
            kind = f"{type(layers[index]).__name__} of shape {list(shape)}"
            raise ShapeError(f"attentions[{index}] is {kind}, expected [{', '.join(_AXES)}]; {_EAGER}")
    return list(shapes.values())


def _take_row(layers: Mapping[int, Any], encoding: Mapping[str, Any], tokenizer: Tokenizer, row: int) -> ModelInput:
    def read_row(name: str) -> NDArray[Any] | None:
        values = encoding.get(name)
        return None if values is None else np.atleast_2d(_array(values))[row]

    ids, mask = np.atleast_2d(_array(encoding["input_ids"]))[row], read_row("attention_mask")
    types = read_row("token_type_ids")
    return ModelInput(
        attention=np.stack([_array(layer[row]) for layer in layers.values()]),
        layers=tuple(layers),
        tokens=tuple(tokenizer.convert_ids_to_tokens(ids.tolist())),
        special_tokens=special_tokens_of(tokenizer),
        segments=segments_of(encoding, row, types),
        mask=None if mask is None else mask.astype(np.bool_),
        data_type="bfloat16" if _is_bfloat16(next(iter(layers.values()))) else None,
    )


def segments_of(encoding: Mapping[str, Any], row: int, types: NDArray[Any] | None) -> NDArray[np.int64] | None:
    """Returns the segment of each token of one text of a batch, int64 [L]; None where the encoding holds none.

    The texts of a pair count before the token types, which some tokenizers leave at 0 for both.

    Args:
        encoding: Result of the tokenizer.
        row: Index of the text in the batch; 0 where there is no batch.
        types: Token types of the text, [L], or None.
    """
    texts: list[int | None] = []
    if getattr(encoding, "is_fast", False) and hasattr(encoding, "sequence_ids"):
        texts = encoding.sequence_ids(row)
    known = np.array([position for position, text in enumerate(texts) if text is not None], np.int64)
    if known.size == 0:
        return None if types is None else types.astype(np.int64)
    # A special token belongs to the text before it; one that leads, to the first.
    nearest = np.maximum(np.searchsorted(known, np.arange(len(texts)), side="right") - 1, 0)
    return np.array([texts[position] for position in known], np.int64)[nearest]


def _is_bfloat16(values: object) -> bool:
    return str(getattr(values, "dtype", "")) == "torch.bfloat16"


def _array(values: object) -> NDArray[Any]:
    """Returns an array, a list, or a torch tensor on any device as numpy; bfloat16 as its bits in uint16."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    tensor: Any = values.detach().cpu()
    if _is_bfloat16(tensor):  # numpy has no such type: the bits are the upper half of the float32
        return (np.asarray(tensor.float()).view(np.uint32) >> 16).astype(np.uint16)
    return np.asarray(tensor)
