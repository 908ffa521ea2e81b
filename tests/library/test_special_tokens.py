"""Special tokens by name, those of a tokenizer, and those that a caller names, in one process and at a server."""

from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from attention_patterns import errors
from attention_patterns.sample import sample_encoder
from attention_patterns.special_tokens import is_special, special_token_positions, special_tokens_of
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal

FAMILIES = {
    "BERT, ModernBERT": "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "RoBERTa, XLM": "<s> </s> <mask> <pad> <unk> <special3>",
    "T5": "</s> <pad> <extra_id_0> <extra_id_99>",
    "GPT-2": "<|endoftext|>",
    "gpt-oss": "<|start|> <|end|> <|message|> <|channel|> <|return|> <|call|> <|constrain|> <|startoftext|>",
    "Llama 3": "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|python_tag|> <|end_of_text|>",
    "Llama 4": "<|header_start|> <|header_end|> <|eot|> <|image_start|> <|patch|> <|finetune_right_pad|>",
    "Qwen": "<|im_start|> <|im_end|> <|endoftext|> <|vision_start|> <|image_pad|> <|fim_prefix|>",
    "Gemma": "<bos> <eos> <pad> <start_of_turn> <end_of_turn> <start_of_image> <image_soft_token>",
    "Gemma 4": "<|turn> <turn|> <|channel> <channel|> <|tool_call> <tool_call|> <|think|>",
    "Mistral": "<s> [INST] [/INST] </s> [TOOL_CALLS] [SYSTEM_PROMPT] [IMG] [THINK] <SPECIAL_20>",
    "Phi": "<|user|> <|assistant|> <|end|> <|im_sep|> <|dummy_85|>",
    "DeepSeek": "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜▁pad▁｜>",  # noqa: RUF001
    "Hunyuan": "<｜hy_begin▁of▁sentence｜> <｜hy_User｜>",  # noqa: RUF001
    "Granite": "<|start_of_role|> <|end_of_role|> <|end_of_text|> <fim_prefix> <fim_suffix>",
    "OLMo": "<|endoftext|> <|im_start|> <|pad|>",
    "Cohere": "<BOS_TOKEN> <EOS_TOKEN> <|START_OF_TURN_TOKEN|> <|USER_TOKEN|> <|END_OF_TURN_TOKEN|> <PAD>",
    "GLM": "[gMASK] <sop> <|user|> <|observation|> <eop>",
    "Kimi": "[BOS] [EOS] <|im_user|> <|im_middle|> <|im_end|>",
    "EXAONE": "[BOS] [|user|] [|assistant|] [|endofturn|]",
    "MiniMax": "]~b] ]~!b[ [e~[",
    "Seed": "<seed:bos> <seed:eos>",
    "Nemotron": "<SPECIAL_12> <|im_end|> <extra_id_1>",
    "ESM": "<cls> <eos> <pad> <mask> <unk>",
    "Whisper": "<|startoftranscript|> <|en|> <|0.00|>",
}
ORDINARY = (
    *("cls", "sep", "pad", "bos", "INST", "turn", "endoftext", "user", "▁the", "Ġthe", "##ing", "İ"),
    *("<", ">", "|", "<|", "|>", "||", "<||>", "<>", "<|>", "|x|", "<|x", "x|>", "< | >", "<x|y>", "<|a b|>"),
    *("[", "]", "[]", "[|", "|]", "[||]", "[x]", "[1]", "[0]", "[A]", "[i]", "[CLS", "CLS]", "[cls]", "[SEP]]"),
    *("<b>", "<p>", "<div>", "</div>", "<br/>", "<html>", "<i", "</", "/>", "<?xml", "<!--", "<T>", "<int>"),
    *("<0x0A>", "<0xFF>", "<think>", "</think>", "<special>", "<extra_id_>", "<seed>", "~", "[unused7]", "]~", ""),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_of_a_family_are_known_by_name(family):
    assert [token for token in FAMILIES[family].split() if not is_special(token)] == []


def test_ordinary_tokens_are_not_taken_for_special_ones():
    assert [token for token in ORDINARY if is_special(token)] == []
    tokenizer = AutoTokenizer.from_pretrained(str(sample_encoder()))
    assert {token for token in tokenizer.get_vocab() if is_special(token)} == set(tokenizer.all_special_tokens)


def new_tokenizer():
    """A tokenizer with a special token of a usual name, one of its own, one that was added, and a mere addition."""
    words = {word: n for n, word in enumerate(["<unk>", "the", "ferry", "leaves", "@end@"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="@end@")
    made.add_tokens([AddedToken("@role@", special=True), AddedToken("harbour", special=False)])
    return made


def test_special_tokens_of_a_tokenizer_are_its_own_and_those_that_were_added():
    assert special_tokens_of(new_tokenizer()) == {"<unk>", "@end@", "@role@"}
    assert special_tokens_of(SimpleNamespace(convert_ids_to_tokens=list)) == frozenset()


TOKENS = ["@role@", "the", "ferry", "leaves", "harbour", "water", "@end@", "</s>", "@role@"]


def test_those_known_by_name_come_first_and_each_has_its_positions():
    assert special_token_positions(TOKENS, {"@role@", "@end@"}) == {"</s>": [7], "@role@": [0, 8], "@end@": [6]}
    assert special_token_positions(TOKENS) == {"</s>": [7]}


def test_a_caller_s_special_tokens_are_measured_here_and_at_a_server_alike(classifier, client):
    declared = {"tokens": TOKENS, "special_tokens": ["@role@", "@end@", "absent"], "token_groups": {"nouns": [2, 4]}}
    maps = random_maps(2, 3, 9, 9)
    expected = classifier.classify(maps, **declared)
    assert list(expected.attention_to) == ["</s>", "@role@", "@end@", "nouns"]
    assert expected.attention_to["@role@"].positions.tolist() == [0, 8]
    result = client.classify(maps, **declared)
    assert_equal(result, expected)
    assert list(result.attention_to) == list(expected.attention_to)


def test_special_tokens_in_the_padding_are_no_group_here_and_at_a_server(classifier, client):
    mask = [0] * 2 + [1] * 7
    maps = random_maps(2, 3, 9, 9)
    maps[..., :2] = 0
    maps /= maps.sum(axis=-1, keepdims=True)
    for tokens, end in ((["@end@"] * 2 + TOKENS[2:], 6), (["@pad@"] * 2 + TOKENS[2:], 6)):
        declared = {"tokens": tokens, "special_tokens": {"@pad@", "@end@"}, "mask": mask}
        expected = classifier.classify(maps, **declared)
        assert list(expected.attention_to) == ["</s>", "@end@"]
        assert expected.attention_to["@end@"].positions.tolist() == [end]
        assert_equal(client.classify(maps, **declared), expected)


def test_one_string_is_no_collection_of_special_tokens(classifier):
    with pytest.raises(errors.TokensError, match="special_tokens is '@end@', expected a collection of tokens"):
        classifier.classify(random_maps(9, 9), tokens=TOKENS, special_tokens="@end@")


def test_outputs_of_a_model_are_measured_with_the_special_tokens_of_its_tokenizer(classifier):
    tokenizer = new_tokenizer()
    encoding = tokenizer(["@role@ the ferry leaves harbour @end@"], return_tensors="np")
    outputs = SimpleNamespace(attentions=[random_maps(3, 6, 6)[None]])
    (result,) = classifier.classify_outputs(outputs, encoding, tokenizer)
    assert {name: group.positions.tolist() for name, group in result.attention_to.items()} == {
        "@role@": [0],
        "@end@": [5],
    }
    np.testing.assert_allclose(result.attention_to["@end@"].share, outputs.attentions[0][:, :, :, 5].mean(-1), 1e-5)
