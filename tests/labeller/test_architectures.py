"""Models of every architecture: their attention, taken layer by layer, against that of a plain call."""

import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns.errors import NotFiniteError, SourceError
from attention_patterns.labelling.sources.models.hugging_face import AttentionModel
from attention_patterns.labelling.sources.source import FailedInput, Selection
from attention_patterns.labelling.sources.texts.tasks import Picture
from attention_patterns.sample import sample_encoder
from tests.helpers.small_transformers import (
    GROUPED,
    IDS,
    LAYERS,
    LAYERS_OF,
    SOME,
    TEXT_MODELS,
    VOCABULARY,
    Plain,
    save_model,
    small_model,
    texts_of,
)

ENOUGH = 2**28  # bytes
PIXELS = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 24}
PATCHES = {"image_size": 16, "patch_size": 8}
VISION_MODELS = {
    "vit": (transformers.ViTConfig, ("[CLS]",)),
    "deit": (transformers.DeiTConfig, ("[CLS]", "[DIST]")),
    "dinov2 with registers": (
        transformers.Dinov2WithRegistersConfig,
        ("[CLS]", "register 0", "register 1", "register 2", "register 3"),
    ),
    "clip": (transformers.CLIPVisionConfig, ("[CLS]",)),
    "siglip": (transformers.SiglipVisionConfig, ()),
}


def measured(model, items, classifier, selection=None, most_bytes=ENOUGH):
    return list(
        model.measure(items, task="t", classifier=classifier, selection=selection or Selection(), most_bytes=most_bytes)
    )


def assert_close(one, other):
    """Maps that were streamed from a padded batch, and the same from a plain call for one text."""
    assert np.abs(one.images.astype(int) - other.images).max() <= 1
    for measures, plain in [
        (one.evidence, other.evidence),
        *((one.attention_to[name], group) for name, group in other.attention_to.items()),
    ]:
        for field in fields(plain):
            value = getattr(plain, field.name)
            if value is not None:
                np.testing.assert_allclose(getattr(measures, field.name), value, atol=1e-4)
    np.testing.assert_array_equal(one.causal, other.causal)
    assert set(one.attention_to) == set(other.attention_to)
    assert one.declaration.tokens == other.declaration.tokens
    assert one.declaration.segments.tolist() == other.declaration.segments.tolist()


@pytest.mark.parametrize("kind", ["minilm", *TEXT_MODELS])
def test_batches_give_what_a_plain_call_gives_for_each_text(tmp_path, classifier, kind):
    folder = str(sample_encoder()) if kind == "minilm" else small_model(tmp_path, kind)
    model, plain = AttentionModel(folder), Plain(folder)
    found = measured(model, SOME, classifier)
    assert sorted(place for place, _ in found) == sorted(place for place in range(len(SOME)) for _ in model.stacks)
    for n, stack in enumerate(model.stacks):
        expected = LAYERS_OF.get(kind, [tuple(range(6 if kind == "minilm" else 2))])[n]
        assert stack.layers == expected
        assert stack.causal == (stack.name == "decoder")
        of_stack = {place: one for place, one in found if one.name.part == stack.name}
        for place, text in enumerate(SOME):
            whole = plain.measure(text, classifier, causal=[each.causal for each in model.stacks])[n]
            assert of_stack[place].name.input_id == text.input_id
            assert of_stack[place].layers == expected
            assert_close(of_stack[place].maps, whole)


@pytest.mark.parametrize(
    ("kind", "in_all"), [("jamba", 4), ("zamba", 5), ("bamba", 4), ("minimax", 4), ("qwen3-next", 4)]
)
def test_layers_without_attention_are_reported_and_the_others_keep_their_index(tmp_path, classifier, kind, in_all):
    model = AttentionModel(small_model(tmp_path, kind))
    ((_, one),) = measured(model, SOME[:1], classifier, Selection(layers=(3,), heads=(2, 0)))
    assert (one.layers, one.heads) == ((3,), (0, 2))
    assert one.maps.causal.shape == (1, 2)
    assert one.warnings == (f"{in_all - 2} of {in_all} layers return no attention and are not labelled",)
    ((_, failed),) = measured(model, SOME[:1], classifier, Selection(layers=(2,)))
    owner = f"the {failed.name.part} of {failed.name.model}"
    assert str(failed.error) == f"layer 2 is selected, expected 1, 3: the layers of {owner} that return attention"


