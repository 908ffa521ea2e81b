"""The inputs that a run is asked to label, and the source that they are read from."""

import random
import re
from dataclasses import dataclass, field
from typing import Any

from attention_patterns.errors import InvalidSettingsError
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.models.source import ModelSource
from attention_patterns.labelling.sources.source import Selection, Source
from attention_patterns.labelling.sources.texts.tasks import text_tasks
from attention_patterns.programs.extras import require

_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True)
class RunRequest:
    """A request to label inputs, as the options state it.

    Attributes:
        inputs: Files, folders, globs, URLs and data sets, each with or without TASK= before it.
        models: Transformers to run over the inputs; without any, the inputs are dumps.
        columns: Names of the columns of the texts.
        id_column: Name of the column of their ids.
        revision: Branch, tag or commit of the models on the hub.
        device: Torch device of the models.
        dtype: Data type of the models' weights.
        truncate: Whether texts that are longer than a model takes are cut.
        axes: Order of the axes of dumped attention that has five of them; None to find it.
        renormalise: Whether each row of dumped attention is divided by its sum.
        selection: Layers and heads to label.
        limit: Number of inputs to label, the first ones; None for all.
        sample: Number of inputs to label, drawn at random; None for all.
        seed: Seed of the draw.
    """

    inputs: tuple[str, ...]
    models: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    id_column: str | None = None
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    truncate: bool = False
    axes: Axes | None = None
    renormalise: bool = False
    selection: Selection = field(default_factory=Selection)
    limit: int | None = None
    sample: int | None = None
    seed: int = 0

    def open_source(self) -> Source:
        """Finds the inputs and returns the source that reads them.

        Raises:
            SourceError: An input does not exist, or cannot be read at all.
            InvalidSettingsError: The options exclude each other.
            MissingExtraError: A package that the models need is not installed.
        """
        self._check()
        source: Source = self._open_models() if self.models else self._open_dumps()
        if self.limit is None and self.sample is None:
            return source
        count = source.count_inputs()
        if self.sample is None:
            return source.restrict(range(min(self.limit or 0, count)))
        return source.restrict(random.Random(self.seed).sample(range(count), min(self.sample, count)))

    def settings(self) -> dict[str, Any]:
        """Returns the settings that change labels, other than the inputs; None where a setting does not apply."""
        settings = {
            "layers": self.selection.layers,
            "heads": self.selection.heads,
            "limit": self.limit,
            "sample": self.sample,
            "seed": None if self.sample is None else self.seed,
        }
        return settings | ({"dtype": self.dtype, "truncate": self.truncate} if self.models else {"axes": self.axes})

    def _open_dumps(self) -> DumpSource:
        return DumpSource(dump_tasks(self.inputs), self.selection, axes=self.axes, renormalise=self.renormalise)

    def _open_models(self) -> ModelSource:
        require("models", "torch", "transformers", needed_by="--model")  # or each input would fail for lack of them
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
        model_options = {
            "--columns": self.columns,
            "--id-column": self.id_column,
            "--revision": self.revision,
            "--truncate": self.truncate,
        }
        given = [name for name, value in model_options.items() if value]
        if given and not self.models:
            raise InvalidSettingsError(f"{given[0]} only applies with --model; give a model, or leave it out")
        dump_options = {"--axes": self.axes, "--renormalise": self.renormalise}
        given = [name for name, value in dump_options.items() if value]
        if given and self.models:
            raise InvalidSettingsError(f"{given[0]} only applies to dumps of attention; leave it or --model out")
        if self.limit is not None and self.sample is not None:
            raise InvalidSettingsError("--limit and --sample exclude each other; leave one of them out")


def parse_indices(text: str, *, option: str) -> tuple[int, ...]:
    """Reads "0-3,7" as (0, 1, 2, 3, 7).

    Args:
        text: Indices and ranges, separated by commas.
        option: Option that the text was given to, for messages.

    Raises:
        InvalidSettingsError: The text is not a list of indices and ranges.
    """
    compact = text.replace(" ", "")
    if not _RANGES.fullmatch(compact):
        raise InvalidSettingsError(f"{option} is {text!r}; expected indices from 0 and ranges, such as 0-3,7")
    ranges = [[int(end) for end in entry.split("-")] for entry in compact.split(",")]
    if backwards := next((ends for ends in ranges if ends[-1] < ends[0]), None):
        raise InvalidSettingsError(
            f"{option} has the range {backwards[0]}-{backwards[1]}; expected the lower index first"
        )
    return tuple(sorted({index for ends in ranges for index in range(ends[0], ends[-1] + 1)}))
