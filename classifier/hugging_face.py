"""Attention of a Hugging Face model over texts. The only file of ``classifier`` that imports torch and transformers.

Texts of similar length are run together, padded on the right; padding is left to the classifier to crop. Of an
encoder-decoder both self-attentions are given: the decoder is fed the same ids shifted right behind its start token,
as in training with the input as the target.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from classifier.errors import ShapeError, SourceError
from classifier.label_input import FailedInput, LabelInput
from classifier.outputs import ModelInput, inputs_of_layers

BATCH = 8  # texts run together
NO_LIMIT = 2**20  # tokens, for models and tokenizers that name no maximum
WINDOW_CELLS = 2**26  # attention weights held to put answers back in order; 256 MiB in float32

_PROBE = "A short text shows what the model returns."


@dataclass(frozen=True)
class Text:
    """A line of a text file: one text, or the two of a pair; ``input_id`` is "file name:line", from 1."""

    input_id: str
    first: str
    second: str | None = None


@dataclass(frozen=True)
class _Measured:
    """A text, its tokens before truncation, and its tokens as run."""

    text: Text
    tokens: int
    length: int


def read_texts(path: Path) -> list[Text | FailedInput]:
    """The texts of a UTF-8 file, one text or tab-separated pair a line; empty lines are left out, but counted.

    Raises:
        SourceError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise SourceError(f"texts {path} cannot be read: {error}") from error
    return [_text(f"{path.name}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def _text(input_id: str, line: bytes) -> Text | FailedInput:
    try:
        texts = line.decode().rstrip("\r").split("\t")
    except UnicodeDecodeError as error:
        return FailedInput(input_id, SourceError(f"{input_id} is not UTF-8: {error}"))
    if len(texts) > 2 or not all(text.strip() for text in texts):
        found = f"{len(texts)} tab-separated texts" if len(texts) > 2 else "an empty text"
        return FailedInput(input_id, SourceError(f"{input_id} holds {found}, expected one text or a pair"))
    return Text(input_id, *texts)


@dataclass(frozen=True)
class _Part:
    """A stack of self-attention layers: where the model's output holds it, its name, and whether it is causal."""

    field: str
    name: str
    causal: bool


class AttentionModel:
    """A model that was loaded and shown to return attention."""

    def __init__(self, name: str) -> None:
        """Loads a model from a folder, or by its name on the hub (which HF_HUB_OFFLINE=1 keeps to the local cache).

        Raises:
            SourceError: there is none, or it returns no self-attention for texts.
        """
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self._model: Any = AutoModel.from_pretrained(name, attn_implementation="eager").float().eval()
        except (OSError, ValueError, KeyError, ImportError) as error:
            where = "is a folder" if Path(name).is_dir() else "is no folder here"
            raise SourceError(f"model {name!r} {where} and cannot be loaded: {str(error).strip()}") from error
        self._prepare()
        try:
            self._parts = tuple(self._probe())
        except (ShapeError, SourceError) as error:
            raise SourceError(f"model {name!r} ({type(self._model).__name__}): {error}") from error

    def _prepare(self) -> None:
        tokenizer, config = self._tokenizer, self._model.config
        tokenizer.padding_side = "right"  # so that positions count from 0 and a decoder never sees padding
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        config.use_cache = False
        positions = getattr(config, "max_position_embeddings", None) or NO_LIMIT
        self._longest = min(tokenizer.model_max_length, positions - _reserved_positions(self._model), NO_LIMIT)
        self._accepts = set(inspect.signature(self._model.forward).parameters)
        self._heads = getattr(config, "num_hidden_layers", 1) * getattr(config, "num_attention_heads", 1)

    def _probe(self) -> Iterator[_Part]:
        encoding, outputs = self._run([Text("the probe", _PROBE)])
        two = self._model.config.is_encoder_decoder
        for field in ("encoder_attentions", "decoder_attentions") if two else ("attentions",):
            (seen,) = inputs_of_layers(getattr(outputs, field, None), encoding, self._tokenizer)
            causal = not seen.attention[..., 0, 1:].any()  # the first token sees itself only, in every head
            yield _Part(field, field.removesuffix("_attentions") if two else "decoder" if causal else "encoder", causal)

    def attention(self, texts: Iterable[Text | FailedInput]) -> Iterator[LabelInput | FailedInput]:
        """Yields the attention of each text in order; of an encoder-decoder, the encoder's and then the decoder's."""
        for window in self._windows(texts):
            found: dict[int, list[LabelInput | FailedInput]] = {}
            measured = {n: one for n, one in enumerate(window) if isinstance(one, _Measured)}
            for batch in _batches(measured):
                found |= dict(zip(batch, self._label_inputs([measured[n] for n in batch]), strict=True))
            for n, one in enumerate(window):
                yield from [one] if isinstance(one, FailedInput) else found[n]

    def _windows(self, texts: Iterable[Text | FailedInput]) -> Iterator[list[_Measured | FailedInput]]:
        """Consecutive texts whose attention can be held at once."""
        window: list[_Measured | FailedInput] = []
        cells = 0
        for text in texts:
            one = self._measure(text)
            more = 0 if isinstance(one, FailedInput) else self._heads * one.length**2
            if window and cells + more > WINDOW_CELLS:
                yield window
                window, cells = [], 0
            window.append(one)
            cells += more
        yield window

    def _measure(self, text: Text | FailedInput) -> _Measured | FailedInput:
        if isinstance(text, FailedInput):
            return text
        tokens = len(self._tokenizer(text.first, text.second, verbose=False)["input_ids"])
        if not tokens:
            return FailedInput(text.input_id, SourceError(f"{text.input_id} gives no tokens, expected at least one"))
        return _Measured(text, tokens, min(tokens, self._longest))

    def _label_inputs(self, batch: Sequence[_Measured]) -> list[list[LabelInput | FailedInput]]:
        """For each text one input a part; where the batch fails, its texts are tried one by one."""
        try:
            encoding, outputs = self._run([one.text for one in batch])
            found = {
                part: list(inputs_of_layers(getattr(outputs, part.field, None), encoding, self._tokenizer))
                for part in self._parts
            }
        except (SourceError, ShapeError) as error:
            if len(batch) > 1:
                return [self._label_inputs([one])[0] for one in batch]
            return [[FailedInput(batch[0].text.input_id, SourceError(str(error)))]]
        return [
            [self._label_input(one, part, of_part[row]) for part, of_part in found.items()]
            for row, one in enumerate(batch)
        ]

    def _label_input(self, one: _Measured, part: _Part, found: ModelInput) -> LabelInput:
        if part.field == "decoder_attentions":
            found = self._shifted(found)
        cut = one.tokens > one.length
        return LabelInput(
            one.text.input_id,
            found.attention,
            part=part.name,
            tokens=found.tokens,
            segments=found.segments,
            mask=found.mask,
            causal=part.causal,
            data_type=found.data_type,
            warnings=(f"the text was cut from {one.tokens} to {one.length} tokens",) if cut else (),
            progress=1 / len(self._parts),
        )

    def _shifted(self, found: ModelInput) -> ModelInput:
        """The declarations of an encoder's input for the decoder, which was fed the same ids one place later."""
        (start,) = self._tokenizer.convert_ids_to_tokens([self._start_id()])
        segments = None if found.segments is None else np.concatenate([found.segments[:1], found.segments[:-1]])
        return replace(found, tokens=(start, *found.tokens[:-1]), segments=segments)

    def _run(self, texts: Sequence[Text]) -> tuple[Any, Any]:
        """The encoding of a batch, and what the model returned for it."""
        encoding = self._tokenizer(
            [text.first if text.second is None else (text.first, text.second) for text in texts],
            padding=True,
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )
        arguments = {name: values for name, values in encoding.items() if name in self._accepts}
        if self._model.config.is_encoder_decoder:
            ids = encoding["input_ids"]
            arguments["decoder_input_ids"] = torch.cat([torch.full_like(ids[:, :1], self._start_id()), ids[:, :-1]], 1)
        try:
            with torch.inference_mode():
                return encoding, self._model(**arguments, output_attentions=True)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise SourceError(f"the model failed on {texts[0].input_id}: {error}") from error

    def _start_id(self) -> int:
        config = self._model.config
        named = (getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"))
        return next(int(one) for one in (*named, self._tokenizer.pad_token_id) if one is not None)


def _batches(measured: Mapping[int, _Measured]) -> Iterator[list[int]]:
    """Indices of texts to run together: singles with singles, pairs with pairs, by length."""
    texts = [(one.text.second is None, one.length, n) for n, one in measured.items()]
    for _, kind in groupby(sorted(texts), key=lambda text: text[0]):
        indices = [n for *_, n in kind]
        yield from (indices[begin : begin + BATCH] for begin in range(0, len(indices), BATCH))


def _reserved_positions(model: torch.nn.Module) -> int:
    """RoBERTa and its kin count positions from one past the padding's, so that a few embeddings are never used."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(getattr(module, "padding_idx", None), int):
            return int(module.padding_idx) + 1
    return 0