@pytest.mark.parametrize("kind", VISION_MODELS)
def test_pictures_give_what_a_plain_call_gives(tmp_path, classifier, kind):
    config, specials = VISION_MODELS[kind]
    folder = save_pictures_model(tmp_path, config(**PIXELS, **PATCHES))
    pictures = save_pictures(tmp_path)
    model = AttentionModel(folder)
    found = dict(measured(model, pictures, classifier))
    plain = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for place, picture in enumerate(pictures):
        pixels = processor(Image.open(picture.url).convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            layers = plain(**pixels, output_attentions=True).attentions
        attention = torch.cat(layers).numpy()
        whole = classifier.measure_read(
            read_attention(attention, None), read_declaration(attention.shape[-1], causal=False)
        )
        maps = found[place].maps
        assert maps.declaration.tokens == (*specials, "patch 0,0", "patch 0,1", "patch 1,0", "patch 1,1")
        assert maps.declaration.segments is None
        assert np.abs(maps.images.astype(int) - whole.images).max() <= 1
        np.testing.assert_allclose(maps.evidence.row_entropy, whole.evidence.row_entropy, atol=1e-4)
        assert set(maps.attention_to) == set(specials[:1])


def test_tokens_of_a_picture_that_are_no_patches_are_left_without_names(tmp_path, classifier):
    config = transformers.YolosConfig(**PIXELS, image_size=[16, 16], patch_size=8, num_detection_tokens=3)
    model = AttentionModel(save_pictures_model(tmp_path, config))
    (_, one), *_ = measured(model, save_pictures(tmp_path), classifier)
    assert one.maps.declaration.tokens is None
    assert one.maps.declaration.length == 8
    assert one.warnings == ("the tokens are not named: the model makes 8 of a picture, its patches give 5",)


def test_texts_for_a_model_of_pictures_pictures_for_one_of_texts_and_bad_pictures_fail_alone(tmp_path, classifier):
    pictures = save_pictures(tmp_path)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    vision = AttentionModel(save_pictures_model(tmp_path, transformers.ViTConfig(**PIXELS, **PATCHES)))
    os.mkfifo(tmp_path / "fifo.png")
    others = [Picture(name, str(tmp_path / f"{name}.png")) for name in ("bad", "gone", "fifo")]
    items = [SOME[0], pictures[0], *others]
    found = dict(measured(vision, items, classifier))
    assert "t:1 is a text, expected a picture" in str(found[0].error)
    assert found[1].maps.causal.shape == (2, 3)
    assert "bad.png cannot be read" in str(found[2].error)
    assert "gone.png cannot be opened" in str(found[3].error)
    assert "fifo.png is a FIFO, expected a regular file" in str(found[4].error)
    ((_, failed),) = measured(AttentionModel(str(sample_encoder())), pictures[:1], classifier)
    assert "is a picture, expected a text" in str(failed.error)


def save_pictures_model(folder, config):
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


def save_pictures(folder):
    """Three noisy pictures of several sizes and numbers of channels."""
    random, pictures = np.random.default_rng(7), []
    for name, shape in (("colour", (20, 30, 3)), ("grey", (16, 16)), ("see-through", (40, 17, 4))):
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(folder / f"{name}.png")
        pictures.append(Picture(name, str(folder / f"{name}.png")))
    return pictures


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "t5", "deberta"])
def test_half_precision_differs_by_its_rounding_only(tmp_path, classifier, kind, dtype):
    folder = small_model(tmp_path, kind)
    whole = measured(AttentionModel(folder), SOME, classifier)
    half = measured(AttentionModel(folder, dtype=dtype), SOME, classifier)
    assert [place for place, _ in half] == [place for place, _ in whole]
    for (_, one), (_, other) in zip(half, whole, strict=True):
        assert np.abs(one.maps.evidence.row_entropy - other.maps.evidence.row_entropy).mean() < 0.1


