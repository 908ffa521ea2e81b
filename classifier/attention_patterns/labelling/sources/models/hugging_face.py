"""Attention of a Hugging Face model over texts or pictures. The only file of ``classifier`` that imports torch.

A layer's attention is rendered and measured as soon as it leaves its module, and is then dropped, so that memory grows
neither with the layers nor with the inputs. Inputs of similar length are run together. Of an encoder-decoder both
self-attentions are taken: the decoder is fed the same ids shifted right behind its start token, as in training with
the input as the target.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging

from attention_patterns.classifier import Classifier
from attention_patterns.errors import AttentionPatternsError, SourceError
from attention_patterns.labelling.sources.models.architecture import (
    layer_bytes,
    longest,
    special_patches,
    square,
    start_id,
)
from attention_patterns.labelling.sources.models.encodings import Encoded, PictureReader, Reader, TextReader, batches
from attention_patterns.labelling.sources.models.job import Job, Outcome
from attention_patterns.labelling.sources.models.slabs import Part, bare
from attention_patterns.labelling.sources.models.taps import Tap, find_taps, numbered, record, tapped
from attention_patterns.labelling.sources.models.turns import Turns, replicas
from attention_patterns.labelling.sources.source import FailedInput, MeasuredInput, Selection
from attention_patterns.labelling.sources.texts.tasks import Picture, Text

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MIB = 2**20
_MOST_HELD = 16 * _MIB  # of layers that are measured together
_THREADS = torch.get_num_threads()  # before any caller has a share of them


class AttentionModel:
    """A model that was loaded and shown to return attention. Safe to share between threads.

    Attributes:
        name: its folder, or its name on the hub.
        revision: its commit on the hub; None for a folder.
        bytes: that its weights take in memory.
        parts: its stacks of self-attention layers; the encoder first where there are two.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        truncate: bool = False,
    ) -> None:
        """Loads a model from a folder, or by its name on the hub (which HF_HUB_OFFLINE=1 keeps to the local cache).

        Args:
            name: of the model.
            revision: branch, tag or commit on the hub.
            device: that torch runs it on.
            dtype: of its weights, "float32", "float16" or "bfloat16".
            truncate: whether to cut texts that are longer than it takes.

        Raises:
            SourceError: there is none, or it returns no self-attention for texts or pictures.
        """
        if dtype not in _DTYPES:
            raise SourceError(f"dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}")
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        settings = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
        self.name = name
        self._model: Any = _loaded(name, settings, device=device, dtype=_DTYPES[dtype])
        self.revision: str | None = getattr(self._model.config, "_commit_hash", None)
        self.bytes = sum(weights.nbytes for weights in self._model.parameters())
        self._two = bool(self._model.config.is_encoder_decoder)
        try:
            self._reader = _reader(self._model, name, settings, truncate=truncate)
            self.parts: tuple[Part, ...] = self._probe()
            self._turns = Turns(replicas(self._model))
        except Exception as error:  # so that whatever a model does, its texts fail and the run goes on
            raise SourceError(f"model {name!r} ({type(self._model).__name__}): {error}") from error

    def _probe(self) -> tuple[Part, ...]:
        """Runs two short inputs, and finds where each layer's attention leaves the model."""
        arguments = self._arguments(self._reader.probes())
        fields = ("encoder_attentions", "decoder_attentions") if self._two else ("attentions",)
        outputs, emitted = record(self._model, lambda: _call(self._model, arguments, {"output_attentions": True}))
        length = arguments["input_ids"].shape[1] if "input_ids" in arguments else None
        # The attention of a decoder to its encoder has taps so that it is dropped with the rest.
        self._taps = find_taps(emitted, "cross_attentions", getattr(outputs, "cross_attentions", None) or ())
        parts: list[Part] = []
        expected: dict[tuple[str, int], Any] = {}
        for field in fields:
            layers = getattr(outputs, field, None) or ()
            there = square(field, layers, length)
            taps, in_all = numbered(self._model, find_taps(emitted, field, layers), len(layers))
            parts.append(Part.found(field, [tap.layer for tap in taps], there, in_all))
            expected |= {(field, tap.layer): layer for tap, layer in zip(taps, there, strict=True)}
            self._taps += taps
        self._reader.fit(there[0].shape[-1])
        self._settings = self._streaming(arguments, expected)
        return tuple(parts)

    def _streaming(self, arguments: Mapping[str, Any], expected: Mapping[tuple[str, int], Any]) -> dict[str, Any]:
        """The settings with which the taps give the attention that the model returns.

        Most models make their weights known to their layers in any case, and then nothing needs to be returned.
        """
        for settings in ({}, {"output_attentions": True}):
            try:
                seen = self._seen(arguments, settings)
            except SourceError:
                if settings:
                    raise
                continue
            if all(key in seen and _equal(seen[key], layer) for key, layer in expected.items()):
                return settings
        raise SourceError("the attention that leaves its layers is not what it returns, expected the same values")

    def _seen(self, arguments: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[tuple[str, int], Any]:
        seen: dict[tuple[str, int], Any] = {}

        def take(tap: Tap, weights: Any) -> None:
            seen[tap.field, tap.layer] = weights

        with tapped(self._model, self._taps, take):
            _call(self._model, arguments, settings)
        return seen

    def measured(
        self,
        items: Sequence[Text | Picture],
        *,
        task: str,
        classifier: Classifier,
        selection: Selection,
        most_bytes: int,
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        """Runs inputs and yields each with its place, in any order; of an encoder-decoder both parts.

        Args:
            items: texts or pictures.
            task: that they are of.
            classifier: renders and measures.
            selection: the layers and heads to label.
            most_bytes: that attention and hidden states of a batch may take.
        """
        with self._turns.caller(), ThreadPoolExecutor(_THREADS, thread_name_prefix="measure") as pool:

            def run(work: Callable[[int], object], rows: Iterable[int]) -> Iterable[object]:
                return map(work, rows) if self._turns.callers >= _THREADS else pool.map(work, rows)

            start = self._reader.names([start_id(self._model.config)]) if self._two else ()
            held = min(most_bytes // 8, _MOST_HELD)
            job = Job(task, self.name, self.revision, self.parts, selection, classifier, run, held, start)
            yield from self._results(items, job, most_bytes - held)

    def _results(
        self, items: Sequence[Text | Picture], job: Job, most_bytes: int
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        def fits(count: int, length: int) -> bool:
            return count * self._bytes(length) <= most_bytes

        for begin in range(0, len(items), self._reader.together):
            encoded = {}
            for place, item in enumerate(items[begin : begin + self._reader.together], begin):
                try:
                    encoded[place] = self._encoded(item, most_bytes)
                except SourceError as error:
                    yield place, FailedInput(job.named(item.input_id), bare(error))
            for batch in batches(encoded, fits=fits):
                some = [encoded[place] for place in batch]
                for place, one, row in zip(batch, some, self._outcomes(some, job), strict=True):
                    yield from ((place, result) for result in job.results(one, row))

    def _encoded(self, item: Text | Picture, most_bytes: int) -> Encoded:
        one = self._reader.encode(item)
        needed = self._bytes(one.length)
        if needed > most_bytes:
            raise SourceError(
                f"{one.input_id} has {one.length} tokens, whose attention takes {needed / _MIB:,.1f} MiB a layer, "
                f"--max-memory leaves {most_bytes / _MIB:,.1f} MiB"
            )
        return one

    def _bytes(self, length: int) -> int:
        heads = max(part.heads for part in self.parts)
        return layer_bytes(self._model.config, length=length, heads=heads, older=bool(self._settings))

    def _outcomes(self, batch: Sequence[Encoded], job: Job) -> list[tuple[Outcome, ...]]:
        """For each input what came of each part; where a batch fails, its inputs are tried one by one."""
        try:
            return self._run(batch, job)
        except AttentionPatternsError as error:
            if len(batch) == 1:
                return [tuple(bare(error) for _ in self.parts)]
        return [self._outcomes([one], job)[0] for one in batch]

    def _run(self, batch: Sequence[Encoded], job: Job) -> list[tuple[Outcome, ...]]:
        slabs = job.slabs(batch)

        def take(tap: Tap, weights: Any) -> None:
            if tap.field in slabs and slabs[tap.field].takes(tap.layer):
                slabs[tap.field].take(tap.layer, *_as_numpy(weights))

        if slabs:
            arguments = self._arguments(batch)
            with (
                self._turns.turn() as model,
                _share_of(self._turns.callers),
                tapped(model, self._taps, take),
            ):
                _call(model, arguments, self._settings)
        return job.outcomes(slabs, len(batch))

    def _arguments(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        kind = next(self._model.parameters())
        arguments = {
            name: torch.from_numpy(values).to(kind.device, kind.dtype if values.dtype.kind == "f" else None)
            for name, values in self._reader.arguments(batch).items()
        }
        if self._two:
            ids = arguments["input_ids"]
            start = torch.full_like(ids[:, :1], start_id(self._model.config))
            arguments["decoder_input_ids"] = torch.cat([start, ids[:, :-1]], 1)
        return arguments


def _call(model: Any, arguments: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    try:
        with torch.inference_mode():
            return model(**arguments, **settings)
    except Exception as error:  # models raise whatever their makers thought of
        raise SourceError(f"the model failed: {type(error).__name__}: {error}") from error


@contextmanager
def _share_of(callers: int) -> Iterator[None]:
    """While it lasts, torch takes a caller's share of the threads; with more, callers would wait for each other."""
    torch.set_num_threads(max(1, _THREADS // callers))
    try:
        yield
    finally:
        torch.set_num_threads(_THREADS)


def _loaded(name: str, settings: Mapping[str, Any], *, device: str, dtype: torch.dtype) -> Any:
    try:
        model: Any = AutoModel.from_pretrained(name, attn_implementation="eager", **settings)
    except Exception as error:  # the kinds of the hub and of file formats have nothing in common
        raise _not_loaded(name, error) from error
    for config in (model.config, model.config.get_text_config()):
        config.use_cache, config.output_attentions, config.output_hidden_states = False, False, False
    try:
        return model.to(device=device, dtype=dtype).eval()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise SourceError(f"model {name!r} cannot be moved to device {device!r}: {error}") from error


def _not_loaded(name: str, error: Exception) -> SourceError:
    where = "is a folder" if Path(name).is_dir() else "is no folder here"
    return SourceError(f"model {name!r} {where} and cannot be loaded: {str(error).strip()}")


def _reader(model: Any, name: str, settings: Mapping[str, Any], *, truncate: bool) -> Reader:
    """Makes the inputs of a model, as far as they are texts or pictures."""
    accepts, takes = set(inspect.signature(model.forward).parameters), model.main_input_name
    if takes not in {"input_ids", "pixel_values"} or (takes == "pixel_values" and model.config.is_encoder_decoder):
        raise SourceError(f"takes {takes}, expected a model of texts, or a vision transformer of one part")
    if takes == "pixel_values" and not getattr(model.config, "patch_size", None):
        raise SourceError("has no patch_size in its configuration, expected a vision transformer")
    try:
        if takes == "pixel_values":
            images: Any = AutoImageProcessor
            processor = images.from_pretrained(name, backend="pil", **settings)  # the same pixels everywhere
        else:
            tokenizer: Any = AutoTokenizer.from_pretrained(name, **settings)
    except Exception as error:  # tokenizers raises kinds derived from nothing common
        raise _not_loaded(name, error) from error
    if takes == "pixel_values":
        return PictureReader(processor, accepts=accepts, patch=model.config.patch_size, names=special_patches(model))
    return TextReader(tokenizer, accepts=accepts, longest=longest(model, tokenizer), truncate=truncate)


def _equal(one: Any, other: Any) -> bool:
    same = one.shape == other.shape
    return same and torch.allclose(one.float(), other.float(), rtol=0, atol=1e-3, equal_nan=True)  # as GPUs add up


def _as_numpy(weights: Any) -> tuple[NDArray[Any], str | None]:
    """A layer's attention in this computer's memory, without a copy where it is there; bfloat16 as its bits."""
    weights = weights.cpu()
    if weights.dtype == torch.bfloat16:  # which numpy does not have
        return weights.contiguous().view(torch.uint16).numpy(), "bfloat16"
    return weights.numpy(), None
