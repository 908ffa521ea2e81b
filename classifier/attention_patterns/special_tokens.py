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
    """Returns whether a token is special in the BERT, RoBERTa, XLM, XLNet, T5, BART, GPT, Llama or similar families."""
    return token in _NAMES or _FAMILIES.fullmatch(token) is not None


def special_token_positions(tokens: Sequence[str]) -> dict[str, list[int]]:
    """Returns the positions of each special token, in order of first appearance."""
    positions: dict[str, list[int]] = {}
    for position, token in enumerate(tokens):
        if is_special(token):
            positions.setdefault(token, []).append(position)
    return positions