REFUSED = {
    "mamba": (
        transformers.MambaConfig,
        {"vocab_size": 30, "hidden_size": 12, "state_size": 4, "num_hidden_layers": 2},
        "returns no attentions, expected the self-attention of its layers",
    ),
    "longformer": (
        transformers.LongformerConfig,
        IDS | LAYERS | {"attention_window": 4, "max_position_embeddings": 64, "sep_token_id": 2},
        r"attentions have shapes \[2, 3, 9, 5\] .*expected \[2, heads, 9, 9\] .*: windows",
    ),
    "perceiver": (
        transformers.PerceiverConfig,
        {"vocab_size": 30, "d_model": 12, "d_latents": 12, "num_latents": 6, "max_position_embeddings": 24}
        | {"num_self_attends_per_block": 2, "num_self_attention_heads": 3, "num_cross_attention_heads": 3},
        "takes inputs, expected a model of texts",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_models_without_full_self_attention_are_refused(tmp_path, kind):
    config, arguments, message = REFUSED[kind]
    with pytest.raises(SourceError, match=message):
        AttentionModel(save_model(tmp_path, "bert", config(**arguments)))


def test_a_vision_model_of_windows_is_refused(tmp_path):
    config = transformers.SwinConfig(
        image_size=16, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[3, 3], window_size=2
    )
    with pytest.raises(SourceError, match=r"attentions have shapes \[2, 3, 4, 4\] and \[8, 3, 4, 4\] for 2 inputs"):
        AttentionModel(save_pictures_model(tmp_path, config))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_learned_sinks_are_a_first_token_with_the_share_that_each_row_lacks(tmp_path, classifier, dtype):
    config = transformers.GptOssConfig(
        **IDS
        | LAYERS
        | GROUPED
        | {"hidden_size": 16, "intermediate_size": 32, "num_local_experts": 2, "num_experts_per_tok": 1}
        | {"rope_parameters": None}
    )
    folder = save_model(tmp_path, "bert", config)
    model, plain = AttentionModel(folder, dtype=dtype), Plain(folder)
    (stack,) = model.stacks
    assert (stack.sink, stack.causal) == (True, True)
    for place, one in measured(model, SOME, classifier):
        ids = plain.tokenizer(*[text for text in (SOME[place].first, SOME[place].second) if text], return_tensors="pt")
        with torch.inference_mode():
            layers = torch.cat(plain.model(**{"input_ids": ids["input_ids"]}, output_attentions=True).attentions)
        missing = 1 - layers.sum(-1)  # [layers, heads, L]
        assert missing.mean() > 0.01
        length = layers.shape[-1]
        assert one.maps.declaration.length == length + 1
        assert one.maps.declaration.tokens[0] == "sink"
        assert len(one.maps.declaration.segments) == length + 1
        sink = one.maps.attention_to["sink"]
        assert sink.positions.tolist() == [0]
        rounding = 1e-5 if dtype == "float32" else 0.05
        np.testing.assert_allclose(sink.share_from_outside, missing.mean(-1), atol=rounding)
        np.testing.assert_allclose(sink.share_from_inside, 1)
        assert one.warnings == (
            "the first token, 'sink', stands for the model's learned sinks, with the share that each row lacks",
        )
        if dtype == "float32":
            whole = torch.zeros(*layers.shape[:2], length + 1, length + 1)
            whole[..., 0, 0], whole[..., 1:, 0], whole[..., 1:, 1:] = 1, missing, layers
            by_hand = classifier.measure_read(read_attention(whole, None), read_declaration(length + 1, causal=True))
            assert np.abs(one.maps.images.astype(int) - by_hand.images).max() <= 1


def test_a_text_with_nan_in_its_attention_fails_alone(tmp_path, classifier):
    folder = small_model(tmp_path, "bert")
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[VOCABULARY["soup"]] = np.nan
    model.save_pretrained(folder)
    found = dict(measured(AttentionModel(folder), texts_of("the soup", "the ferry", "a roof"), classifier))
    assert isinstance(found[0].error, NotFiniteError)
    assert "attention[layer 0, head 0]" in str(found[0].error)
    assert not isinstance(found[1], FailedInput)
    assert not isinstance(found[2], FailedInput)


PEAK = """
import sys
from pathlib import Path
from attention_patterns import PatternClassifier
from attention_patterns.labelling.sources.models.hugging_face import AttentionModel
from attention_patterns.labelling.sources.source import Selection
from tests.helpers.small_transformers import texts_of

def kibibytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

classifier = PatternClassifier.load()
for folder in sys.argv[1:]:
    model = AttentionModel(folder)
    for run in range(2):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = kibibytes("VmRSS")
        settings = {"task": "t", "classifier": classifier, "selection": Selection(), "most_bytes": 2**29}
        for _, one in model.measure(texts_of("ferry " * 500), **settings):
            assert one.maps.images.shape[0] % 8 == 0
    print((kibibytes("VmHWM") - before) / 1024)
"""


WIDER = {
    "bert": {"num_attention_heads": 8, "hidden_size": 32, "max_position_embeddings": 600},
    "deberta": {"num_attention_heads": 8, "hidden_size": 32, "max_position_embeddings": 600},
    "xlnet": {"n_head": 8, "d_model": 32},
    "bart": {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "d_model": 32, "max_position_embeddings": 600},
}
DEPTHS = {"xlnet": ("n_layer",), "bart": ("encoder_layers", "decoder_layers")}


def test_memory_does_not_grow_with_the_layers(tmp_path):
    folders = []
    for kind, wider in WIDER.items():
        name, arguments = TEXT_MODELS[kind]
        for depth in (2, 6):
            deep = dict.fromkeys(DEPTHS.get(kind, ("num_hidden_layers",)), depth)
            config = getattr(transformers, name)(**arguments | wider | deep)
            folders.append(save_model(tmp_path / f"{kind} {depth}", kind, config))
    # Freed memory goes back to the system at once, so that it is not counted.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAK, *folders]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peaks = [float(line) for line in done.stdout.split()]
    layer = 8 * 502**2 * 4 / 2**20  # MiB
    for kind, few, many in zip(WIDER, peaks[::2], peaks[1::2], strict=True):
        assert layer < many < few + layer, kind
