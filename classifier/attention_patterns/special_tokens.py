"""Special tokens: found by their names, and those that a tokenizer or a caller adds."""

import re
from collections.abc import Collection, Sequence
from typing import Any

PADDING_TOKENS = frozenset(
    {
        *("[PAD]", "<pad>", "<PAD>", "<|pad|>", "<|padding|>"),
        *("<|finetune_right_pad|>", "<|finetune_right_pad_id|>"),  # Llama 3.1 and 4
        "<\uff5c\u2581pad\u2581\uff5c>",  # DeepSeek
    }
)
_NAMES = PADDING_TOKENS | {
    *("[CLS]", "[SEP]", "[MASK]", "[UNK]"),  # BERT, DistilBERT, ELECTRA, ALBERT, DeBERTa, ModernBERT
    *("<s>", "</s>", "<mask>", "<unk>"),  # RoBERTa, XLM, BART, T5, Llama 1 and 2, Mistral
    *("<cls>", "<sep>"),  # XLNet, ESM
    *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),  # Gemma
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),  # Gemma 3
    *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),  # Mistral
    *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[IMG]"),
    *("[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[THINK]", "[/THINK]"),
    *("<BOS_TOKEN>", "<EOS_TOKEN>", "<EOP_TOKEN>", "<MASK_TOKEN>", "<UNK>", "<CLS>", "<SEP>"),  # Cohere
    *("[BOS]", "[EOS]", "[EOT]"),  # EXAONE, Kimi
    *("[gMASK]", "[sMASK]", "<sop>", "<eop>"),  # GLM
    *("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"),  # StarCoder, Granite
    *("]~b]", "]~!b[", "[e~["),  # MiniMax
}
# A name between bars stands in no text, and no pre-tokenizer leaves letters and bars in one token.
_SHAPES = re.compile(
    r"<\|[^\s|<>]{1,64}\|>"  # GPT-2, gpt-oss, Llama 3 and 4, Qwen, Phi, Granite, OLMo, Cohere, GLM, Kimi, Whisper
    r"|<\uff5c[^\s\uff5c<>]{1,64}\uff5c>"  # DeepSeek, Hunyuan
    r"|\[\|[a-z_]{1,64}\|\]"  # EXAONE
    r"|<\|[a-z_]{2,64}>|<[a-z_]{2,64}\|>"  # Gemma 4
    r"|</?seed:[a-z_]{1,64}>"  # Seed
    r"|<(?:extra_id_|special|SPECIAL_)\d{1,6}>"  # T5, Nemotron; XLM; Mistral, Nemotron
)


def is_special(token: str) -> bool:
    """Returns whether a token is special in a family of models whose special tokens are known by name.

    They are those of BERT, RoBERTa, XLM, XLNet, T5, BART, GPT, gpt-oss, Llama, Qwen, Mistral, Gemma, Phi, DeepSeek,
    Granite, OLMo, Cohere, GLM, Kimi, EXAONE and their relatives.
    """
    return token in _NAMES or _SHAPES.fullmatch(token) is not None


def special_tokens_of(tokenizer: object) -> frozenset[str]:
    """Returns the special tokens of a Hugging Face tokenizer, those that were added among them; none of any other."""
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
    named = getattr(tokenizer, "all_special_tokens", None) or ()
    return frozenset({*map(str, named), *(str(token) for token in added.values() if getattr(token, "special", False))})


def special_token_positions(tokens: Sequence[str], others: Collection[str] = ()) -> dict[str, list[int]]:
    """Returns the positions of each special token, in order of first appearance, those known by name before others.

    Args:
        tokens: Tokens of an input.
        others: Tokens that are special besides those that are known by name.
    """
    known: dict[str, list[int]] = {}
    unknown: dict[str, list[int]] = {}
    for position, token in enumerate(tokens):
        if is_special(token):
            known.setdefault(token, []).append(position)
        elif token and token in others:
            unknown.setdefault(token, []).append(position)
    return known | unknown
