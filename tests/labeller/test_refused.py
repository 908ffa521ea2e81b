"""A cause of failure that all inputs share is one error before the run; one that many share is one line."""

import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaModel

from tests.helpers.labelled_runs import MINILM, attention_label, invoke, rows_of
from tests.helpers.small_transformers import TEXT_MODELS, save_model, small_model

TEXTS = 40


class ScoresConfig(transformers.LlamaConfig):
    model_type = "llama-that-returns-scores"


class HalvedConfig(transformers.LlamaConfig):
    model_type = "llama-that-returns-half"


class Scores(LlamaAttention):
    """Attention that returns the logarithm of its weights."""

    def forward(self, *arguments, **named):
        mixed, weights = super().forward(*arguments, **named)
        return mixed, weights.clamp(min=1e-9).log()


class Halved(LlamaAttention):
    """Attention half of which goes outside the map, to sinks that no parameter shows."""

    def forward(self, *arguments, **named):
        mixed, weights = super().forward(*arguments, **named)
        return mixed, weights / 2


def model_of(config, attention):
    """Makes and registers a Llama with another attention."""

    class Model(LlamaModel):
        config_class = config

        def __init__(self, given):
            super().__init__(given)
            for index, layer in enumerate(self.layers):
                layer.self_attn = attention(given, index)
            self.post_init()

    transformers.AutoConfig.register(config.model_type, config)
    transformers.AutoModel.register(config, Model)


model_of(ScoresConfig, Scores)
model_of(HalvedConfig, Halved)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"the ferry and {n} bees\n" for n in range(TEXTS)))
    return path


def gone(folder):
    return folder / "gone"


def damaged(folder):
    shutil.copytree(MINILM, folder / "damaged")
    (folder / "damaged" / "model.safetensors").unlink()
    (folder / "damaged" / "model.safetensors").write_bytes(b"no weights")
    return folder / "damaged"


def without_attention(folder):
    config = transformers.MambaConfig(vocab_size=30, hidden_size=12, state_size=4, num_hidden_layers=2)
    return save_model(folder / "mamba", "bert", config)


def scores(folder):
    return save_model(folder / "scores", "llama", ScoresConfig(**TEXT_MODELS["llama"][1]))


def halved(folder):
    return save_model(folder / "halved", "llama", HalvedConfig(**TEXT_MODELS["llama"][1]))


def not_finite(folder):
    name = small_model(folder / "nan", "bert")
    model = transformers.AutoModel.from_pretrained(name)
    with torch.no_grad():
        model.embeddings.LayerNorm.weight[:] = np.nan
    model.save_pretrained(name)
    return name


REFUSED = {
    gone: "gone' is not a folder here and cannot be loaded",
    damaged: "damaged' is a folder and cannot be loaded",
    without_attention: "(MambaModel): returns no attentions, expected the self-attention of its layers",
    scores: "(Model): attention[layer 0, head 0]",
    halved: "(Model): attention[layer 0, head 0]: row 0 sums to 0.5",
    not_finite: "(BertModel): attention[layer 0, head 0]",
}


def assert_refused(done, output, *expected):
    """The run ended with one error, ran no input, and left the folder free for another request."""
    stderr = " ".join(done.stderr.split())
    assert stderr.count("error: ") == 1
    for text in expected:
        assert text in stderr
    left = {path.name for path in output.iterdir()} if output.exists() else set()
    assert left <= {".lock", ".reserve"}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_all_texts_would_fail_for_is_one_error_and_no_text_is_run(tmp_path, texts, make):
    output = tmp_path / "labels"
    done = invoke("run", texts, "-o", output, "-q", "--model", make(tmp_path))
    assert done.exit_code == 2
    assert_refused(done, output, "error: model '", REFUSED[make])
    (tmp_path / "texts.txt").write_text("the ferry\n")
    assert invoke("run", texts, "-o", output, "-q", "--model", MINILM).exit_code == 0


@pytest.mark.parametrize(
    "options", [("--dry-run",), ("--layers", "9"), ("--engine", "ray")], ids=lambda given: given[0]
)
def test_so_it_is_without_a_run_for_a_selection_and_on_ray(tmp_path, texts, options):
    model = MINILM if "--layers" in options else tmp_path / "gone"
    done = attention_label("run", texts, "-o", tmp_path / "labels", "-q", "--model", model, *options)
    assert done.returncode == 2
    expected = "layer 9 is selected, expected 0 to 5" if "--layers" in options else "cannot be loaded"
    assert_refused(done, tmp_path / "labels", "error: model '", expected)


def test_so_it_is_with_a_server(tmp_path, texts, server):
    done = invoke(
        "run", texts, "-o", tmp_path / "labels", "-q", "--model", halved(tmp_path), "--endpoint", server.endpoint
    )
    assert done.exit_code == 2
    assert_refused(done, tmp_path / "labels", "row 0 sums to 0.5")


