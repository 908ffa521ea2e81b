"""Properties of a transformer's inputs and layers, read from its configuration and modules."""

from collections.abc import Sequence
from typing import Any

from attention_patterns.errors import ShapeError
from attention_patterns.labelling.sources.models.encodings import NO_LIMIT

_COPIES = 5  # of a layer's attention in float32 that eager attention holds at once: 2.3 measured, T5 4.2
_COPIES_OF_OLDER = 8  # in models that return it only with output_attentions=True: XLNet 4.3 measured, DeBERTa 7.1
_WIDTHS = 32  # hidden vectors per token that a layer holds at once, those inside its feed-forward net among them


def special_patches(model: Any) -> list[str]:
    """Returns the names of the tokens before the patches, which the model's parameters show."""
    shapes = {name.rpartition(".")[2]: values.shape for name, values in model.named_parameters()}
    registers = range(shapes["register_tokens"][1]) if "register_tokens" in shapes else ()
    known = {"cls_token": "[CLS]", "class_embedding": "[CLS]", "distillation_token": "[DIST]"}
    return [*(token for name, token in known.items() if name in shapes), *(f"register {n}" for n in registers)]


def longest(model: Any, tokenizer: Any) -> int:
    """Returns the most tokens that a model of texts takes, its special ones among them."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or NO_LIMIT
    if positions < 0:  # XLNet has -1
        positions = NO_LIMIT
    return int(min(tokenizer.model_max_length, positions - _reserved_positions(model), NO_LIMIT))


def _reserved_positions(model: Any) -> int:
    """Returns the number of position embeddings that are never used.

    RoBERTa and its kin count positions from one past the padding's.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(getattr(module, "padding_idx", None), int):
            return int(module.padding_idx) + 1
    return 0


def start_id(config: Any) -> int:
    """Returns the id of the token that a decoder is fed first."""
    ids = (getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"))
    return next((int(token_id) for token_id in ids if token_id is not None), 0)


def has_sinks(model: Any) -> bool:
    """Returns whether learned sinks take a share of each row of the model's attention, which its maps do not hold.

    gpt-oss and its kin take the softmax over the keys and one more logit per head, and drop the column of that.
    """
    return any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters())


def with_sink(weights: Any) -> Any:
    """Returns maps with the sink as a first token, which attends to itself and receives what each row lacks.

    Args:
        weights: Tensor [batch, heads, L, L] whose rows sum to 1 or less.

    Returns:
        Tensor [batch, heads, L + 1, L + 1] of the same type.
    """
    batch, heads, length, _ = weights.shape
    whole = weights.new_zeros((batch, heads, length + 1, length + 1))
    whole[..., 1:, 1:] = weights
    whole[..., 1:, 0] = (1 - weights.float().sum(-1)).clip(min=0).to(weights.dtype)  # a row above 1 is refused later
    whole[..., 0, 0] = 1
    return whole


def layer_bytes(config: Any, *, length: int, heads: int, older: bool, kept: int = 0) -> int:
    """Returns the bytes that a layer's attention and hidden states take for one input.

    Args:
        config: Configuration of the model.
        length: Number of tokens.
        heads: Number of heads per layer.
        older: Whether the model returns its attention only with ``output_attentions=True``.
        kept: Number of layers whose attention the model keeps until its end.
    """
    copies = (_COPIES_OF_OLDER if older else _COPIES) + kept
    return 4 * length * (copies * heads * length + _WIDTHS * _hidden_size(config))


def _hidden_size(config: Any) -> int:
    """Returns the width of the hidden states."""
    text = config.get_text_config()
    return int(getattr(text, "hidden_size", None) or getattr(text, "d_model", None) or 1024)


def self_attention(field: str, layers: Sequence[Any], length: int | None) -> list[Any]:
    """Returns the layers that a model returned of two probes, with None in place of those without self-attention.

    Args:
        field: Field of the model's output that lists the layers, for messages.
        layers: Tensors, or None for layers without attention.
        length: Number of tokens of the longer probe; None where only the model knows.

    Raises:
        ShapeError: No layer returned self-attention, or layers have several numbers of heads.
    """
    returned = [layer for layer in layers if layer is not None]
    if not returned:
        raise ShapeError(f"returns no {field}, expected the self-attention of its layers")
    side = length or returned[0].shape[-1]
    square = [layer is not None and layer.shape[0] == 2 and tuple(layer.shape[2:]) == (side, side) for layer in layers]
    heads = {layer.shape[1] for layer, fits in zip(layers, square, strict=True) if fits}
    windows = length is None and sum(square) < len(returned)  # a window that is as large as the input is still one
    if len(heads) != 1 or windows:
        shapes = " and ".join(sorted({str(list(layer.shape)) for layer in returned}))
        raise ShapeError(
            f"{field} have shapes {shapes} for 2 inputs of {side} tokens, expected [2, heads, {side}, {side}] with one "
            "number of heads: windows, pooled tokens and cross-attention are no self-attention maps"
        )
    return [layer if fits else None for layer, fits in zip(layers, square, strict=True)]
