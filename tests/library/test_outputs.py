"""Outputs of models that are not as expected: the cause is named, and what is advised helps."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, CLIPConfig, CLIPModel, GPT2Config, GPT2LMHeadModel

from attention_patterns import errors
from attention_patterns.sample import sample_encoder
from tests.helpers.drawn_maps import random_maps


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(sample_encoder())


@pytest.fixture(scope="module")
def encoding(tokenizer):
    return tokenizer("The ferry leaves at seven.", return_tensors="pt")


def encoder(implementation):
    return AutoModel.from_pretrained(sample_encoder(), attn_implementation=implementation)


@pytest.fixture(scope="module")
def eager():
    return encoder("eager")


@pytest.fixture
def refused(classifier, encoding, tokenizer):
    """A function that returns the message for which outputs are refused."""

    def message_for(outputs, encoding=encoding, kind=errors.ShapeError):
        with pytest.raises(kind) as error:
            classifier.classify_outputs(outputs, encoding, tokenizer)
        return str(error.value)

    return message_for


@pytest.fixture
def patterns(classifier, encoding, tokenizer, eager):
    """Checks that outputs are classified as those of the plain call."""
    with torch.no_grad():
        (expected,) = classifier.classify_outputs(eager(**encoding, output_attentions=True), encoding, tokenizer)

    def check(outputs):
        (result,) = classifier.classify_outputs(outputs, encoding, tokenizer)
        assert result.patterns.tolist() == expected.patterns.tolist()

    return check


def test_the_attentions_themselves_are_taken(eager, encoding, patterns):
    attentions = eager(**encoding, output_attentions=True).attentions
    for given in (attentions, list(attentions), torch.stack(attentions), SimpleNamespace(attentions=attentions)):
        patterns(given)


def test_a_plain_tuple_is_told_from_missing_attention(eager, encoding, refused, patterns):
    with torch.no_grad():
        plain = eager(**encoding, output_attentions=True, return_dict=False)
        assert refused(plain) == (
            "outputs are a tuple, as of return_dict=False; call the model with return_dict=True, or hand in entry 2 of "
            "the tuple, the attentions"
        )
        patterns(plain[2])
        without = refused(eager(**encoding, return_dict=False))
        assert without.endswith("call the model with return_dict=True")


def test_eager_attention_is_advised_only_where_no_layer_has_any(eager, encoding, refused):
    message = refused(eager(**encoding))
    assert message.startswith("outputs hold no attentions; call the model with output_attentions=True")
    for empty in ((), (None, None)):
        message = refused(SimpleNamespace(attentions=empty))
        assert message.endswith('; load the model with attn_implementation="eager"')
        assert "output_attentions" not in message


def test_outputs_of_generate(classifier, tokenizer, encoding, refused):
    """Those of a decoder hold an entry per token; the first is of the prompt."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="eager").eval()
    ids = encoding["input_ids"]
    options = {"output_attentions": True, "return_dict_in_generate": True, "do_sample": False, "pad_token_id": 0}
    outputs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, **options)
    message = refused(outputs)
    assert "an entry per generated token, as of generate(): hand in outputs.attentions[0]" in message
    assert "eager" not in message
    (result,) = classifier.classify_outputs(outputs.attentions[0], encoding, tokenizer)
    (plain,) = classifier.classify_outputs(model(ids, output_attentions=True), encoding, tokenizer)
    assert result.patterns.tolist() == plain.patterns.tolist()
    assert result.causal.all()


