"""What passes between the sources of attention and the run: units of work, and inputs that were measured or failed."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from attention_patterns.classification import MeasuredMaps
from attention_patterns.classifier import Classifier
from attention_patterns.errors import AttentionPatternsError

UNIT_MAPS = 16_384  # of a unit at most, or of a single input: their images may all be kept until it is written
EXAMPLES = 8  # inputs of a task whose images are kept for the report


@dataclass(frozen=True)
class InputName:
    """What tells an input from all others of a run.

    Attributes:
        task: the file, folder or data set it comes from, by the name it was given.
        input_id: unique within the task.
        part: "encoder" or "decoder"; None where the source does not tell.
        model: the transformer's folder or name on the hub; None for dumps.
        revision: the commit of the model on the hub; None where it has none.
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
        name: which input it is.
        maps: of shape [layers, heads] of those that were asked for; tokens and segments are in its declaration.
        layers: the index of each of these layers in the model.
        heads: likewise of each head.
        warnings: sentences of the source, written beside those of the classifier.
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


@dataclass(frozen=True)
class Unit:
    """A piece of the work that is done as a whole: it makes one part of the output.

    Attributes:
        number: its place in the run, from 0; the numbers of units and the inputs in them never change between runs
            of the same job.
        task: of all its inputs.
        inputs: how many inputs it has.
        maps: how many rows it is going to make, as far as can be told.
        bytes: how much it reads.
        examples: the places of the inputs, from 0, whose images are kept for the report.
        items: what the source needs to find the inputs; may be pickled.
    """

    number: int
    task: str
    inputs: int
    maps: int
    bytes: int
    items: tuple[Any, ...]
    examples: frozenset[int] = field(default_factory=frozenset)


def digest_of(only: frozenset[int] | None) -> str:
    """Which inputs are labelled, in a few words."""
    if only is None:
        return "all"
    digest = hashlib.sha256(repr(sorted(only)).encode()).hexdigest()
    return f"{len(only):,} inputs, sha256 {digest}"


@dataclass(frozen=True)
class Selection:
    """Which layers and heads to label, as indices in the model; None for all."""

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None


def spread_evenly(count: int, among: int) -> frozenset[int]:
    """At most ``count`` places among ``among``, from 0, as far from each other as can be."""
    return frozenset(n * among // count for n in range(count)) if among else frozenset()


class Source(ABC):
    """Attention to label. It may be pickled, and read by several threads and processes at once.

    Attributes:
        only: the inputs to label, by their number in the whole job, from 0; None for all.
    """

    only: frozenset[int] | None

    @abstractmethod
    def count_inputs(self) -> int:
        """How many inputs there are in the whole job, ``only`` or not."""

    @abstractmethod
    def restricted(self, ordinals: Iterable[int]) -> Self:
        """The same source with these inputs only, by their number in the whole job, from 0."""

    @abstractmethod
    def units(self) -> list[Unit]:
        """The work, in an order that is always the same."""

    @abstractmethod
    def names(self, unit: Unit) -> list[InputName]:
        """The inputs of a unit, in order."""

    def prepare(self, unit: Unit) -> int:  # noqa: ARG002  most sources have nothing to load
        """Loads what the unit needs beside its attention, say a model, and gives the bytes of memory it holds.

        What fails is told by ``measured``.
        """
        return 0

    def callers(self) -> int:
        """How many threads may call ``measured`` at once to good effect."""
        return len(os.sched_getaffinity(0))

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """Input file or task -> what changes when it does, so that no run is continued over other inputs."""

    @abstractmethod
    def measured(
        self, unit: Unit, classifier: Classifier, *, most_bytes: int
    ) -> Iterator[tuple[int, MeasuredInput | FailedInput]]:
        """Reads, renders and measures the inputs of a unit; each comes with its place in the unit, in any order.

        Args:
            unit: one of ``units``.
            classifier: renders and measures.
            most_bytes: of attention that may be in memory at once. An input that needs more fails.
        """
