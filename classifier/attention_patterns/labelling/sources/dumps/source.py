"""Dumped attention: .npz, .npy, .safetensors, .parquet and .zarr, on this machine or behind fsspec URLs.

``attention`` is [L, L], [heads, L, L] or [layers, heads, L, L], of float16, float32 or float64, in .safetensors also
bfloat16. With five axes a file holds many inputs, [inputs, layers, heads, L, L], or layers of a batch, [layers, inputs,
heads, L, L], as ``torch.stack(outputs.attentions)`` has them: see ``layout.find_layout``. It may be joined by
``tokens`` and ``special_tokens`` (strings), ``segments``, ``valid_length`` or ``mask``, ``causal``, and ``layers``, the
index of each layer in the model where some are left out; each with a leading inputs axis where the attention has one
(``special_tokens``, ``causal`` and ``layers`` may do without). Nothing is ever unpickled.

- .npy holds the attention alone.
- .npz holds arrays by these names. One of many inputs is read from front to back, after its checksums were compared.
- .safetensors holds tensors by these names; ``tokens`` and ``special_tokens`` are JSON lists in its
  metadata, of lists where inputs are many.
- .zarr (formats 2 and 3) is an array, or a group of arrays by these names; its chunks should hold layers of one input.
- .parquet has an input in each row, in columns of these names, and perhaps ``input_id``. ``attention`` is a
  fixed_shape_tensor, nested lists, or a flat list beside a list ``shape``. Rows are read one row group after the other,
  so row groups should be of about 128 MiB.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import prod

from attention_patterns.attention_map import AttentionMaps, Declaration, read_attention, read_declaration
from attention_patterns.classification import MeasuredMaps
from attention_patterns.classifier import Classifier
from attention_patterns.errors import AttentionPatternsError, InvalidSettingsError, SourceError
from attention_patterns.labelling.sources.dumps.formats import name_in_errors, open_dump
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.dumps.plan import DumpSlice, Tasks, count_inputs, plan
from attention_patterns.labelling.sources.dumps.stored import OpenDump, SlabBuffer, StoredInput, StoredMaps, check_fits
from attention_patterns.labelling.sources.files import StoredFile
from attention_patterns.labelling.sources.source import (
    FailedInput,
    InputName,
    MeasuredInput,
    SelectedHeads,
    Selection,
    Source,
    Unit,
    digest_of,
    without_traceback,
)
from attention_patterns.row_sums import RENORMALISED, divide_rows

SLAB_BYTES = 8 * 2**20  # of attention read and measured at a time, or a single layer where that is larger
_REMOTE_CALLERS = 8  # a thread that reads a remote file mostly waits


@dataclass(frozen=True)
class DumpSource(Source):
    """Dumped attention.

    Attributes:
        tasks: Names of tasks and their files, as ``dump_tasks`` returns them.
        selection: Layers and heads to label.
        only: Numbers of the inputs to label among all, from 0; None for all.
        axes: Order of the axes of attention that has five of them; None to find it.
        renormalise: Whether each row is divided by its sum.
    """

    tasks: Tasks
    selection: Selection = field(default_factory=Selection)
    only: frozenset[int] | None = None
    axes: Axes | None = None
    renormalise: bool = False

    def count_inputs(self) -> int:
        """Returns the number of inputs in all files, in ``only`` or not; a file that cannot be read counts as one."""
        return count_inputs(self.tasks, self.axes)

    def restrict(self, ordinals: Iterable[int]) -> "DumpSource":
        """Returns the same source with these inputs only, by their numbers among all, from 0."""
        return replace(self, only=frozenset(ordinals))

    def fingerprint(self) -> dict[str, str]:
        """Returns the size and time of each file, by task and URL, and the choice of inputs, layers and heads."""
        files = {
            f"{task}: {file.shown}": f"{file.size} bytes, {file.modified}"
            for task, files in self.tasks
            for file in files
        }
        return files | {"selection": repr(self.selection), "only": digest_of(self.only)}

    def callers(self) -> int:
        """Returns one thread more than cores, so that all have work while one waits; more where files are remote."""
        threads = len(os.sched_getaffinity(0)) + 1
        remote = any(file.remote for _, files in self.tasks for file in files)
        return max(threads, _REMOTE_CALLERS) if remote else threads

    def units(self) -> list[Unit]:
        """Returns units of consecutive inputs of a task, up to 128 MiB of attention or 16,384 maps.

        Their ``items`` are DumpSlices.
        """
        return plan(self.tasks, self.selection, self.only, self.axes)

    def names(self, unit: Unit) -> list[InputName]:
        """Returns names whose ids are file names, with the input's number where a file holds many: "dev.npy[7]"."""
        return [InputName(unit.task, input_id) for piece in unit.items for input_id in piece.input_ids]

    def measure(
        self, unit: Unit, classifier: Classifier, *, most_bytes: int
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        """Reads, renders and measures the inputs of a unit in their order, slab by slab.

        Args:
            unit: One of ``units``.
            classifier: Classifier that renders and measures.
            most_bytes: Bytes of attention that may be in memory at once. An input that needs more fails.
        """
        names, buffer, place = self.names(unit), SlabBuffer(), 0
        for piece in unit.items:
            reader = _Reader(self, piece.file, classifier, most_bytes, buffer)
            for outcome in reader.read(piece, names[place : place + len(piece.indices)]):
                yield place, outcome
                place += 1


@dataclass(frozen=True)
class _Reader:
    """Reads the inputs of one file."""

    source: DumpSource
    file: StoredFile
    classifier: Classifier
    most_bytes: int
    buffer: SlabBuffer

    def read(self, piece: DumpSlice, names: Sequence[InputName]) -> Iterator[MeasuredInput | FailedInput]:
        with ExitStack() as stack:
            try:
                dump = stack.enter_context(open_dump(self.file, most_bytes=self.most_bytes, axes=self.source.axes))
            except (SourceError, InvalidSettingsError) as error:
                yield from (FailedInput(name, without_traceback(error)) for name in names)
                return
            for n, name in zip(piece.indices, names, strict=True):
                yield self._read_input(dump, n if piece.many else None, name, readable=piece.readable)

    def _read_input(
        self, dump: OpenDump, n: int | None, name: InputName, *, readable: bool
    ) -> MeasuredInput | FailedInput:
        try:
            with name_in_errors(self.file):
                if not readable:
                    dump.header()  # fails again, by the reason that it failed for when the run was planned
                stored = dump.input(n)
            return self._measure(stored, name)
        except AttentionPatternsError as error:
            return FailedInput(name, without_traceback(error))

    def _measure(self, stored: StoredInput, name: InputName) -> MeasuredInput:
        maps = stored.maps
        with name_in_errors(self.file):
            maps.check()
            indices = _indices_of(stored)
        selected = self.source.selection.apply(indices, maps.layered[1], owner="the input")
        layer = self._check_memory(maps, selected)
        with name_in_errors(self.file):
            declared = {name: value for name, value in stored.declared.items() if name != "layers"}
            declaration = read_declaration(maps.shape[-1], **declared)
        slabs = [
            self.classifier.measure_read(self._divide(slab, declaration), declaration)
            for slab in self._slabs(maps, indices, selected, layer)
        ]
        with name_in_errors(self.file):
            maps.finish()
        warnings = (*stored.warnings, *((RENORMALISED,) if self.source.renormalise else ()))
        return MeasuredInput(name, MeasuredMaps.join(slabs), selected.layers, selected.heads, warnings)

    def _divide(self, maps: AttentionMaps, declaration: Declaration) -> AttentionMaps:
        return divide_rows(maps, declaration) if self.source.renormalise else maps

    def _check_memory(self, maps: StoredMaps, selected: SelectedHeads) -> int:
        """Returns the bytes of a layer, once it is known that these may be in memory, from the shape alone."""
        layer = len(selected.heads) * prod(maps.shape[-2:]) * maps.dtype.itemsize * (1 + self.source.renormalise)
        with name_in_errors(self.file):
            check_fits(f"a layer of shape {[len(selected.heads), *maps.shape[-2:]]}", layer, self.most_bytes)
            check_fits("a Zarr chunk", maps.least_bytes, self.most_bytes)
        return layer

    def _slabs(
        self, maps: StoredMaps, indices: Sequence[int], selected: SelectedHeads, layer: int
    ) -> Iterator[AttentionMaps]:
        """Reads as many layers, of so many bytes, at a time as make a slab; each is valid until the next is read."""
        layers, heads = selected.layers, selected.heads
        step = min(max(SLAB_BYTES, maps.least_layers * layer), self.most_bytes) // layer or 1
        for begin in range(0, len(layers), step):
            some = layers[begin : begin + step]
            with name_in_errors(self.file):
                values = maps.slab([indices.index(index) for index in some], heads, self.buffer)
            yield replace(read_attention(values, maps.data_type), axes=(some, heads))


def _indices_of(stored: StoredInput) -> Sequence[int]:
    """Returns the index of each layer in the model.

    Raises:
        SourceError: The file names more or fewer layers than it holds.
    """
    count = stored.maps.layered[0]
    indices: Sequence[int] = stored.declared.get("layers", range(count))
    if len(indices) != count:
        raise SourceError(f"layers names {len(indices)} layers, expected one index for each of {count}")
    return indices
