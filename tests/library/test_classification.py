from dataclasses import replace

import numpy as np
import pytest
import torch

import attention_patterns as library
from attention_patterns import PATTERNS, InvalidDeclarationError, Pattern, PatternClassifier
from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns.classification import MeasuredMaps
from attention_patterns.errors import ShapeError
from attention_patterns.sample import load_sample
from tests.helpers.drawn_maps import bfloat16_bits, draw, random_maps
from tests.helpers.equality import assert_equal


def assert_same(first, second):
    """Asserts that two classifications of the same maps, declared differently, are equal to the last bit."""
    np.testing.assert_array_equal(first.patterns, second.patterns)
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    np.testing.assert_array_equal(first.evidence.row_entropy, second.evidence.row_entropy)


def test_public_names_exist():
    assert len(set(library.__all__)) == len(library.__all__)
    assert all(hasattr(library, name) for name in library.__all__)


def test_the_order_of_patterns_is_fixed():
    assert list(map(str, PATTERNS)) == ["Vertical", "Diagonal", "Vertical+Diagonal", "Block", "Heterogeneous"]


def test_shapes_follow_the_leading_axes(classifier):
    maps = random_maps(3, 4, 20, 20)
    whole = classifier.classify(maps, tokens=["[CLS]"] + ["x"] * 19)
    assert whole.patterns.shape == whole.margin.shape == whole.attention_to["[CLS]"].share.shape == (3, 4)
    assert whole.probabilities.shape == (3, 4, 5)
    assert whole.evidence.stripes.shape == (3, 4, 20)
    np.testing.assert_allclose(whole.probabilities.sum(-1), 1, atol=1e-6)
    top = np.sort(whole.probabilities, axis=-1)
    np.testing.assert_array_equal(whole.margin, top[..., -1] - top[..., -2])
    assert_same(whole, classifier.classify(np.asfortranarray(maps)))
    single = classifier.classify(maps[1, 2])
    assert single.patterns.shape == ()
    assert single.patterns == whole.patterns[1, 2]
    np.testing.assert_array_equal(single.probabilities, whole.probabilities[1, 2])
    np.testing.assert_array_equal(classifier.classify(maps[1]).probabilities, whole.probabilities[1])


def test_maps_of_many_sizes_come_back_in_order(classifier):
    maps = [random_maps(n, n, seed=n) for n in (12, 30, 12, 7, 1, 30, 100)]
    maps[2] = maps[2].astype(np.float16)
    predictions = classifier.classify_maps(maps)
    for attention, prediction in zip(maps, predictions, strict=True):
        alone = classifier.classify(attention)
        assert prediction.pattern == alone.patterns
        np.testing.assert_array_equal(prediction.probabilities, alone.probabilities)
        assert prediction.margin == alone.margin
        assert prediction.too_short == (len(attention) < 8)
    assert classifier.classify_maps([]) == []


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 4096])
def test_any_length(classifier, length):
    result = classifier.classify(draw(Pattern.VERTICAL, length))
    assert result.too_short == (length < 8)
    assert (len(result.warnings) == 1) == (length < 8)
    if length >= 8:
        assert result.patterns == "Vertical"


def test_torch_tensors_and_bfloat16(classifier):
    maps = random_maps(2, 24, 24)
    assert_same(classifier.classify(torch.from_numpy(maps)), classifier.classify(maps))
    brain = torch.from_numpy(maps).bfloat16()
    bits = brain.view(torch.uint16).numpy()
    with_bits = classifier.classify(bits, data_type="bfloat16")
    as_floats = classifier.classify(brain.float().numpy())
    assert_same(with_bits, as_floats)
    with pytest.raises(library.InvalidAttentionError, match=r"bfloat16 is passed as \.view"):
        classifier.classify(brain)
    with pytest.raises(library.InvalidAttentionError, match="detached"):
        classifier.classify(torch.from_numpy(maps).requires_grad_())


def test_one_segment_is_never_block(classifier):
    """The answer changes, the five probabilities stay those of the net."""
    squares = draw(Pattern.BLOCK, 30, ground=0.05)
    undeclared, single = classifier.classify(squares), classifier.classify(squares, segments=[30])
    assert undeclared.patterns == Pattern.BLOCK
    assert not undeclared.overruled
    assert single.patterns != Pattern.BLOCK
    assert single.overruled
    np.testing.assert_array_equal(undeclared.probabilities, single.probabilities)
    assert classifier.classify(squares, segments=[15, 15]).patterns == Pattern.BLOCK
    predictions = classifier.classify_maps([squares, squares, squares], segments=[[30], None, [0] * 15 + [1] * 15])
    assert [p.pattern == Pattern.BLOCK for p in predictions] == [False, True, True]


