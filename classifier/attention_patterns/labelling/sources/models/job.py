"""What a model is asked for the inputs of a task, and what comes of each batch of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attention_patterns.attention_map import Declaration, read_declaration
from attention_patterns.classification import MeasuredMaps
from attention_patterns.classifier import Classifier
from attention_patterns.errors import AttentionPatternsError, SelectionError
from attention_patterns.labelling.sources.models.encodings import Encoded
from attention_patterns.labelling.sources.models.slabs import Part, SideBySide, Slabs, Wanted, wanted
from attention_patterns.labelling.sources.source import FailedInput, InputName, MeasuredInput, Selection

Outcome = MeasuredMaps | AttentionPatternsError


@dataclass(frozen=True)
class Job:
    """What a model is asked for the inputs of a task.

    Attributes:
        task: that the inputs are of.
        model: its name; ``revision`` its commit on the hub.
        revision: None for a folder.
        parts: of the model.
        selection: the layers and heads to label.
        classifier: renders and measures.
        run: calls a function for each input, side by side.
        most_held: bytes of layers that may be held before they are measured.
        start: the token that a decoder is fed first, of an encoder-decoder.
    """

    task: str
    model: str
    revision: str | None
    parts: Sequence[Part]
    selection: Selection
    classifier: Classifier
    run: SideBySide
    most_held: int
    start: tuple[str, ...]

    def named(self, input_id: str, part: str | None = None) -> InputName:
        """The name of an input."""
        return InputName(self.task, input_id, part, self.model, self.revision)

    def slabs(self, batch: Sequence[Encoded]) -> dict[str, Slabs]:
        """By the field of the model's output, what takes the layers of each part that can be labelled."""
        return {
            one.part.field: Slabs(
                one,
                [self._declaration(text, one.part) for text in batch],
                classifier=self.classifier,
                run=self.run,
                most_held=self.most_held,
            )
            for one in map(self._wanted, self.parts)
            if isinstance(one, Wanted)
        }

    def outcomes(self, slabs: Mapping[str, Slabs], count: int) -> list[tuple[Outcome, ...]]:
        """For each of ``count`` inputs what came of each part.

        Raises:
            SourceError: a layer did not come.
        """
        columns = [
            slabs[part.field].outcomes() if isinstance(one, Wanted) else [one] * count
            for part, one in zip(self.parts, map(self._wanted, self.parts), strict=True)
        ]
        return list(zip(*columns, strict=True))

    def results(self, one: Encoded, outcomes: Sequence[Outcome]) -> list[MeasuredInput | FailedInput]:
        """What came of an input, as the run takes it."""
        return [self._result(one, part, outcome) for part, outcome in zip(self.parts, outcomes, strict=True)]

    def _result(self, one: Encoded, part: Part, outcome: Outcome) -> MeasuredInput | FailedInput:
        name, asked = self.named(one.input_id, part.name), self._wanted(part)
        if isinstance(asked, SelectionError):
            return FailedInput(name, asked)
        if isinstance(outcome, AttentionPatternsError):
            return FailedInput(name, outcome)
        return MeasuredInput(name, outcome, asked.layers, asked.heads, (*one.warnings, *part.warnings))

    def _wanted(self, part: Part) -> Wanted | SelectionError:
        try:
            return wanted(part, self.selection, model=self.model)
        except SelectionError as error:
            return error

    def _declaration(self, one: Encoded, part: Part) -> Declaration:
        tokens, segments = one.tokens, one.segments
        if part.field == "decoder_attentions":  # fed the same ids one place later
            tokens = None if tokens is None else (*self.start, *tokens[:-1])
            segments = None if segments is None else np.concatenate([segments[:1], segments[:-1]])
        return read_declaration(one.length, tokens=tokens, segments=segments, causal=part.causal)
