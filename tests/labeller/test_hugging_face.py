"""Models over texts: batches, threads, failures and memory."""

import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as models_of_tokens

from attention_patterns.errors import MissingExtraError, SelectionError, SourceError
from attention_patterns.labelling.sources.models import source as models
from attention_patterns.labelling.sources.models.encodings import Encoded, batches
from attention_patterns.labelling.sources.models.hugging_face import AttentionModel
from attention_patterns.labelling.sources.models.source import TEXTS_PER_UNIT, ModelSource
from attention_patterns.labelling.sources.source import FailedInput, MeasuredInput, Selection
from attention_patterns.labelling.sources.texts.tasks import UnreadText
from attention_patterns.programs.extras import install_command
from attention_patterns.sample import sample_encoder
from tests.helpers.small_transformers import SOME, TEXT_MODELS, WORDS, save_model, small_model, texts_of

ENOUGH = 2**28  # bytes
KINDS = ("gpt2", "llama", "roberta", "t5", "bart")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Architecture -> folder of a small model with random weights."""
    return {kind: small_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def minilm():
    return AttentionModel(str(sample_encoder()))


@pytest.fixture
def run(classifier):
    """Runs a model over texts and returns the result of each, by place and then by stack."""

    def run(model, texts, selection=Selection(), most_bytes=ENOUGH):  # noqa: B008  it is frozen
        found = model.measure(texts, task="t", classifier=classifier, selection=selection, most_bytes=most_bytes)
        return [one for _, one in sorted(found, key=lambda placed: placed[0])]

    return run


def test_minilm_gives_encoder_inputs_with_segments(minilm, run, classifier):
    (one,) = run(minilm, texts_of("The ferry leaves at seven.|Whoever is late waits for the tide."))
    assert (one.name.task, one.name.input_id, one.name.part) == ("t", "t:1", "encoder")
    assert (one.name.model, one.name.revision) == (str(sample_encoder()), None)
    assert one.maps.causal.shape == (6, 12)
    assert one.layers == tuple(range(6))
    assert one.heads == tuple(range(12))
    tokens = one.maps.declaration.tokens
    second = tokens.index("[SEP]") + 1
    assert one.maps.declaration.segments.tolist() == [0] * second + [1] * (len(tokens) - second)
    assert set(one.maps.attention_to) == {"[CLS]", "[SEP]"}
    (result,) = classifier.classify_measured([one.maps])
    assert result.patterns.shape == (6, 12)


def test_each_text_has_its_place_and_an_encoder_decoder_gives_two_inputs(folders, run):
    for kind, parts in (("gpt2", ["decoder"]), ("roberta", ["encoder"]), ("bart", ["encoder", "decoder"])):
        found = run(AttentionModel(folders[kind]), SOME)
        assert [(one.name.input_id, one.name.part) for one in found] == [
            (text.input_id, part) for text in SOME for part in parts
        ]


def test_a_decoder_behind_an_encoder_is_fed_the_ids_shifted(folders, run):
    encoder, decoder = (
        one.maps.declaration for one in run(AttentionModel(folders["bart"]), texts_of("rain water|tide"))
    )
    assert encoder.tokens == ("<s>", "rain", "water", "</s>", "</s>", "tide", "</s>")
    assert decoder.tokens == ("</s>", "<s>", "rain", "water", "</s>", "</s>", "tide")
    assert encoder.segments.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert decoder.segments.tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_special_tokens_are_those_of_the_tokenizer(tmp_path, run):
    folder = small_model(tmp_path, "gpt2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"extra_special_tokens": ["ferry"]})
    tokenizer.save_pretrained(folder)
    (one,) = run(AttentionModel(folder), texts_of("the ferry the harbour the tide"))
    assert one.maps.declaration.tokens == ("the", "ferry", "the", "harbour", "the", "tide")
    assert {name: group.positions.tolist() for name, group in one.maps.attention_to.items()} == {"ferry": [1]}


def test_a_word_that_stands_in_for_the_padding_is_no_special_token(tmp_path, run):
    folder = small_model(tmp_path, "gpt2")
    words = Tokenizer(models_of_tokens.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token=WORDS[-1]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    (one,) = run(AttentionModel(folder), texts_of(" ".join(WORDS[:5])))
    assert WORDS[0] in one.maps.declaration.tokens
    assert one.maps.attention_to == {}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "roberta", "bart"])
def test_long_texts_fail_or_are_cut_with_a_warning(folders, run, kind):
    texts = texts_of(" ".join(WORDS * 2), "the ferry")
    total = 2 * len(WORDS) + {"gpt2": 0, "llama": 1}.get(kind, 2)
    long, *short = run(AttentionModel(folders[kind]), texts)
    assert str(long.error) == f"t:1 has {total} tokens, the model takes 24; --truncate cuts it"
    assert all(isinstance(one, MeasuredInput) for one in short)
    found = run(AttentionModel(folders[kind], truncate=True), texts)
    cut = [one for one in found if one.name.input_id == "t:1"]
    assert len(cut) == (2 if kind == "bart" else 1)
    for one in cut:
        assert one.maps.declaration.length == 24
        assert one.warnings == (f"the text was cut from {total} to 24 tokens",)
    assert all(not one.warnings for one in found if one.name.input_id == "t:2")


def test_a_model_without_a_maximum_takes_long_texts(folders, run):
    encoder, decoder = run(AttentionModel(folders["t5"]), texts_of(" ".join(WORDS * 20)))
    assert encoder.maps.declaration.length == decoder.maps.declaration.length == 20 * len(WORDS) + 1
    assert encoder.warnings == ()


def test_a_text_without_tokens_fails_alone(folders, run):
    good, bad = run(AttentionModel(folders["gpt2"]), texts_of("the ferry", "\u00a0"))
    assert good.maps.declaration.tokens == ("the", "ferry")
    assert str(bad.error) == "t:2 gives no tokens, expected at least one"


def test_a_text_that_is_no_unicode_fails_alone(minilm, run):
    bad, good = run(minilm, texts_of("a lone \ud800", "the ferry"))
    assert "t:1 cannot be cut into tokens" in str(bad.error)
    assert isinstance(good, MeasuredInput)


def test_a_text_that_does_not_fit_in_memory_fails_with_what_it_needs(minilm, run):
    short, long = run(minilm, texts_of("the ferry", " ".join(["ferry"] * 300)), most_bytes=2**22)
    assert isinstance(short, MeasuredInput)
    assert "t:2 has 302 tokens, whose attention takes 35.0 MiB per layer, expected at most the 3.5" in str(long.error)


def test_little_memory_changes_no_result(minilm, run):
    texts = texts_of(*("bees and the roof " * n for n in range(1, 9)))
    for one, other in zip(run(minilm, texts), run(minilm, texts, most_bytes=2**22), strict=True):
        assert np.abs(one.maps.images.astype(int) - other.maps.images).max() <= 1
        np.testing.assert_allclose(one.maps.evidence.row_entropy, other.maps.evidence.row_entropy, atol=1e-4)


def test_only_the_layers_and_heads_asked_for_are_measured(minilm, run):
    (whole,) = run(minilm, texts_of("the ferry leaves"))
    (some,) = run(minilm, texts_of("the ferry leaves"), Selection(layers=(4, 1), heads=(7, 0, 3)))
    assert (some.layers, some.heads) == ((1, 4), (0, 3, 7))
    images = whole.maps.images.reshape(6, 12, *whole.maps.images.shape[1:])[np.ix_([1, 4], [0, 3, 7])]
    np.testing.assert_array_equal(some.maps.images.reshape(images.shape), images)
    entropy = whole.maps.evidence.row_entropy[np.ix_([1, 4], [0, 3, 7])]
    np.testing.assert_array_equal(some.maps.evidence.row_entropy, entropy)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(layers=(2, 6)), "layer 6 is selected, expected 0 to 5: the layers of the encoder of .*model$"),
        (Selection(heads=(12,)), "head 12 is selected, expected 0 to 11: the heads of the encoder of .*model$"),
        (Selection(heads=()), "no head is selected, expected 0 to 11: the heads of the encoder of .*model$"),
    ],
)
def test_a_layer_or_head_that_is_not_there_fails_all_texts(minilm, run, selection, message):
    found = run(minilm, SOME, selection)
    assert len(found) == len(SOME)
    for one in found:
        assert isinstance(one.error, SelectionError)
        assert re.search(message, str(one.error))
        assert one.name.part == "encoder"


def test_a_layer_that_one_stack_has_fails_in_the_other_only(folders, run):
    encoder, decoder = run(AttentionModel(folders["bart"]), SOME[:1], Selection(layers=(2,)))
    assert isinstance(encoder.error, SelectionError)
    assert decoder.layers == (2,)


def test_the_texts_of_a_batch_that_fails_are_run_one_by_one(run):
    model = AttentionModel(str(sample_encoder()))
    sizes = []

    def refuse(_module, _arguments, named):
        sizes.append(len(named["input_ids"]))
        if sizes[-1] > 1 or named["input_ids"].shape[1] == 4:
            raise RuntimeError("out of memory, as it were")

    model._model.register_forward_pre_hook(refuse, with_kwargs=True)
    found = run(model, texts_of("the ferry leaves", "rain and tide", "salt water", "bees and soup"))
    assert sizes[0] > 1
    assert sizes.count(1) == 4
    assert [isinstance(one, FailedInput) for one in found] == [False, False, True, False]
    assert str(found[2].error) == "the model failed: RuntimeError: out of memory, as it were"
    assert found[2].error.__cause__ is None  # its traceback would keep the attention


def side_by_side(run, model, lots):
    """Runs lots of texts by threads that share the model at once, several times; returns the results of each lot."""
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda texts: run(model, texts), lots))


def test_threads_that_run_a_model_at_once_get_what_one_alone_gets(minilm, run):
    alone = run(minilm, SOME)
    for found in side_by_side(run, minilm, [SOME] * 6):
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_array_equal(one.maps.images, other.maps.images)


def test_threads_do_not_share_what_a_model_remembers_of_its_input(tmp_path, run):
    name, arguments = TEXT_MODELS["llama"]
    factors = {"short_factor": [1.0, 1.0], "long_factor": [16.0, 16.0], "original_max_position_embeddings": 8}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}  # other angles for texts of over 8 tokens
    config = getattr(transformers, name)(**arguments | {"max_position_embeddings": 64, "rope_parameters": rope})
    model = AttentionModel(save_model(tmp_path, "llama", config))
    lots = [texts_of(*[" ".join(WORDS[:count])] * 30) for count in (5, 40)] * 10
    alone = [run(model, texts[:1])[0].maps.evidence.row_entropy for texts in lots[:2]]
    for n, found in enumerate(side_by_side(run, model, lots)):
        for one in found:
            np.testing.assert_allclose(one.maps.evidence.row_entropy, alone[n % 2], atol=1e-4)


def test_threads_do_not_cut_the_texts_of_others(folders, run):
    model = AttentionModel(folders["roberta"], truncate=True)
    long, short = texts_of(*[" ".join(WORDS * 9)] * 40), texts_of(*[" ".join(WORDS[:18])] * 40)
    for found, length in zip(side_by_side(run, model, [long, short] * 3), [24, 20] * 3, strict=True):
        assert {one.maps.declaration.length for one in found} == {length}


def test_torch_has_its_threads_back_after_a_run(minilm, run):
    before = torch.get_num_threads()
    side_by_side(run, minilm, [SOME] * 3)
    assert torch.get_num_threads() == before
    assert started_anew() == before


def started_anew():
    """The threads that torch takes in a new thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def encoded(length, shape=()):
    return Encoded("t", length, {}, None, None, (), shape)


