import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from classifier.dumps import DumpFile, dump_files, read_dumps
from classifier.errors import SourceError
from classifier.label_input import FailedInput

TOKENS = ["[CLS]", *"abcdefg", "[SEP]"]


def attention(*shape, dtype=np.float32):
    scores = np.exp(np.random.default_rng(0).normal(size=shape))
    return (scores / scores.sum(axis=-1, keepdims=True)).astype(dtype)


def read(path):
    return list(read_dumps(dump_files([path])))


def failure(path):
    (failed,) = read(path)
    assert isinstance(failed, FailedInput)
    assert isinstance(failed.error, SourceError)
    return str(failed.error)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 9), (3, 9, 9), (2, 3, 9, 9)])
@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_every_format_shape_and_dtype(tmp_path, classifier, suffix, shape, dtype):
    values, path = attention(*shape, dtype=dtype), tmp_path / f"one.{suffix}"
    if suffix == "npy":
        np.save(path, values)
    elif suffix == "npz":
        np.savez_compressed(path, attention=values)
    else:
        save_file({"attention": values}, path)
    (one,) = read(path)
    assert (one.input_id, one.data_type, one.progress) == (f"one.{suffix}", None, 1)
    assert one.attention.dtype == dtype
    assert_array_equal(one.attention, values)
    assert classifier.classify(one.attention).patterns.shape == shape[:-2]


@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (4, 2, 3, 9, 9)])
def test_bfloat16_is_read_as_its_bits(tmp_path, classifier, shape):
    values = torch.from_numpy(attention(*shape)).bfloat16()
    save_torch_file({"other": torch.ones(3), "attention": values}, tmp_path / "b.safetensors")
    found = read(tmp_path / "b.safetensors")
    bits = values.view(torch.int16).numpy().view(np.uint16).reshape(-1, 2, 3, 9, 9)
    for one, expected in zip(found, bits, strict=True):
        assert one.data_type == "bfloat16"
        assert_array_equal(one.attention, expected)
        assert classifier.classify(one.attention, data_type=one.data_type).patterns.shape == (2, 3)


def test_npy_is_mapped_not_read(tmp_path):
    np.save(tmp_path / "one.npy", attention(2, 9, 9))
    (one,) = read(tmp_path / "one.npy")
    assert isinstance(one.attention, np.memmap)


def declared(many=()):
    return {
        "segments": np.broadcast_to([0] * 5 + [1] * 4, (*many, 9)).copy(),
        "mask": np.broadcast_to([True] * 8 + [False], (*many, 9)).copy(),
        "causal": np.array(False),
    }


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("many", [(), (3,)])
def test_declarations_come_with_the_attention(tmp_path, suffix, many):
    path, tensors = tmp_path / f"d.{suffix}", {"attention": attention(*many, 2, 3, 9, 9), **declared(many)}
    tokens = np.broadcast_to(TOKENS, (*many, 9))
    if suffix == "npz":
        np.savez(path, tokens=tokens, **tensors)
    else:
        save_file(tensors, path, metadata={"tokens": json.dumps(tokens.tolist())})
    found = read(path)
    names = [f"d.{suffix}[{n}]" for n in range(3)] if many else [f"d.{suffix}"]
    assert [one.input_id for one in found] == names
    for n, one in enumerate(found):
        assert_array_equal(one.attention, tensors["attention"][n] if many else tensors["attention"])
        assert one.tokens == TOKENS
        assert one.segments.tolist() == [0] * 5 + [1] * 4
        assert one.mask.tolist() == [True] * 8 + [False]
        assert (one.causal, one.valid_length) == (False, None)
        assert one.progress == 1 / len(found)


def test_valid_length_is_one_number_an_input(tmp_path):
    np.savez(tmp_path / "one.npz", attention=attention(9, 9), valid_length=7)
    np.savez(tmp_path / "two.npz", attention=attention(2, 1, 1, 9, 9), valid_length=[7, 9], causal=[True, False])
    np.savez(tmp_path / "zoo.npz", attention=attention(9, 9), valid_length=7.5)
    one, first, second, wrong = read(tmp_path)
    assert [one.valid_length, first.valid_length, second.valid_length] == [7, 7, 9]
    assert (first.causal, second.causal) == (True, False)
    assert isinstance(wrong, FailedInput)