def test_one_of_two_models_is_refused_before_the_other_is_run(tmp_path, texts):
    models = ("--model", MINILM, "--model", without_attention(tmp_path))
    done = invoke("run", texts, "-o", tmp_path / "labels", "-q", *models)
    assert done.exit_code == 2
    assert_refused(done, tmp_path / "labels", "returns no attentions")


def test_pictures_alone_for_a_model_of_texts_are_one_error(tmp_path):
    for n in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{n}.png")
    done = invoke("run", tmp_path / "*.png", "-o", tmp_path / "labels", "-q", "--model", MINILM)
    assert done.exit_code == 2
    assert_refused(done, tmp_path / "labels", "takes texts, and all inputs are pictures; give texts")


def test_a_full_clip_is_two_models_and_the_line_that_saves_one_works(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    vision = sizes | {"image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=sizes | {"vocab_size": len(tokenizer)}, vision_config=vision)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    (tmp_path / "texts.txt").write_text("The ferry leaves at seven.\n")
    done = invoke("run", tmp_path / "texts.txt", "-o", tmp_path / "labels", "-q", "--model", tmp_path / "clip")
    assert done.exit_code == 2
    assert_refused(done, tmp_path / "labels", "holds two models, of texts and of pictures")
    command = done.stderr.rpartition(" with: python ")[2]
    subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, check=True, cwd=tmp_path)
    done = invoke("run", tmp_path / "texts.txt", "-o", tmp_path / "labels", "-q", "--model", tmp_path / "clip-text")
    assert done.exit_code == 0, done.stderr
    assert rows_of(tmp_path / "labels").num_rows == 4


def test_failures_that_are_alike_are_one_sentence_with_their_count_and_each_is_on_record(tmp_path):
    texts, output = tmp_path / "texts.txt", tmp_path / "labels"
    long = [" ".join(["ferry"] * (511 + n)) for n in range(38)]
    texts.write_text("\n".join(["the ferry", "a roof", *long]) + "\n")
    done = invoke("run", texts, "-o", output, "-q", "--model", MINILM)
    assert done.exit_code == 1
    first, second = done.stderr.splitlines()
    assert first == f"38 inputs failed, see {output}/errors.jsonl"
    assert re.fullmatch(
        r"  38 x SourceError, such as: texts\.txt:3 has 513 tokens, the model takes 512; --truncate cuts it", second
    )
    errors = [json.loads(line) for line in (output / "errors.jsonl").read_text().splitlines()]
    assert [error["input_id"] for error in errors] == [f"texts.txt:{n}" for n in range(3, 41)]
    assert set(rows_of(output)["input_id"].to_pylist()) == {"texts.txt:1", "texts.txt:2"}


def test_failures_of_several_kinds_are_counted_by_kind_and_no_more_than_a_few_are_printed(tmp_path):
    maps, dumps = np.full((5, 9, 9), 1 / 9, np.float32), tmp_path / "dumps"
    dumps.mkdir()
    for name, factor in {"almost": 0.9, "below": -1, "half": 0.5, "nan": np.nan, "whole": 1}.items():
        for n in range(2):
            np.save(dumps / f"{name}-{n}.npy", maps * factor)
    np.save(dumps / "numbers.npy", np.ones((5, 9, 9), np.int64))
    done = invoke("run", dumps, "-o", tmp_path / "labels", "-q")
    first, *lines, last = done.stderr.splitlines()
    assert first.startswith("9 inputs failed, see ")
    assert [line.partition(":")[0] for line in lines] == [
        "  4 x RowSumError, such as",
        "  2 x LogitsError, such as",
        "  2 x NotFiniteError, such as",
    ]
    assert last == "  and 1 other error"


def test_failures_show_below_the_bar_while_the_run_is_at_work(tmp_path):
    (tmp_path / "dumps").mkdir()
    np.save(tmp_path / "dumps" / "half.npy", np.full((5, 9, 9), 0.5 / 9, np.float32))
    shown, answer = pty.openpty()
    arguments = ("run", tmp_path / "dumps", "-o", tmp_path / "labels")
    done = attention_label(*arguments, capture_output=False, stdout=subprocess.DEVNULL, stderr=answer)
    os.close(answer)
    screen = b"".join(read_to_the_end(shown)).decode()
    assert done.returncode == 1
    during, after = screen.split("1 input failed, see ")
    assert "1 x RowSumError: half.npy: attention[layer 0" in during
    assert "1 x RowSumError: half.npy: attention[layer 0" in after


def read_to_the_end(terminal):
    """Yields what processes that have ended wrote to a pseudo-terminal."""
    with contextlib.suppress(OSError):  # Linux's end of a file there
        while chunk := os.read(terminal, 2**16):
            yield chunk
    os.close(terminal)
