"""Where a transformer's attention weights leave its modules, so that each layer can be taken while it is there.

Nothing here imports torch: tensors and modules are used by their methods.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from attention_patterns.errors import ShapeError

_AXES = 4  # batch, heads, query, key
_ORDERS = tuple(itertools.permutations(range(_AXES)))  # the first leaves the axes as they are


@dataclass(frozen=True)
class Tap:
    """A place where one layer's weights leave a module.

    Attributes:
        module: its name in the model.
        call: how often the module was called before in the same forward pass; layers may share a module.
        key: of the weights in the module's output, a place or a name.
        order: the axes of the weights in the order batch, heads, query, key.
        field: of the model's output that lists the layers, "attentions" for one.
        layer: its place in that list, or its index in the model once ``numbered`` has found it.
    """

    module: str
    call: int
    key: int | str
    order: tuple[int, ...]
    field: str
    layer: int


@dataclass(frozen=True, eq=False)
class Emitted:
    """A tensor of four axes that left a module; the names are those of ``Tap``."""

    module: str
    call: int
    key: int | str
    tensor: Any


Take = Callable[[Tap, Any], None]  # told the weights of a layer, [batch, heads, L, L]


def record(model: Any, run: Callable[[], Any]) -> tuple[Any, list[Emitted]]:
    """What a run of a torch module returned, and every tensor of four axes that left one of its modules."""
    emitted: list[Emitted] = []
    with _hooked(dict(model.named_modules()), lambda name, call, output: emitted.extend(_tensors(name, call, output))):
        outputs = run()
    return outputs, emitted


def find_taps(emitted: Sequence[Emitted], field: str, layers: Sequence[Any]) -> list[Tap]:
    """Where the layers that a model returned came from; a layer may be None.

    Raises:
        ShapeError: a layer left no module.
    """
    unused = list(emitted)
    return [_tap(layer, unused, field, place) for place, layer in enumerate(layers) if layer is not None]


def numbered(model: Any, taps: Sequence[Tap], returned: int) -> tuple[list[Tap], int]:
    """The taps of a stack with the layers' indices in the model, and how many layers the model has.

    Hybrid models return their attention layers only, or None for the others. Names of modules hold the indices:
    "layers.3.self_attn". Where layers share a module they do not, and the order of the calls counts.

    Args:
        model: a torch module.
        taps: in the order in which the layers were returned.
        returned: how many entries were returned, those that are None among them.
    """
    if len(taps) < returned:
        return list(taps), returned
    names = [tap.module.split(".") for tap in taps]
    for depth in range(min(len(name) for name in names)):
        indices = [int(name[depth]) for name in names if name[depth].isdecimal()]
        if len(indices) == len(taps) and indices == sorted(set(indices)):
            stack = model.get_submodule(".".join(names[0][:depth]))
            return [replace(tap, layer=index) for tap, index in zip(taps, indices, strict=True)], len(stack)
    return list(taps), returned


@contextmanager
def tapped(model: Any, taps: Iterable[Tap], take: Take) -> Iterator[None]:
    """While it lasts, each layer's weights are given to ``take`` and then dropped from the module's output."""
    of_module: dict[str, dict[int, list[Tap]]] = defaultdict(lambda: defaultdict(list))
    for tap in taps:
        of_module[tap.module][tap.call].append(tap)

    def look(name: str, call: int, output: Any) -> Any:
        for tap in of_module[name].get(call, ()):
            found = [one.tensor for one in _tensors(name, call, output) if one.key == tap.key]
            for weights in found:  # none where the model was not told to return them
                output = _replaced(output, tap.key, weights.new_empty((0,) * _AXES))
                take(tap, weights.permute(tap.order))
        return output

    with _hooked({name: model.get_submodule(name) for name in of_module}, look):
        yield


@contextmanager
def _hooked(modules: Mapping[str, Any], look: Callable[[str, int, Any], Any]) -> Iterator[None]:
    """Has ``look`` see, and perhaps replace, each output before any other hook does."""

    def hook_of(name: str) -> Callable[..., Any]:
        calls = itertools.count()
        return lambda _module, _arguments, output: look(name, next(calls), output)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(hook_of(name), prepend=True).remove)
        yield


def _tensors(module: str, call: int, output: Any) -> Iterator[Emitted]:
    """The tensors of four axes in an output that is a tuple, list or mapping.

    A module that returns weights and nothing else, a dropout for one, returns them for the next to work with.
    """
    entries: Iterable[tuple[int | str, Any]] = ()
    if isinstance(output, dict):  # as a ModelOutput is
        entries = output.items()
    elif isinstance(output, tuple | list):
        entries = enumerate(output)
    for key, value in entries:
        if len(getattr(value, "shape", ())) == _AXES and value.is_floating_point():
            yield Emitted(module, call, key, value)


def _tap(layer: Any, unused: list[Emitted], field: str, place: int) -> Tap:
    """Where a layer came from: the first module, so the innermost, whose output holds the same values."""
    same = [one for one in unused if one.tensor is layer][:1]  # also where it holds NaN, which equals nothing
    for one in same or unused:
        order = _ORDERS[0] if same else _order(one.tensor, layer)
        if order is not None:
            found = [other for other in unused if other.tensor is one.tensor]  # modules around it pass it on
            unused[:] = [other for other in unused if other not in found]
            return Tap(one.module, one.call, one.key, order, field, place)
    raise ShapeError(
        f"{field}[{place}] of shape {list(layer.shape)} is no output of four axes of any of its modules, "
        "expected weights [batch, heads, L, L] that a module gives away"
    )


def _order(tensor: Any, layer: Any) -> tuple[int, ...] | None:
    """The order of axes in which a tensor equals a layer, or None."""
    for order in _ORDERS:
        turned = tensor.permute(order)
        if turned.shape == layer.shape and bool((turned == layer).all()):
            return order
    return None


def _replaced(output: Any, key: int | str, value: Any) -> Any:
    """The output with one entry exchanged; a mapping, which is the module's own, is changed itself."""
    if isinstance(output, dict):
        output[key] = value
        return output
    entries = [value if place == key else one for place, one in enumerate(output)]
    return entries if isinstance(output, list) else tuple(entries)
