"""Special tokens by name."""

import re
from collections.abc import Sequence

PADDING_TOKENS = frozenset({"[PAD]", "<pad>", "<|finetune_right_pad_id|>"})
_NAMES = PADDING_TOKENS | {
    *("[CLS]", "[SEP]", "[MASK]", "[UNK]"),  # BERT, DistilBERT, ELECTRA, ALBERT, DeBERTa
    *("<s>", "</s>", "<mask>", "<unk>"),  # RoBERTa, XLM, BART, T5, Llama 1 and 2
    *("<cls>", "<sep>"),  # XLNet
    *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),  # Gemma
    *("[INST]", "[/INST]"),  # Mistral
}
_FAMILIES = re.compile(r"<\|[^|<>]+\|>|<extra_id_\d+>|<special\d+>")  # GPT-2, Llama 3, Qwen; T5; XLM


def is_special(token: str) -> bool:
    """Whether the token is a special token of the BERT, RoBERTa, XLM, XLNet, T5, BART, GPT, Llama or like families."""
    return token in _NAMES or _FAMILIES.fullmatch(token) is not None


def special_token_positions(tokens: Sequence[str]) -> dict[str, list[int]]:
    """Special token -> its positions, in order of first appearance."""
    found: dict[str, list[int]] = {}
    for position, token in enumerate(tokens):
        if is_special(token):
            found.setdefault(token, []).append(position)
    return found
