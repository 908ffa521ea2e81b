"""Attention of Hugging Face models over corpora, as units of work. torch is imported when a unit is run, not before."""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from attention_patterns.classifier import Classifier
from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.memory import resident
from attention_patterns.labelling.sources.models.turns import CALLERS
from attention_patterns.labelling.sources.source import (
    EXAMPLES,
    UNIT_MAPS,
    FailedInput,
    InputName,
    MeasuredInput,
    Selection,
    Source,
    Unit,
    digest_of,
    spread_evenly,
)
from attention_patterns.labelling.sources.texts.tasks import Item, Text, UnreadText, fingerprint

if TYPE_CHECKING:
    from attention_patterns.labelling.sources.models.hugging_face import AttentionModel

TEXTS_A_UNIT = 128

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # what configurations call them
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")

_loading = threading.Lock()  # so that no two threads load the same model


@dataclass(frozen=True)
class ModelSource(Source):
    """Models to run over texts or pictures, each over all of them.

    Attributes:
        models: folders or names on the hub.
        tasks: the name of each corpus, and what it holds.
        selection: the layers and heads to label.
        revision: branch, tag or commit on the hub, of every model.
        device: that torch runs the models on.
        dtype: of their weights, "float32", "float16" or "bfloat16".
        truncate: whether to cut texts that are longer than a model takes.
        only: texts by their number in all tasks, from 0, the same for every model; None for all.
    """

    models: tuple[str, ...]
    tasks: tuple[tuple[str, tuple[Item, ...]], ...]
    selection: Selection = field(default_factory=Selection)
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    truncate: bool = False
    only: frozenset[int] | None = None

    def count_inputs(self) -> int:
        """How many texts the tasks hold, ``only`` or not; each counts once, however many the models."""
        return sum(len(items) for _, items in self.tasks)

    def restricted(self, ordinals: Iterable[int]) -> "ModelSource":
        """The same source with these texts only, by their number in all tasks, from 0; for every model the same."""
        return replace(self, only=frozenset(ordinals))

    def units(self) -> list[Unit]:
        """Runs of texts of one task for one model, the models one after the other."""
        units: list[Unit] = []
        for model in self.models:
            maps = _maps_an_input(model, self.selection)
            for task, items in self._wanted():
                examples = spread_evenly(EXAMPLES, len(items))
                texts = min(TEXTS_A_UNIT, max(1, UNIT_MAPS // max(maps, 1)))
                for begin in range(0, len(items), texts):
                    some = items[begin : begin + texts]
                    unit = Unit(
                        number=len(units),
                        task=task,
                        inputs=len(some),
                        maps=maps * sum(not isinstance(item, UnreadText) for item in some),
                        bytes=sum(_bytes(item) for item in some),
                        items=(model, *some),
                        examples=frozenset(place - begin for place in examples if 0 <= place - begin < len(some)),
                    )
                    units.append(unit)
        return units

    def _wanted(self) -> Iterator[tuple[str, tuple[Item, ...]]]:
        """The tasks, with the texts that are to be labelled."""
        first = 0
        for task, items in self.tasks:
            numbered = enumerate(items, first)
            yield task, items if self.only is None else tuple(item for n, item in numbered if n in self.only)
            first += len(items)

    def names(self, unit: Unit) -> list[InputName]:
        """The inputs of a unit; which part of the model they are of is not known before it is run."""
        model, *items = unit.items
        return [InputName(unit.task, item.input_id, None, model, self.revision) for item in items]

    def prepare(self, unit: Unit) -> int:
        """Loads the model of a unit, and gives the bytes of its weights and of torch and transformers."""
        model = self._model(unit)
        return _libraries() + (0 if isinstance(model, SourceError) else model.bytes)

    def callers(self) -> int:
        """Two, since torch shares each forward pass out between the cores; one, so that no two models are loaded."""
        return min(CALLERS, len(os.sched_getaffinity(0))) if len(self.models) == 1 else 1

    def fingerprint(self) -> dict[str, str]:
        """Tasks by the SHA-256 of what they hold, models by that of their files' names, sizes and times; settings."""
        settings = {
            "selection": repr(self.selection),
            "dtype": self.dtype,
            "truncate": str(self.truncate),
            "only": digest_of(self.only),
        }
        tasks = {f"task {task}": digest for task, digest in fingerprint(self.tasks).items()}
        return tasks | {f"model {model}": _fingerprint(model, self.revision) for model in self.models} | settings

    def _model(self, unit: Unit) -> "AttentionModel | SourceError":
        with _loading:
            _libraries()
            return _load(unit.items[0], self.revision, self.device, self.dtype, self.truncate)

    def measured(
        self, unit: Unit, classifier: Classifier, *, most_bytes: int
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        """Runs the model over the texts of a unit. Where it cannot be loaded, each of them has failed.

        Args:
            unit: one of ``units``.
            classifier: renders and measures.
            most_bytes: of attention and hidden states that may be in memory at once. A text that needs more fails.
        """
        _, *items = unit.items
        places = [place for place, item in enumerate(items) if not isinstance(item, UnreadText)]
        names = self.names(unit)
        for place, item in enumerate(items):
            if isinstance(item, UnreadText):
                yield place, FailedInput(names[place], item.error)
        loaded = self._model(unit)
        if isinstance(loaded, SourceError):
            yield from ((place, FailedInput(names[place], loaded)) for place in places)
            return
        for n, found in loaded.measured(
            [items[place] for place in places],
            task=unit.task,
            classifier=classifier,
            selection=self.selection,
            most_bytes=most_bytes,
        ):
            yield places[n], found


@cache
def _libraries() -> int:
    """Imports what runs models, where it is installed; the bytes of memory that this took."""
    before = resident()
    with suppress(ModuleNotFoundError):
        import attention_patterns.labelling.sources.models.hugging_face  # noqa: F401, PLC0415  torch takes seconds to import
    return max(resident() - before, 0)


@lru_cache(maxsize=1)  # a model may take all memory there is; a failure is kept as well, and told at once
def _load(model: str, revision: str | None, device: str, dtype: str, truncate: bool) -> "AttentionModel | SourceError":
    try:
        from attention_patterns.labelling.sources.models.hugging_face import AttentionModel  # noqa: PLC0415  torch takes seconds to import

        return AttentionModel(model, revision=revision, device=device, dtype=dtype, truncate=truncate)
    except ModuleNotFoundError as error:
        return _without(error)
    except SourceError as error:
        return SourceError(str(error))  # without its traceback, which holds the model


def _without(error: ModuleNotFoundError) -> SourceError:
    return SourceError(
        f"--model needs the extra 'models' ({error.name} is missing): pip install 'attention-patterns[models]'"
    )


def _fingerprint(model: str, revision: str | None) -> str:
    """Of a model on the hub, the revision that was asked for."""
    files = sorted(path for path in Path(model).glob("*") if path.is_file())
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(states).encode()).hexdigest() if states else str(revision)


def _maps_an_input(model: str, selection: Selection) -> int:
    """As the configuration in a model's folder tells; 0 where it does not, or the model is on the hub."""
    try:
        config = json.loads((Path(model) / "config.json").read_bytes())
        layers = next(int(config[name]) for name in _LAYERS if name in config)
        heads = next(int(config[name]) for name in _HEADS if name in config)
        parts = 2 if config.get("is_encoder_decoder") else 1
    except (OSError, ValueError, TypeError, AttributeError, StopIteration):
        return 0
    layers = layers if selection.layers is None else len(selection.layers)
    heads = heads if selection.heads is None else len(selection.heads)
    return parts * layers * heads


def _bytes(item: Item) -> int:
    return len(item.first) + len(item.second or "") if isinstance(item, Text) else 0
