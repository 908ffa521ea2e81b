"""What the configuration and the modules of a transformer tell of its inputs."""

from typing import Any

from classifier.labelling.models.encodings import NO_LIMIT


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


def hidden_size(config: Any) -> int:
    """The width of the hidden states."""
    text = config.get_text_config()
    return int(getattr(text, "hidden_size", None) or getattr(text, "d_model", None) or 1024)
