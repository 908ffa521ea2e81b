import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast, T5Config

import attention_patterns_service as package
from attention_patterns import PATTERNS, Pattern, errors
from attention_patterns.programs.extras import missing_extra
from attention_patterns_service import AttentionServer, Client, Limits
from tests.helpers.drawn_maps import bfloat16_bits, draw, random_maps
from tests.helpers.equality import assert_equal

PAIR = ["[CLS]", "the", "ferry", "[SEP]", "tide", "and", "rain", "[SEP]", "[PAD]", "[PAD]", "[PAD]", "[PAD]"]


def padded(*shape, mask):
    """Returns random maps in which padding gets and gives no attention."""
    values = random_maps(*shape) * np.asarray(mask)[:, None] * np.asarray(mask)[None, :]
    return values / np.maximum(values.sum(-1, keepdims=True), 1e-9)


def causal(*shape):
    values = np.tril(random_maps(*shape))
    return values / values.sum(-1, keepdims=True)


HOLES = [0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0]
INPUTS = {
    "map": (random_maps(12, 12), {}),
    "heads": (random_maps(5, 12, 12), {}),
    "layers": (random_maps(3, 5, 12, 12), {}),
    "one token": (np.ones((2, 2, 1, 1), np.float32), {"tokens": ["[CLS]"]}),
    "short": (random_maps(2, 2, 7, 7), {}),
    "float64": (random_maps(3, 5, 12, 12).astype(np.float64), {}),
    "float16": (random_maps(3, 5, 12, 12).astype(np.float16), {}),
    "bfloat16": (bfloat16_bits(random_maps(3, 5, 12, 12)), {"data_type": "bfloat16"}),
    "not contiguous": (random_maps(5, 3, 12, 12).swapaxes(0, 1), {}),
    "tensor": (torch.from_numpy(random_maps(3, 5, 12, 12)), {}),
    "tokens": (random_maps(3, 5, 12, 12), {"tokens": PAIR}),
    "groups": (random_maps(3, 5, 12, 12), {"tokens": PAIR, "token_groups": {"[MASK]": range(3), "the": (5, 1)}}),
    "all positions": (random_maps(3, 5, 12, 12), {"token_groups": {"all": range(12)}}),
    "segment lengths": (draw(Pattern.BLOCK, 12), {"segments": [6, 6]}),
    "one segment": (draw(Pattern.BLOCK, 12), {"segments": [12]}),
    "segment ids": (random_maps(3, 5, 12, 12), {"segments": [7, 2**40] * 6}),
    "segments of one token": (random_maps(3, 5, 12, 12), {"segments": np.arange(12)}),
    "valid length": (padded(3, 5, 12, 12, mask=[1] * 8 + [0] * 4), {"tokens": PAIR, "valid_length": 8}),
    "left padding": (padded(3, 5, 12, 12, mask=[0] * 4 + [1] * 8), {"tokens": PAIR[:8], "mask": [0] * 4 + [1] * 8}),
    "holes": (padded(3, 5, 12, 12, mask=HOLES), {"mask": np.array(HOLES, bool), "segments": [5, 4], "tokens": PAIR}),
    "causal found": (causal(3, 5, 12, 12), {"tokens": PAIR}),
    "causal": (causal(3, 5, 12, 12), {"causal": True}),
    "not causal": (causal(3, 5, 12, 12), {"causal": False}),
    "in chunks": (random_maps(6, 4, 300, 300), {"tokens": ["[CLS]", *["word"] * 298, "[SEP]"]}),
    "in chunks, float16": (random_maps(6, 4, 500, 500).astype(np.float16), {}),
}


@pytest.fixture(scope="module")
def small_server(classifier):
    """A server that takes messages of 100 kB."""
    with AttentionServer(classifier, port=0, limits=Limits(message_bytes=100_000)) as running:
        yield running


@pytest.fixture(scope="module", params=["never", "always"])
def small(small_server, request):
    """A client of the small server, which sends maps or images."""
    with Client(small_server.endpoint, reduce=request.param) as connected:
        yield connected


@pytest.fixture(scope="module")
def small_sending(small_server):
    """A client of the small server that sends the maps themselves."""
    with Client(small_server.endpoint, reduce="never") as connected:
        yield connected


def test_public_names_exist():
    assert all(hasattr(package, name) for name in package.__all__)


WITHOUT_GRPC = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "grpc":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())
from attention_patterns_service import Limits
from attention_patterns.errors import MissingExtraError
try:
    from attention_patterns_service import Client
except MissingExtraError as error:
    print(error)