def test_a_full_clip_is_two_models(classifier, tokenizer, refused):
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = text | {"image_size": 32, "patch_size": 8}
    size = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2}
    model = CLIPModel._from_config(
        CLIPConfig(text_config=text | size, vision_config=vision), attn_implementation="eager"
    )
    encoding = tokenizer("The ferry leaves at seven.", return_tensors="pt")
    del encoding["token_type_ids"]
    with torch.no_grad():
        outputs = model(**encoding, pixel_values=torch.zeros(1, 3, 32, 32), output_attentions=True)
    message = refused(outputs, encoding)
    assert message == (
        "outputs are of two models; hand in those of one, outputs.text_model_output or outputs.vision_model_output"
    )
    (of_text,) = classifier.classify_outputs(outputs.text_model_output, encoding, tokenizer)
    assert of_text.patterns.shape == (2, 2)
    pixels = {"pixel_values": torch.zeros(1, 3, 32, 32)}
    message = refused(outputs.vision_model_output, pixels, errors.TokensError)
    assert message.endswith("of a picture classify torch.stack(outputs.attentions)")
    assert classifier.classify(torch.stack(outputs.vision_model_output.attentions)).length == 17


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (None, "outputs are a builtins.NoneType, expected the outputs of a Hugging Face model"),
        (torch.zeros(1, 8, 8), "outputs are a torch.Tensor, expected the outputs"),
        (SimpleNamespace(attentions=(np.zeros((3, 8, 8)),)), "the axis of the batch is missing"),
        (SimpleNamespace(attentions=(7,)), "hand in the attentions as the model returns them"),
    ],
)
def test_what_is_no_output_of_a_model_is_named(refused, outputs, message):
    assert message in refused(outputs)


LAYER = torch.from_numpy(random_maps(3, 12, 12))


@pytest.mark.parametrize(
    ("attention", "messages"),
    [
        (LAYER.clone().requires_grad_(), {".detach()"}),
        (torch.empty(3, 12, 12, device="meta"), {".cpu()"}),
        (LAYER.bfloat16(), {"view(torch.uint16)"}),
        (LAYER.bfloat16().requires_grad_(), {".detach()", "view(torch.uint16)"}),
        ((LAYER.bfloat16(), LAYER.bfloat16()), {"view(torch.uint16)"}),
        ((LAYER, LAYER[:2]), {"its entries have shapes [2, 12, 12], [3, 12, 12], expected one"}),
        ((LAYER.numpy(), LAYER[:, :9, :9].numpy()), {"its entries have shapes [3, 9, 9], [3, 12, 12], expected one"}),
        ([[1.0], [0.5, 0.5]], {"its entries have shapes [1], [2], expected one"}),
    ],
)
def test_what_is_no_array_is_refused_with_all_that_it_needs(classifier, attention, messages):
    known = {".detach()", ".cpu()", "view(torch.uint16)", "its entries have shapes"}
    with pytest.raises(errors.DataTypeError) as refused:
        classifier.classify(attention)
    assert all(message in str(refused.value) for message in messages)
    others = {word for word in known if not any(word in message for message in messages)}
    assert not any(word in str(refused.value).partition("); ")[2] for word in others)


def test_what_a_tensor_needs_is_enough(classifier):
    expected = classifier.classify(LAYER).patterns.tolist()
    assert classifier.classify(LAYER.clone().requires_grad_().detach()).patterns.tolist() == expected
    bits = LAYER.bfloat16().requires_grad_().detach().view(torch.uint16)
    assert classifier.classify(bits, data_type="bfloat16").patterns.shape == (3,)


@pytest.mark.parametrize(
    ("attention", "hint"),
    [
        (np.rint(LAYER.numpy() * 255).astype(np.uint8), "; levels of 8 bits? Divide by 255"),
        (np.eye(12, dtype=np.uint8), "; convert it with .astype('float32')"),
        (LAYER.numpy().astype(">f4"), "; convert it with .astype('float32')"),
        (np.array([LAYER.numpy(), None], object), "; entries of several sizes, or None?"),
        (LAYER.numpy().astype(np.float16).view("V2"), "; bfloat16 that was saved without its type?"),
        (LAYER.numpy().astype(complex), ""),
    ],
)
def test_types_that_are_not_read_are_refused_with_what_helps(classifier, attention, hint):
    with pytest.raises(errors.DataTypeError) as refused:
        classifier.classify(attention)
    assert str(refused.value).endswith("bfloat16") if not hint else hint in str(refused.value)
