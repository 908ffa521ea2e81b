"""Attention of a Hugging Face model over texts or pictures. The only file of the library that imports torch.

A layer's attention is rendered and measured as soon as it leaves its module, and is then dropped, so that memory grows
neither with the layers nor with the inputs. Inputs of similar length are run together. Of an encoder-decoder both
self-attentions are taken: the decoder is fed the same ids shifted right behind its start token, as in training with
the input as the target.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging

from attention_patterns.classifier import Classifier
from attention_patterns.errors import AttentionPatternsError, MissingExtraError, SourceError
from attention_patterns.labelling.sources.models.architecture import (
    has_sinks,
    layer_bytes,
    longest,
    self_attention,
    special_patches,
    start_id,
    with_sink,
)
from attention_patterns.labelling.sources.models.encodings import Encoded, PictureReader, Reader, TextReader, batches
from attention_patterns.labelling.sources.models.slabs import LayerStack, SideBySide
from attention_patterns.labelling.sources.models.taps import Tap, find_taps, number_layers, record, tap_layers
from attention_patterns.labelling.sources.models.task_run import Outcome, SelectedStack, TaskRun
from attention_patterns.labelling.sources.models.turns import Turns, make_replicas
from attention_patterns.labelling.sources.models.ways import CROSS, RETURNED, Probe
from attention_patterns.labelling.sources.source import FailedInput, MeasuredInput, Selection, without_traceback
from attention_patterns.labelling.sources.texts.tasks import Picture, Text
from attention_patterns.programs.extras import require

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MIB = 2**20
_MOST_HELD = 16 * _MIB  # bytes of layers that are measured together
_THREADS = torch.get_num_threads()  # before any caller has a share of them


class AttentionModel:
    """A model that was loaded and shown to return attention. Safe to share between threads.

    Attributes:
        name: Folder, or name on the hub.
        revision: Commit on the hub; None for a folder.
        bytes: Bytes of memory that the weights take.
        stacks: Stacks of self-attention layers; the encoder's first where there are two.
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
            name: Folder or name of the model.
            revision: Branch, tag or commit on the hub.
            device: Device that torch runs it on.
            dtype: Type of its weights: "float32", "float16" or "bfloat16".
            truncate: Whether to cut texts that are longer than it takes.

        Raises:
            SourceError: The model does not exist, or returns no self-attention for texts or pictures.
            MissingExtraError: The model reads pictures, and Pillow is not installed.
        """
        if dtype not in _DTYPES:
            raise SourceError(f"dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}")
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        settings = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
        self.name = name
        self._model: Any = _load_model(name, settings, device=device, dtype=_DTYPES[dtype])
        self.revision: str | None = getattr(self._model.config, "_commit_hash", None)
        self.bytes = sum(weights.nbytes for weights in self._model.parameters())
        self._two = bool(self._model.config.is_encoder_decoder)
        try:
            self._reader = _make_reader(self._model, name, settings, truncate=truncate)
            self.stacks: tuple[LayerStack, ...] = self._probe()
            self._turns = Turns(make_replicas(self._model))
        except MissingExtraError:
            raise
        except Exception as error:  # so that whatever a model does, its texts fail and the run goes on
            raise SourceError(f"model {name!r} ({type(self._model).__name__}): {error}") from error

    def _probe(self) -> tuple[LayerStack, ...]:
        """Runs two short inputs, and finds the stacks of layers and the way of taking their attention."""
        arguments = self._arguments(self._reader.probes())
        run = partial(_call, self._model, arguments)
        outputs, emitted = record(self._model, lambda: run(RETURNED))
        length = arguments["input_ids"].shape[1] if "input_ids" in arguments else None
        layers: dict[str, Sequence[Any]] = {CROSS: getattr(outputs, CROSS, None) or ()}
        stacks: list[LayerStack] = []
        for field in ("encoder_attentions", "decoder_attentions") if self._two else ("attentions",):
            layers[field] = self_attention(field, getattr(outputs, field, None) or (), length)
            taps = find_taps(emitted, field, layers[field])
            indices, in_all = number_layers(self._model, taps, len(layers[field]))
            stack = LayerStack.from_layers(field, indices, layers[field], in_all)
            stacks.append(replace(stack, sink=has_sinks(self._model)))
        self._reader.fit(next(layer.shape[-1] for layer in layers[field] if layer is not None))
        self._way = Probe(
            self._model, run, outputs, emitted, layers, {stack.field: stack.layers for stack in stacks}
        ).find_way()
        return tuple(stacks)

    def measure(
        self,
        items: Sequence[Text | Picture],
        *,
        task: str,
        classifier: Classifier,
        selection: Selection,
        most_bytes: int,
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        """Runs inputs and yields each with its place, in any order; of an encoder-decoder, one for each stack.

        Args:
            items: Texts or pictures.
            task: Task that they belong to.
            classifier: Classifier that renders and measures.
            selection: Layers and heads to label.
            most_bytes: Bytes that attention and hidden states of a batch may take.
        """
        with self._turns.caller(), ThreadPoolExecutor(_THREADS, thread_name_prefix="measure") as pool:

            def side_by_side(work: Callable[[int], object], rows: Iterable[int]) -> Iterable[object]:
                return map(work, rows) if self._turns.callers >= _THREADS else pool.map(work, rows)

            held = min(most_bytes // 8, _MOST_HELD)
            task_run = self._begin(task, classifier, selection, side_by_side=side_by_side, most_held=held)
            yield from self._run_items(items, task_run, most_bytes - held)

    def check(self, classifier: Classifier, selection: Selection) -> None:
        """Measures two short inputs, to find what all inputs would fail for.

        Args:
            classifier: Classifier that renders and measures.
            selection: Layers and heads to label.

        Raises:
            SourceError: The selection fits no stack, or no attention is that of a self-attention map.
        """
        with self._turns.caller():
            task_run = self._begin("", classifier, selection, side_by_side=map, most_held=_MOST_HELD)
            found = [each for outcomes in self._run_or_split(self._reader.probes(), task_run) for each in outcomes]
        failures = [outcome for outcome in found if isinstance(outcome, AttentionPatternsError)]
        if len(failures) == len(found):
            raise SourceError(f"model {self.name!r} ({type(self._model).__name__}): {failures[0]}")

    def _begin(
        self, task: str, classifier: Classifier, selection: Selection, *, side_by_side: SideBySide, most_held: int
    ) -> TaskRun:
        return TaskRun(
            task=task,
            model=self.name,
            revision=self.revision,
            stacks=[SelectedStack.select(stack, selection, model=self.name) for stack in self.stacks],
            classifier=classifier,
            side_by_side=side_by_side,
            most_held=most_held,
            start=self._reader.names([start_id(self._model.config)]) if self._two else (),
            special_tokens=self._reader.special_tokens,
        )

    @property
    def takes(self) -> type[Text | Picture]:
        """The kind of its inputs."""
        return self._reader.kind

    def _run_items(
        self, items: Sequence[Text | Picture], task_run: TaskRun, most_bytes: int
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        def fits(count: int, length: int) -> bool:
            return count * self._bytes(length) <= most_bytes

        for begin in range(0, len(items), self._reader.together):
            encoded = {}
            for place, item in enumerate(items[begin : begin + self._reader.together], begin):
                try:
                    encoded[place] = self._encode(item, most_bytes)
                except SourceError as error:
                    yield place, FailedInput(task_run.name(item.input_id), without_traceback(error))
            for places in batches(encoded, fits=fits):
                batch = [encoded[place] for place in places]
                for place, each, outcomes in zip(places, batch, self._run_or_split(batch, task_run), strict=True):
                    yield from ((place, result) for result in task_run.results(each, outcomes))

    def _encode(self, item: Text | Picture, most_bytes: int) -> Encoded:
        encoded = self._reader.encode(item)
        needed = self._bytes(encoded.length)
        if needed > most_bytes:
            raise SourceError(
                f"{encoded.input_id} has {encoded.length} tokens, whose attention takes {needed / _MIB:,.1f} MiB per "
                f"layer, expected at most the {most_bytes / _MIB:,.1f} MiB that --max-memory leaves"
            )
        return encoded

    def _bytes(self, length: int) -> int:
        heads = max(stack.heads for stack in self.stacks)
        return layer_bytes(
            self._model.config,
            length=length,
            heads=heads,
            older=bool(self._way.settings),
            kept=self._way.layers_kept,
        )

    def _run_or_split(self, batch: Sequence[Encoded], task_run: TaskRun) -> list[tuple[Outcome, ...]]:
        """Returns for each input the outcome of each stack; where a batch fails, its inputs are run one by one."""
        try:
            return self._run(batch, task_run)
        except AttentionPatternsError as error:
            if len(batch) == 1:
                return [task_run.failure(error)]
        return [self._run_or_split([encoded], task_run)[0] for encoded in batch]

    def _run(self, batch: Sequence[Encoded], task_run: TaskRun) -> list[tuple[Outcome, ...]]:
        slabs = task_run.slabs(batch)

        def take(tap: Tap, weights: Any) -> None:
            if tap.field in slabs and slabs[tap.field].takes(tap.layer):
                whole = with_sink(weights) if self.stacks[0].sink else weights
                slabs[tap.field].take(tap.layer, *_as_numpy(whole))

        if slabs:
            arguments = self._arguments(batch)
            with (
                self._turns.turn() as model,
                _share_of(self._turns.callers),
                tap_layers(model, self._way.taps, take),
            ):
                _call(model, arguments, self._way.settings)
        return task_run.outcomes(slabs, len(batch))

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
    """Has torch take a caller's share of the threads while inside; with more, callers would wait for each other."""
    torch.set_num_threads(max(1, _THREADS // callers))
    try:
        yield
    finally:
        torch.set_num_threads(_THREADS)


def _load_model(name: str, settings: Mapping[str, Any], *, device: str, dtype: torch.dtype) -> Any:
    try:
        model: Any = AutoModel.from_pretrained(name, attn_implementation="eager", **settings)
    except Exception as error:  # the kinds of the hub and of file formats have nothing in common
        raise _loading_error(name, error) from error
    for config in (model.config, model.config.get_text_config()):
        config.use_cache, config.output_attentions, config.output_hidden_states = False, False, False
    try:
        return model.to(device=device, dtype=dtype).eval()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise SourceError(f"model {name!r} cannot be moved to device {device!r}: {error}") from error


def _loading_error(name: str, error: Exception) -> SourceError:
    kind = "is a folder" if Path(name).is_dir() else "is not a folder here"
    return SourceError(f"model {name!r} {kind} and cannot be loaded: {' '.join(str(error).split())}")


def _of_two_models(name: str) -> str:
    """Returns what to do with a model such as CLIP, with the line that saves its model of texts alone."""
    folder = f"{name.rstrip('/').rpartition('/')[2]}-text"
    code = (
        f"from transformers import AutoModel, AutoTokenizer; AutoModel.from_pretrained({name!r}).text_model"
        f".save_pretrained({folder!r}); AutoTokenizer.from_pretrained({name!r}).save_pretrained({folder!r})"
    )
    return (
        "holds two models, of texts and of pictures (text_model, vision_model), expected one; save that of texts with: "
        f"python -c {quote(code)}"
    )


def _make_reader(model: Any, name: str, settings: Mapping[str, Any], *, truncate: bool) -> Reader:
    """Makes the reader of a model's inputs, texts or pictures.

    Raises:
        SourceError: The model takes other inputs, or its tokenizer or image processor cannot be loaded.
        MissingExtraError: The model takes pictures, and Pillow is not installed.
    """
    if hasattr(model, "text_model") and hasattr(model, "vision_model"):
        raise SourceError(_of_two_models(name))
    accepts, takes = set(inspect.signature(model.forward).parameters), model.main_input_name
    if takes not in {"input_ids", "pixel_values"} or (takes == "pixel_values" and model.config.is_encoder_decoder):
        raise SourceError(f"takes {takes}, expected a model of texts, or a vision transformer without a decoder")
    if takes == "pixel_values" and not getattr(model.config, "patch_size", None):
        raise SourceError("has no patch_size in its configuration, expected a vision transformer")
    if takes == "pixel_values":
        require("models", "PIL", needed_by=f"model {name!r} of pictures")
    try:
        if takes == "pixel_values":
            images: Any = AutoImageProcessor
            processor = images.from_pretrained(name, backend="pil", **settings)  # the same pixels everywhere
        else:
            tokenizer: Any = AutoTokenizer.from_pretrained(name, **settings)
    except Exception as error:  # tokenizers raises kinds derived from nothing common
        raise _loading_error(name, error) from error
    if takes == "pixel_values":
        return PictureReader(processor, accepts=accepts, patch=model.config.patch_size, names=special_patches(model))
    return TextReader(tokenizer, accepts=accepts, longest=longest(model, tokenizer), truncate=truncate)


def _as_numpy(weights: Any) -> tuple[NDArray[Any], str | None]:
    """Returns a layer's attention in this computer's memory, not copied where it is there; bfloat16 as its bits."""
    weights = weights.cpu()
    if weights.dtype == torch.bfloat16:  # which numpy does not have
        return weights.contiguous().view(torch.uint16).numpy(), "bfloat16"
    return weights.numpy(), None