"""


def test_client_without_its_extra_names_it():
    done = subprocess.run([sys.executable, "-c", WITHOUT_GRPC], check=True, capture_output=True, text=True)
    expected = missing_extra("service", needed_by="attention_patterns_service", package="grpc")
    assert done.stdout == f"{expected}\n"


@pytest.mark.parametrize("name", INPUTS)
def test_the_server_answers_as_the_library_does(classifier, client, name):
    attention, declared = INPUTS[name]
    assert_equal(client.classify(attention, **declared), classifier.classify(attention, **declared))


@pytest.mark.parametrize(
    "attention",
    [
        random_maps(9, 4, 60, 60),  # whole layers: 57,600 bytes each
        random_maps(9, 24, 60, 60),  # some heads of a layer
        random_maps(24, 60, 60),
        np.concatenate([causal(2, 24, 60, 60), random_maps(1, 24, 60, 60)]).astype(np.float32),
        np.concatenate([causal(1, 7, 60, 60), random_maps(1, 17, 60, 60)], axis=1).astype(np.float32),
        random_maps(155, 155),  # 96,100 bytes
    ],
    ids=lambda attention: "x".join(map(str, attention.shape)),
)
def test_a_tensor_over_the_limit_is_cut_into_chunks(classifier, small, attention):
    tokens = ["[CLS]", *["word"] * (attention.shape[-1] - 1)]
    assert_equal(small.classify(attention, tokens=tokens), classifier.classify(attention, tokens=tokens))


def test_a_map_over_the_limit_is_refused_before_it_is_sent(classifier, small_server, small_sending):
    with pytest.raises(errors.MessageTooLargeError, match=r"one map of 160 tokens in float32 has 102400 bytes"):
        small_sending.classify(random_maps(160, 160))
    with pytest.raises(errors.MessageTooLargeError):  # the declarations count
        small_sending.classify(random_maps(155, 155), tokens=["word" * 10] * 155)
    with Client(small_server.endpoint) as reducing:  # its image is not
        assert_equal(reducing.classify(random_maps(160, 160)), classifier.classify(random_maps(160, 160)))


def test_an_image_over_the_limit_is_refused_before_it_is_sent(classifier):
    with AttentionServer(classifier, port=0, limits=Limits(message_bytes=5000)) as tiny, Client(tiny.endpoint) as own:
        with pytest.raises(errors.MessageTooLargeError, match="one image has 6912 bytes, the server takes messages of"):
            own.classify(random_maps(160, 160))
        assert_equal(own.classify(random_maps(9, 9)), classifier.classify(random_maps(9, 9)))


def bad_row(*place, factor=0.5, shape=(6, 4, 300, 300)):
    attention = random_maps(*shape)
    attention[place] *= factor
    return attention


@pytest.mark.parametrize(
    ("attention", "declared"),
    [
        (bad_row(4, 3, 5), {}),
        (bad_row(1, 3, 5, factor=-1, shape=(2, 4, 9, 9)), {}),
        (bad_row(1, 3, 5, factor=np.nan, shape=(2, 4, 9, 9)), {}),
        (bad_row(3, 5, shape=(4, 9, 9)), {}),
        (bad_row(5, shape=(9, 9)), {}),
        (10 * np.random.default_rng(0).normal(size=(2, 9, 9)), {}),
        (random_maps(2, 9, 9).swapaxes(-1, -2), {}),
        (random_maps(2, 9, 9), {"causal": True}),
        (random_maps(1, 2, 3, 9, 9), {}),
        (random_maps(9, 8), {}),
        (np.ones((9, 9), int), {}),
        (random_maps(9, 9), {"tokens": ["a"] * 8}),
        (random_maps(9, 9), {"token_groups": {"a": [9]}}),
        (random_maps(9, 9), {"segments": [3, 4]}),
        (random_maps(9, 9), {"valid_length": 10}),
    ],
    ids=range(15),
)
def test_an_error_is_the_library_s(classifier, client, attention, declared):
    with pytest.raises(errors.AttentionPatternsError) as here:
        classifier.classify(attention, **declared)
    with pytest.raises(errors.AttentionPatternsError) as there:
        client.classify(attention, **declared)
    assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))


def test_an_error_in_a_chunk_of_a_layer_names_the_head(small):
    with pytest.raises(errors.RowSumError, match=r"^attention\[layer 1, head 19\]: row 5 sums to 0.5"):
        small.classify(bad_row(1, 19, 5, shape=(2, 24, 60, 60)))


def test_a_list_of_maps_is_answered_as_by_the_library(classifier, client, small):
    sizes = [5, 64, 9, 9, 60, 1, 9]
    maps = [draw(p, n) for n, p in zip(sizes, [Pattern.BLOCK, Pattern.VERTICAL, Pattern.BLOCK] * 3, strict=False)] + [
        causal(60, 60)
    ]
    segments = [None, None, [9], None, [20, 40], None, [9], None]
    expected = classifier.classify_maps(maps, segments=segments)
    for door in (client, small):
        for prediction, right in zip(door.classify_maps(maps, segments=segments), expected, strict=True):
            assert_equal(prediction, right)
    assert client.classify_maps([]) == []


def test_a_bad_map_of_a_list_is_named_by_its_index(classifier, client):
    maps = [random_maps(n, n) for n in (9, 8, 9, 9)]
    maps[3][4] /= 2
    for door in (classifier, client):
        with pytest.raises(errors.RowSumError, match=r"^maps\[3\]: row 4 sums to 0.5"):
            door.classify_maps(maps)


def test_the_model_is_described(classifier, client):
    model, bundle = client.model(), classifier.bundle
    for name in ("name", "version", "sha256", "image_size", "rendering_version", "dataset_sha256", "metrics"):
        assert getattr(model, name) == getattr(bundle, name)
    assert model.classes == PATTERNS
    assert model.uncertain_below == bundle.uncertain_below
    assert (model.max_message_bytes, model.max_maps, model.max_length) == (72 << 20, 16_384, 8192)
    assert (model.max_calls, model.max_bytes, model.max_calls_per_second) == (32, 768 << 20, None)
    assert (model.max_token_calls, model.max_groups, model.max_answer_bytes) == (16, 1024, 8 << 20)
    assert (model.max_seconds, model.max_idle_seconds, model.max_stream_seconds) == (60, 300, 3600)


def test_maps_or_images_are_sent_by_their_size(server, monkeypatch):
    """A map of 41 tokens in float32 has 6,724 bytes, one of 42 has 7,056, an image 6,912."""
    sent = []
    with Client(server.endpoint) as own:
        monkeypatch.setattr(own, "_call", lambda name, *rest: sent.append(name) or Client._call(own, name, *rest))
        for maps in (random_maps(41, 41), random_maps(42, 42), random_maps(58, 58).astype(np.float16)):
            own.classify(maps)
        assert sent == ["GetModel", "ClassifyHeads", "ClassifyImages", "ClassifyHeads"]


def test_maps_over_the_count_are_cut_into_chunks(classifier):
    maps = random_maps(5, 7, 9, 9)
    with AttentionServer(classifier, port=0, limits=Limits(maps=6)) as few:
        for reduce in ("never", "always"):
            with Client(few.endpoint, reduce=reduce) as own:
                assert_equal(own.classify(maps), classifier.classify(maps))


def test_threads_share_a_client(classifier, client):
    tensors = [random_maps(3, 4, 40, 40, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for there, here in zip(pool.map(client.classify, tensors), map(classifier.classify, tensors), strict=True):
            assert_equal(there, here)


VOCABULARY = [*("[PAD]", "[CLS]", "[SEP]", "[UNK]"), *("the", "ferry", "comes", "at", "noon", "rain", "falls")]
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 12, "intermediate_size": 24}


def tokenizer_of(**options):
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special, **options)


def bert(**options):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=24, **SIZES)
    return AutoModel.from_config(config, **options).eval()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_outputs_of_a_model_are_read_with_their_encoding(classifier, client, side, dtype):
    """A pair of 10 tokens, and a single text of 6 padded to 10."""
    tokenizer, model = tokenizer_of(padding_side=side), bert(attn_implementation="eager").to(dtype)
    pair = tokenizer(["the ferry comes at noon"], ["rain falls"], return_tensors="pt")
    single = tokenizer(["rain falls at noon"], padding="max_length", max_length=10, return_tensors="pt")
    outputs = [model(**encoding, output_attentions=True) for encoding in (pair, single)]
    (of_pair,) = client.classify_outputs(outputs[0], pair, tokenizer)
    (of_single,) = client.classify_outputs(outputs[1], single, tokenizer)

    attention = torch.stack([layer[0] for layer in outputs[0].attentions]).detach()
    bits = {"data_type": "bfloat16"} if dtype is torch.bfloat16 else {}
    tokens = ["[CLS]", *["the", "ferry", "comes", "at", "noon"], "[SEP]", "rain", "falls", "[SEP]"]
    expected = classifier.classify(
        attention.view(torch.uint16) if bits else attention, tokens=tokens, segments=[7, 3], **bits
    )
    assert_equal(of_pair, expected)
    assert of_single.length == 6
    np.testing.assert_array_equal(of_single.attention_to["[SEP]"].positions, [9 if side == "left" else 5])
    assert not (of_single.patterns == "Block").any()
    assert of_single.evidence.segment_mass is not None


def test_a_batch_of_outputs_gives_one_result_per_text(client):
    tokenizer, model = tokenizer_of(), bert(attn_implementation="eager")
    texts = [["the ferry comes", "rain falls"], ["rain falls at noon", "the rain falls at noon"]]
    encoding = tokenizer(texts, padding=True, return_token_type_ids=True, return_tensors="pt")
    outputs = model(**encoding, output_attentions=True)
    results = client.classify_outputs(outputs, encoding, tokenizer)
    assert [result.length for result in results] == [8, 12]
    plain = {name: encoding[name].tolist() for name in encoding}  # only the token types give the segments here
    for by_types, by_texts in zip(client.classify_outputs(outputs, plain, tokenizer), results, strict=True):
        assert_equal(by_types, by_texts)
    del plain["token_type_ids"]
    assert client.classify_outputs(outputs, plain, tokenizer)[0].evidence.segment_mass is None


def test_layers_without_attention_are_left_out_and_the_others_keep_their_numbers(classifier, client):
    tokenizer = tokenizer_of()
    encoding = tokenizer(["the ferry comes at noon"], return_tensors="pt")
    given = [None, random_maps(3, 7, 7)[None], None, None, random_maps(3, 7, 7)[None], random_maps(3, 7, 7)[None]]
    (result,) = client.classify_outputs(SimpleNamespace(attentions=given), encoding, tokenizer)
    assert result.layers == (1, 4, 5)
    whole = classifier.classify(np.concatenate([layer for layer in given if layer is not None]), segments=[7])
    assert whole.layers == (0, 1, 2)
    np.testing.assert_array_equal(result.patterns, whole.patterns)
    given[5][0, 2, 3] = 0
    message = r"attention\[layer 5, head 2\]: row 3 sums to 0"
    with pytest.raises(errors.RowSumError, match=message):
        client.classify_outputs(SimpleNamespace(attentions=given), encoding, tokenizer)


def test_the_encoder_s_attention_is_taken_of_an_encoder_decoder(client):
    config = T5Config(vocab_size=len(VOCABULARY), d_model=12, d_kv=4, d_ff=24, num_layers=2, num_heads=3)
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    tokenizer = tokenizer_of(model_input_names=["input_ids", "attention_mask"])
    encoding = tokenizer(["the ferry comes at noon"], return_tensors="pt")
    outputs = model(**encoding, decoder_input_ids=torch.zeros((1, 3), dtype=torch.long), output_attentions=True)
    (result,) = client.classify_outputs(outputs, encoding, tokenizer)
    assert result.patterns.shape == (2, 3)
    assert result.length == 7
    assert result.evidence.segment_mass is not None  # a fast tokenizer knows that it is a single text


def test_an_error_on_outputs_without_attention_names_how_to_load_the_model(client):
    tokenizer = tokenizer_of()
    encoding = tokenizer(["the ferry comes at noon"], return_tensors="pt")
    with pytest.raises(errors.ShapeError, match='attn_implementation="eager"'):
        client.classify_outputs(bert(attn_implementation="sdpa")(**encoding), encoding, tokenizer)
    with pytest.raises(errors.ShapeError, match=r"outputs hold attentions of no layer.*eager"):
        client.classify_outputs(SimpleNamespace(attentions=(None, None)), encoding, tokenizer)
    other = SimpleNamespace(attentions=(random_maps(2, 3, 7, 7), random_maps(2, 3, 7, 7)))
    with pytest.raises(errors.ShapeError, match=r"\[2, 3, 7, 7\].* batch of 1"):
        client.classify_outputs(other, encoding, tokenizer)


def test_calls_go_round_several_servers_and_past_one_that_is_gone(classifier):
    """No balancer stands between: the client knows both addresses, as it would by a name with several."""
    maps = random_maps(3, 12, 40, 40)
    expected = classifier.classify(maps)
    servers = [AttentionServer(classifier, port=0) for _ in range(2)]
    with servers[0], Client("ipv4:" + ",".join(server.endpoint for server in servers)) as client:
        with servers[1]:
            for _ in range(20):
                assert_equal(client.classify(maps), expected)
            labels = {"method": "ClassifyHeads", "code": "OK"}
            taken = [server.metrics.registry.get_sample_value("attention_requests_total", labels) for server in servers]
            assert min(taken) >= 5
        for _ in range(20):
            assert_equal(client.classify(maps), expected)


def test_a_server_that_comes_back_is_found_again(classifier):
    maps = random_maps(3, 12, 40, 40)
    first = AttentionServer(classifier, port=0)
    with Client(first.endpoint) as client:
        with first:
            client.classify(maps)
        with AttentionServer(classifier, port=int(first.endpoint.split(":")[1])):
            assert_equal(client.classify(maps), classifier.classify(maps))
