"""Attention of Hugging Face models over corpora, as units of work. torch is imported when a unit is run, not before."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import SourceError
from classifier.image_classifier import ImageClassifier
from classifier.labelling.source import FailedInput, InputName, MeasuredInput, Selection, Source, Unit
from classifier.labelling.texts.tasks import Picture, Text, UnreadText

if TYPE_CHECKING:
    from classifier.labelling.models.hugging_face import AttentionModel

TEXTS_A_UNIT = 128

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # what configurations call them
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")

Item = Text | Picture | UnreadText

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
    """

    models: tuple[str, ...]
    tasks: tuple[tuple[str, tuple[Item, ...]], ...]
    selection: Selection = field(default_factory=Selection)
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    truncate: bool = False

    def units(self) -> list[Unit]:
        """Runs of texts of one task for one model, the models one after the other."""
        units: list[Unit] = []
        for model in self.models:
            maps = _maps_an_input(model, self.selection)
            for task, items in self.tasks:
                for begin in range(0, len(items), TEXTS_A_UNIT):
                    some = items[begin : begin + TEXTS_A_UNIT]
                    read = sum(not isinstance(item, UnreadText) for item in some)
                    size = sum(_bytes(item) for item in some)
                    units.append(Unit(len(units), task, len(some), read * maps, size, (model, *some)))
        return units

    def names(self, unit: Unit) -> list[InputName]:
        """The inputs of a unit; which part of the model they are of is not known before it is run."""
        model, *items = unit.items
        return [InputName(unit.task, item.input_id, None, model, self.revision) for item in items]

    def prepare(self, unit: Unit) -> None:
        """Loads the model of a unit."""
        self._model(unit)

    def callers(self) -> int:
        """One: torch and the measuring use all cores by themselves."""
        return 1

    def fingerprint(self) -> dict[str, str]:
        """Tasks by the SHA-256 of what they hold, models by that of their files' names, sizes and times."""
        tasks = {task: hashlib.sha256(repr(items).encode()).hexdigest() for task, items in self.tasks}
        return tasks | {f"model {model}": _fingerprint(model, self.revision) for model in self.models}

    def _model(self, unit: Unit) -> "AttentionModel | SourceError":
        with _loading:
            return _load(unit.items[0], self.revision, self.device, self.dtype, self.truncate)

    def measured(
        self, unit: Unit, classifier: ImageClassifier, *, most_bytes: int
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        """Runs the model over the texts of a unit. Where it cannot be loaded, each of them has failed."""
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


@lru_cache(maxsize=1)  # a model may take all memory there is; a failure is kept as well, and told at once
def _load(model: str, revision: str | None, device: str, dtype: str, truncate: bool) -> "AttentionModel | SourceError":
    try:
        from classifier.labelling.models.hugging_face import AttentionModel  # noqa: PLC0415  torch takes seconds to import

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