def test_padding_is_cropped_not_classified(classifier):
    maps = random_maps(2, 3, 20, 20)
    tokens = ["[CLS]", *["x"] * 18, "[SEP]"]
    alone = classifier.classify(maps, tokens=tokens, segments=[8, 12], token_groups={"g": [2, 5]})

    right = np.full((2, 3, 32, 32), np.nan, np.float32)  # whatever stands in padded rows is not read
    right[..., :20, :20] = maps
    assert_same(alone, classifier.classify(right, valid_length=20))
    declared = classifier.classify(
        right, valid_length=20, tokens=[*tokens, *["[PAD]"] * 12], segments=[8, 12], token_groups={"g": [2, 5, 31]}
    )
    assert_same(alone, declared)
    assert declared.length == 20
    assert declared.warnings == alone.warnings
    np.testing.assert_array_equal(alone.attention_to["[SEP]"].share, declared.attention_to["[SEP]"].share)
    np.testing.assert_array_equal(alone.attention_to["g"].share, declared.attention_to["g"].share)

    left = np.full((2, 3, 32, 32), -7, np.float32)
    left[..., 12:, 12:] = maps
    by_mask = classifier.classify(left, mask=[0] * 12 + [1] * 20, tokens=tokens)
    assert_same(alone, by_mask)
    assert by_mask.attention_to["[SEP]"].positions.tolist() == [31]  # as in the matrix as sent
    np.testing.assert_array_equal(by_mask.evidence.stripes[..., 12:], alone.evidence.stripes)

    scattered = np.zeros((2, 3, 32, 32), np.float32)
    kept = np.sort(np.random.default_rng(1).choice(32, 20, replace=False))
    scattered[np.ix_(range(2), range(3), kept, kept)] = maps
    assert_same(alone, classifier.classify(scattered, mask=np.isin(np.arange(32), kept)))


def test_causality_is_found_layer_by_layer(classifier):
    """One head may lose its upper triangle by underflow; a layer of them is a decoder's."""
    maps = random_maps(2, 3, 16, 16)
    maps[1] = np.tril(maps[1])
    maps[1] /= maps[1].sum(axis=-1, keepdims=True)
    maps[0, 0] = maps[1, 0]
    assert classifier.classify(maps).causal.tolist() == [[False] * 3, [True] * 3]
    assert classifier.classify(maps[1]).causal.tolist() == [True] * 3
    assert classifier.classify(maps[0, 0]).causal
    assert [p.causal for p in classifier.classify_maps(maps[0])] == [True, False, False]
    assert not classifier.classify(maps, causal=False).causal.any()
    with pytest.raises(library.InvalidAttentionError, match=r"layer 0, head 1\]: row 0, column 1 is .* causal map"):
        classifier.classify(maps, causal=True)


def test_padding_tokens_are_warned_of(classifier):
    result = classifier.classify(random_maps(10, 10), tokens=["<s>", *["x"] * 7, "<pad>", "<pad>"])
    assert "declare valid_length or mask" in result.warnings[0]
    assert set(result.attention_to) == {"<s>", "<pad>"}