def test_folders_are_searched_in_depth_and_sorted(tmp_path):
    for name in ("b.npy", "a/z.npy", "a/b/c.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, attention(9, 9))
    (tmp_path / "notes.txt").write_text("left out")
    files = dump_files([tmp_path, tmp_path / "b.npy"])
    assert [file.input_id for file in files] == ["a/b/c.npy", "a/z.npy", "b.npy"]


def test_files_of_one_name_are_told_apart_by_their_paths(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", attention(9, 9))
    paths = [tmp_path / "a" / "x.npy", tmp_path / "b" / "x.npy"]
    assert dump_files(paths) == [DumpFile(path, path.as_posix()) for path in paths]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.npy", "does not exist"),
        ("notes.txt", r"file \.txt, expected one of \.npz"),
        ("empty", "folder without"),
    ],
)
def test_paths_that_are_no_dumps_are_named(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no dump")
    with pytest.raises(SourceError, match=message):
        dump_files([tmp_path / name])


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickles_are_refused_and_never_run(tmp_path, suffix):
    sprung, path = tmp_path / "sprung", tmp_path / f"trap.{suffix}"
    trap = np.array([Trap(sprung)], dtype=object)
    if suffix == "npy":
        np.save(path, trap, allow_pickle=True)
    else:
        np.savez(path, attention=trap)
    assert "bject" in failure(path)
    path.write_bytes(pickle.dumps(Trap(sprung)))
    assert "cannot be read" in failure(path)
    assert not sprung.exists()


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_damaged_files_fail_whatever_is_left_of_them(tmp_path, suffix):
    path = tmp_path / f"one.{suffix}"
    if suffix == "npy":
        np.save(path, attention(3, 9, 9))
    elif suffix == "npz":
        np.savez_compressed(path, attention=attention(3, 9, 9))
    else:
        save_file({"attention": attention(3, 9, 9)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        assert f"one.{suffix} " in failure(path)


def test_a_flipped_bit_in_an_npz_is_found(tmp_path):
    path = tmp_path / "one.npz"
    np.savez(path, attention=attention(3, 9, 9))
    damaged = bytearray(path.read_bytes())
    damaged[300] ^= 1
    path.write_bytes(damaged)
    assert "CRC" in failure(path)


@pytest.mark.parametrize("save", [np.savez, lambda path, **arrays: save_file(arrays, path)])
def test_attention_must_be_there_by_name(tmp_path, save):
    path = tmp_path / ("one.npz" if save is np.savez else "one.safetensors")
    save(path, weights=attention(9, 9))
    assert "holds no 'attention', expected it beside or instead of weights" in failure(path)


def test_an_archive_under_the_name_of_an_array_and_the_reverse(tmp_path):
    np.savez(tmp_path / "a.npz", attention=attention(9, 9))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert "cannot be read as .npy" in failure(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", attention(9, 9))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    assert "cannot be read as .npz" in failure(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"tokens": np.array(TOKENS)}, "tokens has shape [9], expected 3 inputs first"),
        ({"valid_length": np.array(7)}, "valid_length has shape [], expected 3 inputs first"),
        ({"tokens": np.zeros((3, 9), np.int64)}, "tokens has dtype int64, expected strings"),
    ],
)
def test_declarations_of_many_inputs_must_be_as_many(tmp_path, arrays, message):
    np.savez(tmp_path / "many.npz", attention=attention(3, 1, 1, 9, 9), **arrays)
    assert message in failure(tmp_path / "many.npz")


def test_a_bad_file_does_not_hide_the_next(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no more")
    np.save(tmp_path / "b.npy", attention(9, 9))
    bad, good = read(tmp_path)
    assert (bad.input_id, good.input_id) == ("a.npz", "b.npy")
    assert isinstance(bad, FailedInput)


@given(content=st.binary(max_size=400), suffix=st.sampled_from(["npy", "npz", "safetensors"]), start=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_fail_by_name(tmp_path_factory, content, suffix, start):
    """Bytes from anywhere, also behind a right beginning, give an input or a SourceError and nothing else."""
    path = tmp_path_factory.mktemp("any") / f"one.{suffix}"
    magic = {"npy": b"\x93NUMPY\x01\x00", "npz": b"PK\x03\x04", "safetensors": (64).to_bytes(8, "little") + b"{"}
    path.write_bytes((magic[suffix] if start else b"") + content)
    for one in read(path):
        assert not isinstance(one, FailedInput) or isinstance(one.error, SourceError)
