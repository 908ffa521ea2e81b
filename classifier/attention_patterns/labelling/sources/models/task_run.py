"""One run of a model over inputs of a task: the selected layers and heads of its stacks, and the outcome per input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attention_patterns.attention_map import Declaration, read_declaration
from attention_patterns.classification import MeasuredMaps
from attention_patterns.classifier import Classifier
from attention_patterns.errors import AttentionPatternsError, SelectionError
from attention_patterns.labelling.sources.models.encodings import Encoded
from attention_patterns.labelling.sources.models.slabs import SINK, LayerStack, SideBySide, Slabs
from attention_patterns.labelling.sources.source import (
    FailedInput,
    InputName,
    MeasuredInput,
    SelectedHeads,
    Selection,
    without_traceback,
)

Outcome = MeasuredMaps | AttentionPatternsError


@dataclass(frozen=True)
class SelectedStack:
    """A stack of a model, and the selection applied to it.

    Attributes:
        stack: The stack.
        selected: Layers and heads to label; none where the selection does not fit the stack.
        error: The error of a selection that does not fit.
    """

    stack: LayerStack
    selected: SelectedHeads
    error: SelectionError | None = None

    @classmethod
    def select(cls, stack: LayerStack, selection: Selection, *, model: str) -> "SelectedStack":
        """Applies a selection to a stack of a model."""
        try:
            return cls(stack, selection.apply(stack.layers, stack.heads, owner=f"the {stack.name} of {model}"))
        except SelectionError as error:
            return cls(stack, SelectedHeads((), ()), SelectionError(str(error)))


@dataclass(frozen=True)
class TaskRun:
    """One run of a model over inputs of a task.

    Attributes:
        task: Task of the inputs.
        model: Name of the model.
        revision: The model's commit on the hub; None for a folder.
        stacks: Stacks of the model, each with the selection.
        classifier: Classifier that renders and measures.
        side_by_side: Function that calls another for each input, side by side.
        most_held: Bytes of layers that may be held before they are measured.
        start: Token that a decoder is fed first, of an encoder-decoder; else ().
        special_tokens: Special tokens of the tokenizer.
    """

    task: str
    model: str
    revision: str | None
    stacks: Sequence[SelectedStack]
    classifier: Classifier
    side_by_side: SideBySide
    most_held: int
    start: tuple[str, ...]
    special_tokens: frozenset[str]

    def name(self, input_id: str, part: str | None = None) -> InputName:
        """Returns the name of an input."""
        return InputName(self.task, input_id, part, self.model, self.revision)

    def slabs(self, batch: Sequence[Encoded]) -> dict[str, Slabs]:
        """Makes, by the field of the model's output, the slabs of each stack that the selection fits."""
        return {
            each.stack.field: Slabs(
                each.stack,
                each.selected,
                [self._declaration(encoded, each.stack) for encoded in batch],
                classifier=self.classifier,
                run=self.side_by_side,
                most_held=self.most_held,
            )
            for each in self.stacks
            if each.error is None
        }

    def outcomes(self, slabs: Mapping[str, Slabs], count: int) -> list[tuple[Outcome, ...]]:
        """Returns for each of ``count`` inputs the outcome of each stack.

        Raises:
            SourceError: A layer is missing.
        """
        columns = [
            slabs[each.stack.field].outcomes() if each.error is None else [each.error] * count for each in self.stacks
        ]
        return list(zip(*columns, strict=True))

    def failure(self, error: AttentionPatternsError) -> tuple[Outcome, ...]:
        """Returns the outcome of each stack for an input that the model failed for."""
        return tuple(each.error or without_traceback(error) for each in self.stacks)

    def results(self, encoded: Encoded, outcomes: Sequence[Outcome]) -> list[MeasuredInput | FailedInput]:
        """Returns the outcomes of an input as the run takes them, one for each stack."""
        return [self._result(encoded, each, outcome) for each, outcome in zip(self.stacks, outcomes, strict=True)]

    def _result(self, encoded: Encoded, each: SelectedStack, outcome: Outcome) -> MeasuredInput | FailedInput:
        name = self.name(encoded.input_id, each.stack.name)
        if isinstance(outcome, AttentionPatternsError):
            return FailedInput(name, outcome)
        warnings = (*encoded.warnings, *each.stack.warnings)
        return MeasuredInput(name, outcome, each.selected.layers, each.selected.heads, warnings)

    def _declaration(self, encoded: Encoded, stack: LayerStack) -> Declaration:
        tokens, segments = encoded.tokens, encoded.segments
        if stack.field == "decoder_attentions":  # fed the same ids one place later
            tokens = None if tokens is None else (*self.start, *tokens[:-1])
            segments = None if segments is None else np.concatenate([segments[:1], segments[:-1]])
        sink = {SINK: [0]} if stack.sink else {}
        if stack.sink:
            tokens = None if tokens is None else (SINK, *tokens)
            segments = None if segments is None else np.concatenate([segments[:1], segments])
        return read_declaration(
            encoded.length + len(sink),
            tokens=tokens,
            special_tokens=self.special_tokens,
            token_groups=sink,
            segments=segments,
            causal=stack.causal,
        )
