"""What the configuration and the modules of a transformer tell of its inputs."""

from collections.abc import Sequence
from typing import Any

from attention_patterns.errors import ShapeError
from attention_patterns.labelling.sources.models.encodings import NO_LIMIT

_COPIES = 5  # of a layer's attention in float32 that eager attention holds at once: 2.3 measured, T5 4.2
_COPIES_OF_OLDER = 8  # models that are told to return it: XLNet 4.3 measured, DeBERTa 7.1
_WIDTHS = 32  # hidden vectors a token that a layer holds at once, those inside its feed-forward net among them


def special_patches(model: Any) -> list[str]:
    """The tokens before the patches, as the parameters tell."""
    shapes = {name.rpartition(".")[2]: values.shape for name, values in model.named_parameters()}
    registers = range(shapes["register_tokens"][1]) if "register_tokens" in shapes else ()
    known = {"cls_token": "[CLS]", "class_embedding": "[CLS]", "distillation_token": "[DIST]"}
    return [*(token for name, token in known.items() if name in shapes), *(f"register {n}" for n in registers)]


def longest(model: Any, tokenizer: Any) -> int:
    """The tokens that a model of texts takes, its special ones among them."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or NO_LIMIT
    if positions < 0:  # XLNet says -1
        positions = NO_LIMIT
    return int(min(tokenizer.model_max_length, positions - _reserved_positions(model), NO_LIMIT))


def _reserved_positions(model: Any) -> int:
    """RoBERTa and its kin count positions from one past the padding's, so that a few embeddings are never used."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(getattr(module, "padding_idx", None), int):
            return int(module.padding_idx) + 1
    return 0


def start_id(config: Any) -> int:
    """The token that a decoder is fed first."""
    named = (getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"))
    return next((int(one) for one in named if one is not None), 0)


def layer_bytes(config: Any, *, length: int, heads: int, older: bool) -> int:
    """What a layer's attention and hidden states take for one input of so many tokens.

    Args:
        config: of the model.
        length: tokens.
        heads: of each layer.
        older: whether the model returns its attention only when it is told to.
    """
    return 4 * length * ((_COPIES_OF_OLDER if older else _COPIES) * heads * length + _WIDTHS * _hidden_size(config))


def _hidden_size(config: Any) -> int:
    """The width of the hidden states."""
    text = config.get_text_config()
    return int(getattr(text, "hidden_size", None) or getattr(text, "d_model", None) or 1024)


def square(field: str, layers: Sequence[Any], length: int | None) -> list[Any]:
    """The layers that returned self-attention of the two probes, of one shape.

    Raises:
        ShapeError: there are none, or one returned something else.
    """
    there = [layer for layer in layers if layer is not None]
    if not there:
        raise ShapeError(f"returns no {field}, expected the self-attention of its layers")
    heads, side = there[0].shape[1], length or there[0].shape[-1]
    for place, layer in enumerate(there):
        if tuple(layer.shape) != (2, heads, side, side):
            raise ShapeError(
                f"{field}[{place}] has shape {list(layer.shape)} for 2 inputs of {side} tokens, expected "
                f"[2, {heads}, {side}, {side}]: windows, pooled tokens and cross-attention are no self-attention maps"
            )
    return there
