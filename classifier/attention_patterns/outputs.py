"""Outputs of a Hugging Face model, taken apart into one input of the classifier per text of the batch.

Everything is read by name (``attentions``, ``input_ids``, ``attention_mask``), so that torch is not imported.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from attention_patterns.errors import ShapeError, TokensError
from attention_patterns.special_tokens import special_tokens_of

_AXES = ("batch", "heads", "L", "L")
_EAGER = 'load the model with attn_implementation="eager"'
_OF_TWO_MODELS = ("text_model_output", "vision_model_output")  # of CLIP and its like


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
        outputs: Outputs of a model called with ``output_attentions=True``, or their ``attentions``. Of an
            encoder-decoder, the encoder's self-attention is taken, which the encoding describes; hand in
            ``decoder_attentions`` for the decoder's.
        encoding: Result of the tokenizer, with which the model was called: ``input_ids`` and, where present,
            ``attention_mask`` and the two texts of a pair (``sequence_ids`` of a fast tokenizer, or
            ``token_type_ids``). A single text is one segment.
        tokenizer: The tokenizer itself.

    Raises:
        ShapeError: The outputs hold no attention, or not that of this encoding.
    """
    return inputs_of_layers(_find_layers(outputs), encoding, tokenizer)


def _find_layers(outputs: object) -> Sequence[Any]:
    """Returns the layers of outputs, or these themselves.

    Raises:
        ShapeError: There are none; the message names the cause.
    """
    if _are_layers(outputs):
        return cast(Sequence[Any], outputs)
    if type(outputs) is tuple:  # outputs with names are of other types
        place = next((n for n, entry in enumerate(outputs) if _are_layers(entry)), None)
        inner = "" if place is None else f", or hand in entry {place} of the tuple, the attentions"
        raise ShapeError(f"outputs are a tuple, as of return_dict=False; call the model with return_dict=True{inner}")
    names = [name for name in ("attentions", "encoder_attentions") if hasattr(outputs, name)]
    layers = next((getattr(outputs, name) for name in names if getattr(outputs, name) is not None), None)
    if layers is not None:
        return cast(Sequence[Any], layers)
    if inner_names := [name for name in _OF_TWO_MODELS if hasattr(outputs, name)]:
        raise ShapeError(f"outputs are of two models; hand in those of one, outputs.{' or outputs.'.join(inner_names)}")
    if not names:
        kind = f"{type(outputs).__module__}.{type(outputs).__name__}"
        raise ShapeError(f"outputs are a {kind}, expected the outputs of a Hugging Face model, or their attentions")
    raise ShapeError(f"outputs hold no attentions; call the model with output_attentions=True, and {_EAGER}")


def _are_layers(values: object) -> bool:
    """Returns whether values are layers, each [batch, heads, L, L] or None without attention, or their stack."""
    if isinstance(values, (tuple, list)):
        sizes = {len(getattr(layer, "shape", ())) for layer in values if layer is not None}
        return sizes == {len(_AXES)}
    return len(getattr(values, "shape", ())) == 1 + len(_AXES)


def inputs_of_layers(
    layers: Sequence[Any | None], encoding: Mapping[str, Any], tokenizer: Tokenizer
) -> Iterator[ModelInput]:
    """Yields the inputs of a batch as ``inputs_of`` does, from layers such as ``outputs.decoder_attentions``.

    Args:
        layers: The layers, each [batch, heads, L, L], or None for a layer without attention.
        encoding: As in ``inputs_of``.
        tokenizer: As in ``inputs_of``.

    Raises:
        ShapeError: A layer is missing or not of that shape, or the encoding is of another batch.
        TokensError: The encoding is not of texts.
    """
    if "input_ids" not in encoding:
        raise TokensError(
            f"the encoding holds no input_ids but {', '.join(encoding) or 'nothing'}, expected that of texts; of a "
            "picture classify torch.stack(outputs.attentions)"
        )
    ids = np.atleast_2d(_array(encoding["input_ids"]))
    present = {index: layer for index, layer in enumerate(layers) if layer is not None}
    shapes = _check_shapes(present)
    if any(shape != (len(ids), *shapes[0][1:]) for shape in shapes):
        raise ShapeError(
            f"attentions have shapes {', '.join(sorted(str(list(shape)) for shape in set(shapes)))}, expected "
            f"one shape [batch, heads, L, L] with a batch of {len(ids)}, that of input_ids"
        )
    return (_take_row(present, encoding, tokenizer, row) for row in range(len(ids)))


def _check_shapes(layers: Mapping[int, Any]) -> list[tuple[int, ...]]:
    if not layers:
        raise ShapeError(f"outputs hold attentions of no layer; {_EAGER}")
    shapes = {index: tuple(getattr(layer, "shape", ())) for index, layer in layers.items()}
    for index, shape in shapes.items():
        if len(shape) != len(_AXES):
            kind = f"{type(layers[index]).__name__} of shape {list(shape)}"
            hint = next(hint for fits, hint in _HINTS if fits(layers[index]))
            raise ShapeError(f"attentions[{index}] is {kind}, expected [{', '.join(_AXES)}]; {hint}")
    return list(shapes.values())


_HINTS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        _are_layers,
        "an entry per generated token, as of generate(): hand in outputs.attentions[0], the layers over the prompt, or "
        "call the model itself on the whole text",
    ),
    (
        lambda layer: len(getattr(layer, "shape", ())) == len(_AXES) - 1,
        "the axis of the batch is missing: hand in outputs of a batch, or each layer as layer[None]",
    ),
    (lambda _layer: True, "hand in the attentions as the model returns them"),
)


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
