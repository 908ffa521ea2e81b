"""Attention of Hugging Face models over texts or pictures, in units. torch is imported when a unit is run."""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

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
from attention_patterns.programs.extras import name_missing_extra

if TYPE_CHECKING:
    from attention_patterns.labelling.sources.models.hugging_face import AttentionModel

TEXTS_PER_UNIT = 128

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # names in configurations
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")

_loading = threading.Lock()  # so that no two threads load the same model


@dataclass(frozen=True)
class ModelSource(Source):
    """Models to run over texts or pictures, each over all of them.

    Attributes:
        models: Folders or names on the hub.
        tasks: Name and items of each task.
        selection: Layers and heads to label.
        revision: Branch, tag or commit on the hub, of every model.
        device: Device that torch runs the models on.
        dtype: Type of their weights: "float32", "float16" or "bfloat16".
        truncate: Whether to cut texts that are longer than a model takes.
        only: Numbers of the texts to label among those of all tasks, from 0, the same for every model; None for all.
    """

    shared: ClassVar[bool] = True
    models: tuple[str, ...]
    tasks: tuple[tuple[str, tuple[Item, ...]], ...]
    selection: Selection = field(default_factory=Selection)
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    truncate: bool = False
    only: frozenset[int] | None = None

    def count_inputs(self) -> int:
        """Returns the number of texts in all tasks, in ``only`` or not; each counts once, however many the models."""
        return sum(len(items) for _, items in self.tasks)

    def restrict(self, ordinals: Iterable[int]) -> "ModelSource":
        """Returns the same source with these texts only, by their numbers among all, from 0; for all models alike."""
        return replace(self, only=frozenset(ordinals))

    def units(self) -> list[Unit]:
        """Returns units of consecutive texts of one task for one model, the models one after the other."""
        units: list[Unit] = []
        for model in self.models:
            maps = _maps_per_input(model, self.selection)
            for task, items in self._chosen_items():
                examples = spread_evenly(EXAMPLES, len(items))
                texts = min(TEXTS_PER_UNIT, max(1, UNIT_MAPS // max(maps, 1)))
                for begin in range(0, len(items), texts):
                    some = items[begin : begin + texts]
                    unit = Unit(
                        number=len(units),
                        task=task,
                        inputs=len(some),
                        maps=maps * sum(not isinstance(item, UnreadText) for item in some),
                        bytes=sum(map(_count_bytes, some)),
                        items=(model, *some),
                        examples=frozenset(place - begin for place in examples if 0 <= place - begin < len(some)),
                    )
                    units.append(unit)
        return units

    def _chosen_items(self) -> Iterator[tuple[str, tuple[Item, ...]]]:
        """Yields each task with those of its items that are to be labelled."""
        first = 0
        for task, items in self.tasks:
            numbered = enumerate(items, first)
            yield task, items if self.only is None else tuple(item for n, item in numbered if n in self.only)
            first += len(items)

    def names(self, unit: Unit) -> list[InputName]:
        """Returns the names of a unit's inputs, without ``part``: only the loaded model shows what it has."""
        model, *items = unit.items
        return [InputName(unit.task, item.input_id, None, model, self.revision) for item in items]

    def check(self, classifier: Classifier) -> None:
        """Loads each model and runs two short inputs through it.

        Raises:
            SourceError: All inputs would fail for one reason: a model cannot be loaded, returns no self-attention, is
                without the selected layers or heads, or takes texts where all inputs are pictures.
            MissingExtraError: A package that runs models is not installed.
        """
        kinds = {type(item) for _, items in self._chosen_items() for item in items} - {UnreadText}
        for name in reversed(self.models):  # so that the first is in memory when its turn comes
            model = self._load(name)
            if isinstance(model, SourceError):
                raise model
            if kinds and model.takes not in kinds:
                given, taken = ("pictures", "texts") if model.takes is Text else ("texts", "pictures")
                raise SourceError(f"model {name!r} takes {taken}, and all inputs are {given}; give {taken}")
            model.check(classifier, self.selection)

    def prepare(self, unit: Unit) -> int:
        """Loads the model of a unit, and returns the bytes of its weights and of torch and transformers.

        Raises:
            MissingExtraError: A package that runs models is not installed.
        """
        model = self._load(unit.items[0])
        return _import_libraries() + (0 if isinstance(model, SourceError) else model.bytes)

    def callers(self) -> int:
        """Returns 2 for a single model, as torch spreads each forward pass over the cores; 1 for several.

        Only one model is in memory at a time.
        """
        return min(CALLERS, len(os.sched_getaffinity(0))) if len(self.models) == 1 else 1

    def fingerprint(self) -> dict[str, str]:
        """Returns digests of each task's content and of the names, sizes and times of each model's files; settings."""
        settings = {
            "selection": repr(self.selection),
            "dtype": self.dtype,
            "truncate": str(self.truncate),
            "only": digest_of(self.only),
        }
        tasks = {f"task {task}": digest for task, digest in fingerprint(self.tasks).items()}
        return tasks | {f"model {model}": _digest_of_model(model, self.revision) for model in self.models} | settings

    def _load(self, model: str) -> "AttentionModel | SourceError":
        with _loading:
            _import_libraries()
            return _load_model(model, self.revision, self.device, self.dtype, self.truncate)

    def measure(
        self, unit: Unit, classifier: Classifier, *, most_bytes: int
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        """Runs the model over the texts of a unit. If it cannot be loaded, each of them fails.

        Args:
            unit: One of ``units``.
            classifier: Classifier that renders and measures.
            most_bytes: Bytes of attention and hidden states that may be in memory at once. A text that needs more
                fails.

        Raises:
            MissingExtraError: A package that runs models is not installed.
        """
        _, *items = unit.items
        places = [place for place, item in enumerate(items) if not isinstance(item, UnreadText)]
        names = self.names(unit)
        for place, item in enumerate(items):
            if isinstance(item, UnreadText):
                yield place, FailedInput(names[place], item.error)
        model = self._load(unit.items[0])
        if isinstance(model, SourceError):
            yield from ((place, FailedInput(names[place], model)) for place in places)
            return
        for n, outcome in model.measure(
            [items[place] for place in places],
            task=unit.task,
            classifier=classifier,
            selection=self.selection,
            most_bytes=most_bytes,
        ):
            yield places[n], outcome


@cache
def _import_libraries() -> int:
    """Imports torch and transformers, and returns the bytes of memory that this took.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    before = resident()
    with name_missing_extra("models", needed_by="--model"):
        import attention_patterns.labelling.sources.models.hugging_face  # noqa: F401, PLC0415  torch takes seconds to import
    return max(resident() - before, 0)


@lru_cache(maxsize=1)  # a model may take all memory there is; a failure is kept as well, not to try again
def _load_model(
    model: str, revision: str | None, device: str, dtype: str, truncate: bool
) -> "AttentionModel | SourceError":
    from attention_patterns.labelling.sources.models.hugging_face import AttentionModel  # noqa: PLC0415  torch takes seconds to import

    try:
        return AttentionModel(model, revision=revision, device=device, dtype=dtype, truncate=truncate)
    except SourceError as error:
        return SourceError(str(error))  # without its traceback, which holds the model


def _digest_of_model(model: str, revision: str | None) -> str:
    """Returns a digest of a folder's files; of a model on the hub, the revision as it was given."""
    files = sorted(path for path in Path(model).glob("*") if path.is_file())
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(states).encode()).hexdigest() if states else str(revision)


def _maps_per_input(model: str, selection: Selection) -> int:
    """Returns the maps per text by the configuration in a model's folder; 0 where they are not known before loading."""
    try:
        config = json.loads((Path(model) / "config.json").read_bytes())
        layers = next(int(config[name]) for name in _LAYERS if name in config)
        heads = next(int(config[name]) for name in _HEADS if name in config)
        stacks = 2 if config.get("is_encoder_decoder") else 1
    except (OSError, ValueError, TypeError, AttributeError, StopIteration):
        return 0
    return stacks * selection.count(layers, heads)


def _count_bytes(item: Item) -> int:
    return len(item.first) + len(item.second or "") if isinstance(item, Text) else 0
