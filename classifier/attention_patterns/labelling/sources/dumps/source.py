"""Dumped attention: .npz, .npy, .safetensors, .parquet and .zarr, on this machine or behind fsspec URLs.

``attention`` is [L, L], [heads, L, L] or [layers, heads, L, L], of float16, float32 or float64, in .safetensors also
bfloat16; with five axes, [inputs, layers, heads, L, L], a file holds many inputs. It may be joined by ``tokens``
(strings), ``segments``, ``valid_length`` or ``mask`` and ``causal``, each with a leading inputs axis where the
attention has one (``causal`` may do without). Nothing is ever unpickled.

- .npy holds the attention alone.
- .npz holds arrays by these names. One of many inputs is read from front to back, after its sums were checked.
- .safetensors holds tensors by these names; ``tokens`` is a JSON list in its metadata, of lists where inputs are many.
- .zarr (formats 2 and 3) is an array, or a group of arrays by these names; chunks should be of layers of one input.
- .parquet has an input in each row, in columns of these names, and perhaps ``input_id``. ``attention`` is a
  fixed_shape_tensor, nested lists, or a flat list beside a list ``shape``. Rows are read one row group after the other,
  so row groups should be of about 128 MiB.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import prod

from attention_patterns.attention_map import AttentionMaps, read_attention, read_declaration
from attention_patterns.classification import MeasuredMaps
from attention_patterns.classifier import Classifier
from attention_patterns.errors import AttentionPatternsError, SelectionError, SourceError
from attention_patterns.labelling.sources.dumps.formats import opened_dump, told_of
from attention_patterns.labelling.sources.dumps.plan import DumpSlice, Tasks, count_inputs, plan
from attention_patterns.labelling.sources.dumps.stored import OpenDump, SlabBuffer, StoredInput, StoredMaps, check_fits
from attention_patterns.labelling.sources.files import StoredFile
from attention_patterns.labelling.sources.source import (
    FailedInput,
    InputName,
    MeasuredInput,
    Selection,
    Source,
    Unit,
    digest_of,
)

SLAB_BYTES = 8 * 2**20  # of attention read and measured at a time, or a single layer where that is larger
_REMOTE_CALLERS = 8  # reading from afar is waiting


@dataclass(frozen=True)
class DumpSource(Source):
    """Dumped attention.

    Attributes:
        tasks: names and their files, as ``dump_tasks`` finds them.
        selection: the layers and heads to label.
        only: inputs by their number in the whole job, from 0; None for all.
    """

    tasks: Tasks
    selection: Selection = field(default_factory=Selection)
    only: frozenset[int] | None = None

    def count_inputs(self) -> int:
        """How many inputs the files hold, ``only`` or not; a file that cannot be read counts as one."""
        return count_inputs(self.tasks)

    def restricted(self, ordinals: Iterable[int]) -> "DumpSource":
        """The same source with these inputs only, by their number in the whole job, from 0."""
        return replace(self, only=frozenset(ordinals))

    def fingerprint(self) -> dict[str, str]:
        """The size and time of each file, by task and URL, and what is read of them."""
        files = {
            f"{task}: {file.shown}": f"{file.size} bytes, {file.modified}"
            for task, of_task in self.tasks
            for file in of_task
        }
        return files | {"selection": repr(self.selection), "only": digest_of(self.only)}

    def callers(self) -> int:
        """One thread more than cores, so that all have work while one waits; more where files are far away."""
        wanted, remote = len(os.sched_getaffinity(0)) + 1, any(file.remote for _, files in self.tasks for file in files)
        return max(wanted, _REMOTE_CALLERS) if remote else wanted

    def units(self) -> list[Unit]:
        """Consecutive inputs of a task, up to 128 MiB of attention or 65,536 maps; ``items`` are DumpSlices."""
        return plan(self.tasks, self.selection, self.only)

    def names(self, unit: Unit) -> list[InputName]:
        """Ids are the names of files, with the number of the input where a file holds many: "dev.npy[7]"."""
        return [InputName(unit.task, one) for part in unit.items for one in part.input_ids]

    def measured(
        self, unit: Unit, classifier: Classifier, *, most_bytes: int
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        """Reads, renders and measures the inputs of a unit in their order, slab by slab.

        Args:
            unit: one of ``units``.
            classifier: renders and measures.
            most_bytes: of attention that may be in memory at once. An input that needs more fails.
        """
        names, buffer, place = self.names(unit), SlabBuffer(), 0
        for part in unit.items:
            reader = _Reader(part.file, self.selection, classifier, most_bytes, buffer)
            for outcome in reader.outcomes(part, names[place : place + len(part.indices)]):
                yield place, outcome
                place += 1


@dataclass(frozen=True)
class _Reader:
    """Reads the inputs of one file."""

    file: StoredFile
    selection: Selection
    classifier: Classifier
    most_bytes: int
    buffer: SlabBuffer

    def outcomes(self, part: DumpSlice, names: Sequence[InputName]) -> Iterator[MeasuredInput | FailedInput]:
        with ExitStack() as stack:
            try:
                dump = stack.enter_context(opened_dump(self.file, most_bytes=self.most_bytes))
            except SourceError as error:
                yield from (FailedInput(name, _bare(error)) for name in names)
                return
            for n, name in zip(part.indices, names, strict=True):
                yield self._outcome(dump, n if part.many else None, name, readable=part.readable)

    def _outcome(
        self, dump: OpenDump, n: int | None, name: InputName, *, readable: bool
    ) -> MeasuredInput | FailedInput:
        try:
            with told_of(self.file):
                if not readable:
                    dump.header()  # tells why it was not, when the run was planned
                found = dump.input(n)
            return self._measured(found, name)
        except AttentionPatternsError as error:
            return FailedInput(name, _bare(error))

    def _measured(self, found: StoredInput, name: InputName) -> MeasuredInput:
        maps = found.maps
        with told_of(self.file):
            maps.check()
            declaration = read_declaration(maps.shape[-1], **found.declared)
        layers = _chosen("layer", self.selection.layers, maps.layered[0])
        heads = _chosen("head", self.selection.heads, maps.layered[1])
        slabs = [self.classifier.measure_read(slab, declaration) for slab in self._slabs(maps, layers, heads)]
        with told_of(self.file):
            maps.finish()
        return MeasuredInput(name, MeasuredMaps.joined(slabs), layers, heads, found.warnings)

    def _slabs(self, maps: StoredMaps, layers: tuple[int, ...], heads: tuple[int, ...]) -> Iterator[AttentionMaps]:
        """Reads as many layers at a time as make a slab; each is valid until the next is read."""
        layer = len(heads) * prod(maps.shape[-2:]) * maps.dtype.itemsize
        check_fits(f"a layer of shape {[len(heads), *maps.shape[-2:]]}", layer, self.most_bytes)
        check_fits("a chunk", maps.least_bytes, self.most_bytes)
        step = min(max(SLAB_BYTES, maps.least_layers * layer), self.most_bytes) // layer or 1
        for begin in range(0, len(layers), step):
            chosen = layers[begin : begin + step]
            with told_of(self.file):
                values = maps.slab(chosen, heads, self.buffer)
            yield replace(read_attention(values, maps.data_type), axes=(chosen, heads))


def _chosen(what: str, asked: tuple[int, ...] | None, there: int) -> tuple[int, ...]:
    """The layers or heads that are labelled, rising."""
    if asked is None:
        return tuple(range(there))
    outside = [n for n in asked if not 0 <= n < there]
    if outside or not asked:
        wanted = f"{what} {outside[0]}" if outside else f"no {what}"
        raise SelectionError(f"{wanted} was asked for, the input has {what}s 0 to {there - 1}")
    return tuple(sorted(set(asked)))


def _bare(error: AttentionPatternsError) -> AttentionPatternsError:
    """The same error without its traceback, whose frames would keep the attention."""
    return type(error)(str(error))