def test_inputs_of_one_length_are_run_together_and_padding_is_little():
    lengths = [9, 30, 9, 31, 100, 9]
    items = {n: encoded(length) for n, length in enumerate(lengths)}
    assert list(batches(items, fits=lambda *_: True)) == [[0, 2, 5], [1, 3], [4]]
    assert list(batches(items, fits=lambda count, length: count * length <= 18)) == [[0, 2], [5], [1], [3], [4]]
    assert list(batches({}, fits=lambda *_: True)) == []


def test_batches_are_of_few_inputs_and_pictures_of_one_shape():
    assert [len(batch) for batch in batches(dict.fromkeys(range(70), encoded(5)), fits=lambda *_: True)] == [32, 32, 6]
    assert [len(batch) for batch in batches(dict.fromkeys(range(5), encoded(2000)), fits=lambda *_: True)] == [2, 2, 1]
    pictures = {n: encoded(5, (3, 16, side)) for n, side in enumerate((16, 20, 16))}
    assert list(batches(pictures, fits=lambda *_: True)) == [[0, 2], [1]]


@pytest.mark.parametrize("name", ["/nowhere/model", "nobody-has/this-model"])
def test_a_missing_model_is_named(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import
    with pytest.raises(SourceError, match=f"model '{name}' is not a folder here and cannot be loaded"):
        AttentionModel(name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_the_files_of_its_tokenizer_is_refused(folders, tmp_path, kind):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((Path(folders[kind]) / file).read_bytes())
    with pytest.raises(SourceError, match=r"its tokenizer knows special tokens only|instantiate the backend tokenizer"):
        AttentionModel(str(tmp_path))


def test_damaged_weights_are_reported(folders, tmp_path):
    for file in Path(folders["gpt2"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(SourceError, match="is a folder and cannot be loaded"):
        AttentionModel(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8', expected one of float32, float16, bfloat16"),
        ({"device": "nowhere"}, "cannot be moved to device 'nowhere'"),
        ({"device": "meta"}, "model .* \\(BertModel\\): .*meta"),
    ],
)
def test_settings_that_cannot_be_are_reported(settings, message):
    with pytest.raises(SourceError, match=message):
        AttentionModel(str(sample_encoder()), **settings)


MANY = texts_of(*("the ferry leaves" for _ in range(TEXTS_PER_UNIT + 2)))
BAD = UnreadText("b:1", SourceError("b:1 holds no text"))


def test_units_are_runs_of_the_texts_of_a_task_for_a_model(folders):
    source = ModelSource((str(sample_encoder()), folders["bart"]), (("many", MANY), ("few", (BAD, *SOME[:2]))))
    units = source.units()
    assert [(one.number, one.task, one.inputs, one.maps) for one in units] == [
        (0, "many", TEXTS_PER_UNIT, TEXTS_PER_UNIT * 72),
        (1, "many", 2, 2 * 72),
        (2, "few", 3, 2 * 72),
        (3, "many", TEXTS_PER_UNIT, 0),  # the layers of two stacks are not read from a configuration
        (4, "many", 2, 0),
        (5, "few", 3, 0),
    ]
    assert repr(units) == repr(pickle.loads(pickle.dumps(source)).units())
    assert [name.input_id for name in source.names(units[2])] == ["b:1", "t:1", "t:2"]
    assert {name.model for name in source.names(units[5])} == {folders["bart"]}
    assert [one.bytes for one in units[:2]] == [TEXTS_PER_UNIT * 16, 32]


def test_a_unit_gives_each_input_once_and_bad_ones_as_they_are(classifier):
    source = ModelSource((str(sample_encoder()),), (("few", (SOME[0], BAD, SOME[2])),))
    found = dict(source.measure(source.units()[0], classifier, most_bytes=ENOUGH))
    assert set(found) == {0, 1, 2}
    assert found[1].error is BAD.error
    assert [found[n].name.input_id for n in (0, 2)] == ["t:1", "t:3"]
    assert found[2].maps.causal.shape == (6, 12)


def test_a_model_that_cannot_be_loaded_fails_all_its_texts_and_is_tried_once(classifier, tmp_path):
    source = ModelSource((str(tmp_path),), (("few", SOME), ("more", SOME)))
    models._load_model.cache_clear()
    found = [list(source.measure(unit, classifier, most_bytes=ENOUGH)) for unit in source.units()]
    assert models._load_model.cache_info().misses == 1
    for of_unit in found:
        assert [place for place, _ in of_unit] == list(range(len(SOME)))
        for _, one in of_unit:
            assert one.name.model == str(tmp_path)
            assert f"model '{tmp_path}' is a folder and cannot be loaded" in str(one.error)


def test_no_two_models_are_in_memory_at_once(folders):
    tasks = (("few", SOME),)
    assert ModelSource((str(sample_encoder()), folders["gpt2"]), tasks).callers() == 1
    assert ModelSource((str(sample_encoder()),), tasks).callers() == min(2, len(os.sched_getaffinity(0)))


def test_the_memory_of_a_model_is_returned(folders):
    source = ModelSource((str(sample_encoder()), "nowhere"), (("few", SOME),))
    there, missing = source.units()
    weights = Path(str(sample_encoder()), "model.safetensors").stat().st_size
    assert source.prepare(there) - source.prepare(missing) == pytest.approx(weights, rel=0.01)


def test_without_torch_one_error_names_the_extra_for_all_texts(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "attention_patterns.labelling.sources.models.hugging_face")
    models._import_libraries.cache_clear()
    source = ModelSource((str(sample_encoder()),), (("few", SOME[:1]),))
    with pytest.raises(MissingExtraError) as missing:
        source.prepare(source.units()[0])
    assert str(missing.value).startswith("--model needs the extra 'models' (torch is not installed): ")
    assert str(missing.value).endswith(install_command("models"))


def test_without_pillow_models_of_texts_are_run_and_those_of_pictures_name_the_extra(monkeypatch, tmp_path, run):
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24, image_size=16, patch_size=8
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"of pictures needs the extra 'models' \(PIL is not installed\): "):
        AttentionModel(str(tmp_path))
    (read,) = run(AttentionModel(str(sample_encoder())), SOME[:1])
    assert isinstance(read, MeasuredInput)


def test_a_source_is_made_and_cut_into_units_without_torch():
    program = (
        "import sys; from attention_patterns.labelling.sources.models.source import ModelSource; "
        f"ModelSource(({str(sample_encoder())!r},), (('t', ()),)).units(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_fingerprint_changes_with_the_texts_and_the_model(folders, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    source = ModelSource((str(tmp_path), "some/model"), (("few", SOME), ("dtype", SOME)), revision="main")
    before = source.fingerprint()
    settings = {"selection", "dtype", "truncate", "only"}
    assert set(before) == {"task few", "task dtype", f"model {tmp_path}", "model some/model"} | settings
    assert before["model some/model"] == "main"
    fewer = replace(source, tasks=(("few", SOME[:2]), ("dtype", SOME)))
    assert changed(before, fewer) == {"task few"}
    (tmp_path / "config.json").write_text("{ }")
    assert changed(before, source) == {f"model {tmp_path}"}


def changed(before, source):
    return {name for name, value in source.fingerprint().items() if value != before[name]}


@pytest.mark.parametrize(
    ("name", "value"),
    [("selection", Selection(heads=(1,))), ("dtype", "bfloat16"), ("truncate", True), ("only", frozenset({2}))],
)
def test_the_fingerprint_changes_with_what_changes_the_labels(name, value):
    source = ModelSource(("some/model",), (("few", SOME),))
    assert changed(source.fingerprint(), replace(source, **{name: value})) == {name}


def test_some_texts_are_chosen_by_their_number_in_all_tasks_the_same_for_each_model(folders):
    source = ModelSource((str(sample_encoder()), folders["gpt2"]), (("few", SOME[:3]), ("none", ()), ("more", SOME)))
    assert source.count_inputs() == 9
    some = source.restrict([8, 1, 3])
    assert some.count_inputs() == 9
    assert [(name.model, name.task, name.input_id) for unit in some.units() for name in some.names(unit)] == [
        (model, task, input_id)
        for model in source.models
        for task, input_id in (("few", "t:2"), ("more", "t:1"), ("more", "t:6"))
    ]
    assert [(unit.number, unit.inputs, unit.maps) for unit in some.units()] == [
        (0, 1, 72),
        (1, 2, 144),
        (2, 1, 6),
        (3, 2, 12),
    ]


def test_eight_texts_of_each_task_and_model_are_examples():
    source = ModelSource((str(sample_encoder()), "some/model"), (("many", MANY), ("few", SOME[:3])))
    first, second, few, *other = source.units()
    assert sorted(first.examples) == [n * len(MANY) // 8 for n in range(8)]
    assert second.examples == set()
    assert few.examples == {0, 1, 2}
    assert [unit.examples for unit in other] == [first.examples, second.examples, few.examples]
    last = source.restrict(range(len(MANY) - 60, len(MANY))).units()[0]
    assert (last.inputs, len(last.examples)) == (60, 8)