@pytest.mark.parametrize(
    ("tokens", "special"),
    [
        ("[CLS] a [MASK] [SEP] b [SEP]", {"[CLS]": 1, "[MASK]": 1, "[SEP]": 2}),
        ("<s> a </s> </s> b </s>", {"<s>": 1, "</s>": 3}),
        ("a b c d <|endoftext|> <unk>", {"<|endoftext|>": 1, "<unk>": 1}),
        ("<|begin_of_text|> a <|eot_id|> b c d", {"<|begin_of_text|>": 1, "<|eot_id|>": 1}),
        ("a <extra_id_0> b <extra_id_17> c </s>", {"<extra_id_0>": 1, "<extra_id_17>": 1, "</s>": 1}),
        ("<s> <special3> a b c </s>", {"<s>": 1, "<special3>": 1, "</s>": 1}),
        ("a < b > [x] c", {}),
    ],
)
def test_special_tokens_of_the_families(classifier, tokens, special):
    groups = classifier.classify(random_maps(6, 6), tokens=tokens.split()).attention_to
    assert {name: len(group.positions) for name, group in groups.items()} == special


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"tokens": ["a"] * 9}, "9 tokens are declared for maps of 10 tokens"),
        ({"tokens": "abcdefghij"}, "expected a sequence of strings"),
        ({"tokens": [1] * 10}, "expected a sequence of strings"),
        ({"segments": [3, 6]}, r"segments is \[3, 6\] \(sum 9\)"),
        ({"segments": [3.5, 6.5]}, "expected lengths or ids"),
        ({"segments": [-1, 11]}, "expected lengths or ids"),
        ({"valid_length": 11}, "valid_length is 11, expected 1 to 10"),
        ({"valid_length": 0}, "valid_length is 0"),
        ({"valid_length": 5, "mask": [1] * 10}, "both declared"),
        ({"mask": [1] * 9}, r"mask has shape \[9\], expected 10 values"),
        ({"mask": [0] * 10}, "at least one 1"),
        ({"mask": [2] * 10}, "0 or 1"),
        ({"token_groups": {"g": [10]}}, "expected integers from 0 to 9"),
        ({"token_groups": {"g": []}}, "expected integers from 0 to 9"),
        ({"token_groups": {"g": [0.5]}}, "expected integers"),
        ({"token_groups": {"[CLS]": [1]}, "tokens": ["[CLS]"] + ["x"] * 9}, "name of a special token"),
    ],
)
def test_declarations_that_do_not_fit(classifier, declared, message):
    with pytest.raises(InvalidDeclarationError, match=message):
        classifier.classify(random_maps(10, 10), **declared)


def test_a_list_of_maps_names_the_bad_one(classifier):
    good, bad = random_maps(9, 9), random_maps(12, 12) * 1.5
    with pytest.raises(library.InvalidAttentionError, match=r"^maps\[3\]: row 0 sums to 1.5"):
        classifier.classify_maps([good, random_maps(12, 12), good, bad])
    with pytest.raises(ShapeError, match=r"maps\[1\] has shape \[1, 9, 9\]"):
        classifier.classify_maps([good, good[None]])
    with pytest.raises(InvalidDeclarationError, match="2 segments are declared for 1 maps"):
        classifier.classify_maps([good], segments=[None, None])


def test_threads_change_nothing():
    sample = load_sample()
    single, many = PatternClassifier.load(threads=1), PatternClassifier.load(threads=4)
    assert_same(single.classify(sample.attention), many.classify(sample.attention))


def test_bfloat16_helper_cuts():
    assert (bfloat16_bits(np.array([1.0, -2.0])) == [0x3F80, 0xC000]).all()


def test_uncertain_marks_answers_below_the_threshold(classifier):
    result = classifier.classify(load_sample().attention)
    top = result.probabilities.max(axis=-1)
    np.testing.assert_array_equal(result.uncertain, top < classifier.bundle.uncertain_below)
    assert result.uncertain.any()
    assert not result.uncertain.all()
    assert not result.warnings


@pytest.mark.parametrize("length", [16, 60, 300])
def test_noise_is_no_pattern(classifier, length):
    noise = np.random.default_rng(length).random((length, length))
    result = classifier.classify((noise / noise.sum(axis=1, keepdims=True)).astype(np.float32))
    assert result.uncertain or str(result.patterns) == Pattern.HETEROGENEOUS
    assert "attention of a trained model?" in result.warnings[0]


def test_an_answer_does_not_depend_on_where_the_maps_lie(classifier):
    """In memory, at any byte: as where they were received in the middle of a message."""
    maps = random_maps(2, 3, 37, 37)
    expected = classifier.classify(maps)
    memory = np.zeros(maps.nbytes + 64, np.uint8)
    for offset in range(64):
        place = memory[offset : offset + maps.nbytes]
        place[:] = np.frombuffer(maps.tobytes(), np.uint8)
        assert_equal(classifier.classify(np.frombuffer(place.data, np.float32).reshape(maps.shape)), expected)


def test_layers_measured_apart_and_joined_are_classified_as_the_whole(classifier):
    sample = load_sample()
    declaration = read_declaration(sample.attention.shape[-1], tokens=sample.tokens, segments=sample.segments)
    slabs = [read_attention(layers, None) for layers in np.array_split(sample.attention, 4)]
    joined = MeasuredMaps.join([classifier.measure_read(slab, declaration) for slab in slabs])
    apart, whole = (
        classifier.classify_measured([joined, joined])[1],
        classifier.classify(sample.attention, tokens=sample.tokens, segments=sample.segments),
    )
    assert_equal(replace(apart, layers=whole.layers), whole)  # slabs are measured before their layers are named
