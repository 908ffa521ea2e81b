"""What a run was asked for, and the source and classifier it takes."""

import random
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attention_patterns.classifier import Classifier
from attention_patterns.errors import BundleError, InvalidSettingsError, SourceError
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.models.source import ModelSource
from attention_patterns.labelling.sources.source import Selection, Source
from attention_patterns.labelling.sources.texts.tasks import text_tasks
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.rendering import RENDERING_VERSION

_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True)
class Job:
    """What is to be labelled.

    Attributes:
        inputs: files, folders, globs, URLs and data sets, each perhaps behind NAME=.
        models: transformers to run over them; without, the inputs are dumps.
        columns: of the texts, by name.
        id_column: of their ids.
        revision: of the models on the hub.
        device: that torch runs them on.
        dtype: of their weights.
        truncate: whether texts longer than a model takes are cut.
        selection: of layers and heads.
        limit: label only so many inputs, the first.
        sample: label only so many inputs, drawn by ``seed``.
        seed: of the draw.
    """

    inputs: tuple[str, ...]
    models: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    id_column: str | None = None
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    truncate: bool = False
    selection: Selection = field(default_factory=Selection)
    limit: int | None = None
    sample: int | None = None
    seed: int = 0

    def source(self) -> Source:
        """Finds the inputs.

        Raises:
            SourceError: an input does not exist, or cannot be read at all.
            InvalidSettingsError: the settings do not fit together.
        """
        self._check()
        source: Source = self._of_models() if self.models else DumpSource(dump_tasks(self.inputs), self.selection)
        if self.limit is None and self.sample is None:
            return source
        there = source.count_inputs()
        if self.sample is None:
            return source.restricted(range(min(self.limit or 0, there)))
        return source.restricted(random.Random(self.seed).sample(range(there), min(self.sample, there)))

    def settings(self) -> dict[str, Any]:
        """What changes the labels, beside the inputs themselves; plain values, None where it does not matter."""
        chosen = {
            "layers": self.selection.layers,
            "heads": self.selection.heads,
            "limit": self.limit,
            "sample": self.sample,
            "seed": None if self.sample is None else self.seed,
        }
        return chosen | ({"dtype": self.dtype, "truncate": self.truncate} if self.models else {})

    def _of_models(self) -> ModelSource:
        missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
        if missing:  # or each input would fail of it
            raise SourceError(
                f"--model needs the extra 'models' ({missing[0]} is missing): pip install 'attention-patterns[models]'"
            )
        tasks = text_tasks(self.inputs, columns=self.columns or None, id_column=self.id_column)
        return ModelSource(
            self.models,
            tasks,
            selection=self.selection,
            revision=self.revision,
            device=self.device,
            dtype=self.dtype,
            truncate=self.truncate,
        )

    def _check(self) -> None:
        for_models = {
            "--columns": self.columns,
            "--id-column": self.id_column,
            "--revision": self.revision,
            "--truncate": self.truncate,
        }
        wrong = [name for name, value in for_models.items() if value]
        if wrong and not self.models:
            raise InvalidSettingsError(f"{wrong[0]} is for texts that a model reads, and there is no --model")
        if self.limit is not None and self.sample is not None:
            raise InvalidSettingsError("--limit and --sample both say which inputs to label; leave one of them out")


def indices_of(text: str, *, option: str) -> tuple[int, ...]:
    """Reads "0-3,7" as (0, 1, 2, 3, 7).

    Raises:
        InvalidSettingsError: it is no list of indices and ranges.
    """
    plain = text.replace(" ", "")
    if not _RANGES.fullmatch(plain):
        raise InvalidSettingsError(f"{option} is {text!r}, expected indices from 0 and ranges, for example 0-3,7")
    ends = [[int(end) for end in one.split("-")] for one in plain.split(",")]
    if backwards := next((end for end in ends if end[-1] < end[0]), None):
        raise InvalidSettingsError(f"{option} has the range {backwards[0]}-{backwards[1]}, expected the lower first")
    return tuple(sorted({index for end in ends for index in range(end[0], end[-1] + 1)}))


@dataclass(frozen=True)
class ClassifierChoice:
    """Which classifier to use; may be pickled.

    Attributes:
        endpoint: "host:port" of a server; None for the net in this process.
        bundle: folder of the model bundle; None for the bundled one.
    """

    endpoint: str | None = None
    bundle: Path | None = None

    def open(self, *, threads: int | None = None, warm: bool = False) -> "OpenClassifier":
        """Loads the net, or connects.

        Args:
            threads: cores to use here, all by default.
            warm: load the compiled kernel as well, so that what it takes can be seen.

        Raises:
            BundleError: the bundle is missing, damaged, or made for another rendering; likewise the server's.
            InvalidSettingsError: endpoint and bundle are both given, or there is no client.
            ServerError: the server cannot be reached.
        """
        if self.endpoint is None:
            own = PatternClassifier.load(self.bundle, threads=threads)
            if warm:
                own.warm_up()
            return OpenClassifier(own, f"{own.model} {own.bundle.sha256[:12]}", nullcontext())
        if self.bundle:
            raise InvalidSettingsError("--bundle has no say in what the server at --endpoint uses; leave one out")
        clients = entry_points(group="attention_patterns.clients", name="grpc")
        if not clients:
            raise InvalidSettingsError("--endpoint needs the client of attention-patterns, and none is installed")
        client = next(iter(clients)).load()(self.endpoint)
        model = client.model()
        if model.rendering_version != RENDERING_VERSION:
            raise BundleError(
                f"the server at {self.endpoint} reads images of rendering {model.rendering_version}, and this version "
                f"makes rendering {RENDERING_VERSION}: use the same version on both sides"
            )
        return OpenClassifier(client, f"{model.name} {model.version} {model.sha256[:12]}", client)

    def load(self) -> Classifier:
        """As ``open``, for a worker that uses one core and lives as long as its classifier."""
        return self.open(threads=1, warm=True).classifier


@dataclass(frozen=True)
class OpenClassifier:
    """A classifier that is ready, what it is called, and what to leave when it is done."""

    classifier: Classifier
    identity: str
    context: AbstractContextManager[Any]
