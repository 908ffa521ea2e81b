"""The layout of attention in a file: which of five axes counts the inputs, found in the declarations beside it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from attention_patterns.attention_map import MANY
from attention_patterns.errors import InvalidSettingsError, SourceError
from attention_patterns.labelling.sources.dumps.stored import OF_MODEL, DumpHeader

_ONE_AXIS = ("tokens", "segments", "mask", "layers", "special_tokens")
_AXES_OF_DECLARATIONS = dict.fromkeys(_ONE_AXIS, 1) | {"valid_length": 0, "causal": 0}  # of one input


class Axes(StrEnum):
    """The order of the axes before L x L, where attention has five."""

    INPUTS_FIRST = "inputs,layers,heads"
    LAYERS_FIRST = "layers,inputs,heads"  # as torch.stack(outputs.attentions) has it


@dataclass(frozen=True)
class Layout:
    """The place of each input in the attention of a file.

    Attributes:
        shape: Shape of the attention.
        axes: Order of its five axes; None of fewer axes, which hold one input.
        warnings: Sentences on how the axes were read.
    """

    shape: tuple[int, ...]
    axes: Axes | None = None
    warnings: tuple[str, ...] = ()

    @property
    def inputs(self) -> int | None:
        """The number of inputs; None for a single one, whether the shape has an axis for it or not."""
        if self.axes is None or (self.axes is Axes.LAYERS_FIRST and self.shape[1] == 1):
            return None
        return self.shape[self.axes is Axes.LAYERS_FIRST]

    @property
    def of_input(self) -> tuple[int, ...]:
        """The shape of the attention of one input."""
        return self.without_inputs(self.shape)

    def without_inputs(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the sizes of something along each axis, such as of chunks, without that along the axis of inputs."""
        if self.axes is None:
            return sizes
        place = int(self.axes is Axes.LAYERS_FIRST)
        return sizes[:place] + sizes[place + 1 :]

    def place(self, inner: Sequence[Any], n: int | None) -> tuple[Any, ...]:
        """Returns indices in an input's own axes as those in the file, with that of input ``n``, or of the only one."""
        if self.axes is None:
            return tuple(inner)
        if self.axes is Axes.INPUTS_FIRST:
            return (n or 0, *inner)
        return (inner[0], n or 0, *inner[1:])

    def maps(self, n: int | None) -> tuple[int, int]:
        """Returns the number of the first map of an input among all, and that of maps from one layer to the next."""
        layers, heads = ((1,) * 4 + self.of_input)[-4:-2]
        if self.axes is Axes.LAYERS_FIRST:
            return (n or 0) * heads, self.shape[1] * heads
        return (n or 0) * layers * heads, heads

    def header(self, itemsize: int, *, one_by_one: bool = False) -> DumpHeader:
        """Returns the header of the file.

        Args:
            itemsize: Bytes per value.
            one_by_one: Whether its inputs can only be read one after the other.

        Raises:
            SourceError: The file holds no inputs, or too many.
        """
        if self.inputs == 0:
            raise SourceError(f"attention has shape {list(self.shape)}, expected at least one input")
        layers, heads, length, _ = ((1,) * 4 + self.of_input)[-4:]
        groups = (self.inputs,) if self.inputs is not None and one_by_one else ()
        return DumpHeader(self.inputs, layers, heads, length, itemsize, groups)

    def check_place(self, n: int | None) -> None:
        """Checks that input ``n``, or a single one, is in the file.

        Raises:
            SourceError: The file changed since the work was planned.
        """
        if (n is None) == (self.inputs is not None) or (n is not None and n >= (self.inputs or 0)):
            planned = "one input" if n is None else f"an input {n}"
            raise SourceError(f"attention has shape {list(self.shape)}, but held {planned} when the run was planned")

    def entry(self, name: str, shape: tuple[int, ...], n: int | None) -> int | None:
        """Returns the entry of a declaration that belongs to input ``n``; None where all of the declaration does.

        Raises:
            SourceError: The axis of inputs is missing or of another size; only those of the model may do without.
        """
        of_one = len(shape) <= _AXES_OF_DECLARATIONS[name]
        if self.axes is None or (of_one and (name in OF_MODEL or self.inputs in (None, 1))):
            return None
        if self.inputs is None:
            return 0
        if shape[:1] != (self.inputs,):
            raise SourceError(f"{name} has shape {list(shape)}, expected {self.inputs} inputs first")
        return n


def find_layout(
    subject: str, shape: tuple[int, ...], declared: Mapping[str, tuple[int, ...]], axes: Axes | None
) -> Layout:
    """Returns the layout of attention in a file.

    The declarations beside it show which axis counts the inputs: their first, or none where they are of one input. If
    they leave it open, an axis of one in the second place is that of a batch, which is said in a warning.

    Args:
        subject: File, for messages.
        shape: Shape of the attention.
        declared: Shapes of the declarations by name.
        axes: Order of five axes; None to find it.

    Raises:
        InvalidSettingsError: The order is not given and cannot be known.
    """
    if len(shape) != MANY:
        return Layout(shape)
    if axes is not None:
        return Layout(shape, axes)
    fitting = [order for order in Axes if _fit(declared.items(), Layout(shape, order))]
    if len(fitting) == 1:
        return Layout(shape, fitting[0])
    if fitting and shape[1] == 1:
        warning = (
            f"attention of shape {list(shape)} was read as layers of one input, as of torch.stack(outputs.attentions); "
            f"for {shape[0]:,} inputs of one layer give --axes {Axes.INPUTS_FIRST}"
        )
        return Layout(shape, Axes.LAYERS_FIRST, (warning,))
    raise InvalidSettingsError(
        f"{subject} holds attention of shape {list(shape)}, which may be [inputs, layers, heads, L, L] or [layers, "
        f"inputs, heads, L, L], as of torch.stack(outputs.attentions); give --axes {Axes.INPUTS_FIRST} or --axes "
        f"{Axes.LAYERS_FIRST}"
    )


def _fit(declared: Iterable[tuple[str, tuple[int, ...]]], layout: Layout) -> bool:
    """Returns whether each declaration is of all inputs of the layout, or of its only one."""
    count = layout.shape[layout.axes is Axes.LAYERS_FIRST]
    sizes = [(shape[0] if len(shape) > _AXES_OF_DECLARATIONS[name] else None, name) for name, shape in declared]
    return all(size == count if size is not None else count == 1 or name in OF_MODEL for size, name in sizes)
