"""The seam between sources of attention and the run: units of work, and inputs that were measured or failed."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from attention_patterns.classification import MeasuredMaps
from attention_patterns.classifier import Classifier
from attention_patterns.errors import AttentionPatternsError, SelectionError

UNIT_MAPS = 16_384  # maps per unit, or those of a single larger input: all their images may be held until it is written
EXAMPLES = 8  # inputs per task whose images are kept for the report


@dataclass(frozen=True)
class InputName:
    """The name of an input, which no other input of the run has.

    Attributes:
        task: Name of the task, by default that of the file, folder or data set.
        input_id: Id, unique within the task.
        part: "encoder" or "decoder"; None where the source does not know.
        model: The transformer's folder or its name on the hub; None for dumps.
        revision: The model's commit on the hub; None where it has none.
    """

    task: str
    input_id: str
    part: str | None = None
    model: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class MeasuredInput:
    """An input whose maps were rendered, measured and dropped.

    Attributes:
        name: Name of the input.
        maps: Measured maps [layers, heads] of the selected layers and heads, with tokens and segments in their
            declaration.
        layers: Index of each of these layers in the model.
        heads: Index of each of these heads in its layer.
        warnings: Sentences of the source, written beside those of the classifier.
    """

    name: InputName
    maps: MeasuredMaps
    layers: Sequence[int]
    heads: Sequence[int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class FailedInput:
    """An input that could not be read, run, measured or written, in place of its rows."""

    name: InputName
    error: AttentionPatternsError


def without_traceback(error: AttentionPatternsError) -> AttentionPatternsError:
    """Returns the same error without its traceback, whose frames would keep the attention in memory."""
    return type(error)(str(error))


@dataclass(frozen=True)
class Unit:
    """A piece of a run's work that is done as a whole and makes one part of the output.

    Attributes:
        number: Place in the run, from 0. The numbers of the units and the inputs in them are the same in each run with
            the same settings.
        task: Task of all its inputs.
        inputs: Number of inputs.
        maps: Expected number of rows of ``labels``.
        bytes: Number of bytes to read.
        items: Objects by which the source finds the inputs; can be pickled.
        examples: Places in the unit, from 0, of the inputs whose images are kept for the report.
    """

    number: int
    task: str
    inputs: int
    maps: int
    bytes: int
    items: tuple[Any, ...]
    examples: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class SelectedHeads:
    """The layers and heads of an input that are labelled, as rising indices in the model."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """The layers and heads to label, as indices in the model, in any order.

    Attributes:
        layers: Indices of layers; None for all.
        heads: Indices of heads in each layer; None for all.
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None

    def apply(self, layers: Sequence[int], heads: int, *, owner: str) -> SelectedHeads:
        """Returns the layers and heads that are selected of those that an input has.

        Args:
            layers: Indices of the layers that have attention, rising.
            heads: Number of heads per layer.
            owner: The thing that has them, for messages: "the input".

        Raises:
            SelectionError: A layer or head is selected that the input does not have, or none at all.
        """
        in_all = tuple(layers) == tuple(range(len(layers)))
        return SelectedHeads(
            _pick("layer", self.layers, layers, owner if in_all else f"{owner} that return attention"),
            _pick("head", self.heads, range(heads), owner),
        )

    def count(self, layers: int, heads: int) -> int:
        """Returns the number of maps that the selection takes from an input with these numbers of layers and heads."""
        layers = layers if self.layers is None else len(set(self.layers))
        heads = heads if self.heads is None else len(set(self.heads))
        return layers * heads


def _pick(kind: str, selected: tuple[int, ...] | None, present: Sequence[int], owner: str) -> tuple[int, ...]:
    """Returns the selected indices, each once and rising."""
    if selected is None:
        return tuple(present)
    missing = [index for index in selected if index not in present]
    if missing or not selected:
        gapless = present[-1] - present[0] + 1 == len(present)
        expected = f"{present[0]} to {present[-1]}" if gapless else ", ".join(map(str, present))
        wrong = f"{kind} {missing[0]}" if missing else f"no {kind}"
        raise SelectionError(f"{wrong} is selected, expected {expected}: the {kind}s of {owner}")
    return tuple(sorted(set(selected)))


def digest_of(only: frozenset[int] | None) -> str:
    """Returns a short text that stands for a choice of inputs, by their numbers; None for all."""
    if only is None:
        return "all"
    digest = hashlib.sha256(repr(sorted(only)).encode()).hexdigest()
    return f"{len(only):,} inputs, sha256 {digest}"


def spread_evenly(count: int, among: int) -> frozenset[int]:
    """Returns at most ``count`` of the places 0 to ``among`` - 1, as far from each other as possible."""
    return frozenset(n * among // count for n in range(count)) if among else frozenset()


class Source(ABC):
    """A source of attention to label. It can be pickled, and read by several threads and processes at once.

    Attributes:
        tasks: Name of each task, and the files, texts or pictures that it is made of.
        only: Numbers of the inputs to label among all inputs of the source, from 0; None for all.
        shared: Whether inputs share something, such as a model, for which all of them may fail.
    """

    tasks: tuple[tuple[str, tuple[Any, ...]], ...]
    only: frozenset[int] | None
    shared: ClassVar[bool] = False

    @abstractmethod
    def count_inputs(self) -> int:
        """Returns the number of all inputs, whether in ``only`` or not."""

    @abstractmethod
    def restrict(self, ordinals: Iterable[int]) -> Self:
        """Returns the same source with these inputs only, by their numbers among all, from 0."""

    @abstractmethod
    def units(self) -> list[Unit]:
        """Returns the work, in an order that is always the same."""

    @abstractmethod
    def names(self, unit: Unit) -> list[InputName]:
        """Returns the names of a unit's inputs, in their order."""

    def check(self, classifier: Classifier) -> None:  # noqa: B027  most sources share nothing
        """Checks, before an input is read, what the inputs share.

        Args:
            classifier: Classifier that renders and measures.

        Raises:
            SourceError: All inputs would fail for one reason.
            MissingExtraError: A package that the source needs is not installed.
        """

    def prepare(self, unit: Unit) -> int:  # noqa: ARG002  most sources have nothing to load
        """Loads what the unit needs beside its attention, such as a model, and returns the bytes of memory it holds.

        An input that fails for lack of it is yielded as failed by ``measure``.

        Raises:
            MissingExtraError: A package that the source needs is not installed.
        """
        return 0

    def callers(self) -> int:
        """Returns the number of threads that can call ``measure`` at once to good effect."""
        return len(os.sched_getaffinity(0))

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """Returns, by input file or task, a text that changes when its content does.

        No run is continued over inputs of another fingerprint.
        """

    @abstractmethod
    def measure(
        self, unit: Unit, classifier: Classifier, *, most_bytes: int
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        """Reads, renders and measures the inputs of a unit; yields each with its place in the unit, in any order.

        Args:
            unit: One of ``units``.
            classifier: Classifier that renders and measures.
            most_bytes: Bytes of attention that may be in memory at once. An input that needs more fails.
        """
