"""The places where a transformer's attention weights leave its modules, to take each layer while it is there.

Nothing here imports torch: tensors and modules are used by their methods.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from attention_patterns.errors import ShapeError

Key = tuple[int | str, ...]
_AXES = 4  # batch, heads, query, key
_ORDERS = tuple(itertools.permutations(range(_AXES)))  # the first leaves the axes as they are


@dataclass(frozen=True)
class Tap:
    """A place where one layer's weights leave a module.

    Attributes:
        module: Name of the module in the model.
        call: Number of earlier calls of the module in the same forward pass; layers may share a module.
        key: Place or name of the weights in the module's output; two of them where they are in a list inside it.
        order: Axes of the weights in the order batch, heads, query, key.
        field: Field of the model's output that lists the layers, such as "attentions".
        layer: Place of the layer in that list, or its index in the model once ``number_layers`` has found it.
    """

    module: str
    call: int
    key: Key
    order: tuple[int, ...]
    field: str
    layer: int


@dataclass(frozen=True, eq=False)
class Emitted:
    """A tensor of four axes that left a module; the names are those of ``Tap``."""

    module: str
    call: int
    key: Key
    tensor: Any


Take = Callable[[Tap, Any], None]  # receives the weights of a layer, [batch, heads, L, L]


def record(model: Any, run: Callable[[], Any]) -> tuple[Any, list[Emitted]]:
    """Runs a torch module; returns its output, and every tensor of four axes that left one of its modules."""
    emitted: list[Emitted] = []
    with _hook(dict(model.named_modules()), lambda name, call, output: emitted.extend(_tensors(name, call, output))):
        outputs = run()
    return outputs, emitted


def find_taps(emitted: Sequence[Emitted], field: str, layers: Sequence[Any], *, depth: int = 0) -> list[Tap]:
    """Returns the places that the layers returned by a model came from; a layer may be None.

    Args:
        emitted: Tensors that left the modules, from the inside out; those of the model itself hold every layer.
        field: Field of the model's output that lists the layers.
        layers: Layers as the model returned them.
        depth: Number of inner places to pass over, of each layer that passes through so many.
    """
    unused = list(emitted)
    return [_find_tap(layer, unused, field, place, depth) for place, layer in enumerate(layers) if layer is not None]


def number_layers(model: Any, taps: Sequence[Tap], returned: int) -> tuple[tuple[int, ...], int]:
    """Returns the indices in the model of the layers of a stack, and the number of layers of the model.

    Hybrid models return their attention layers only, or None for the others. Names of modules hold the indices:
    "layers.3.self_attn". Where layers share a module they do not, and the order of the calls counts.

    Args:
        model: Torch module.
        taps: Innermost taps, in the order in which the layers were returned.
        returned: Number of entries that were returned, those that are None among them.
    """
    places = tuple(tap.layer for tap in taps)
    if len(taps) < returned:
        return places, returned
    names = [tap.module.split(".") for tap in taps]
    for depth in range(min(len(name) for name in names)):
        indices = tuple(int(name[depth]) for name in names if name[depth].isdecimal())
        if len(indices) == len(taps) and list(indices) == sorted(set(indices)):
            return indices, len(model.get_submodule(".".join(names[0][:depth])))
    return places, returned


@contextmanager
def tap_layers(model: Any, taps: Iterable[Tap], take: Take) -> Iterator[None]:
    """Gives each layer's weights to ``take`` while inside, and drops them from the module's output."""
    of_module: dict[str, dict[int, list[Tap]]] = defaultdict(lambda: defaultdict(list))
    for tap in taps:
        of_module[tap.module][tap.call].append(tap)

    def look(name: str, call: int, output: Any) -> Any:
        for tap in of_module[name].get(call, ()):
            tensors = [emitted.tensor for emitted in _tensors(name, call, output) if emitted.key == tap.key]
            for weights in tensors:  # none where the model returns them only with output_attentions=True
                output = _replace(output, tap.key, weights.new_empty((0,) * _AXES))
                take(tap, weights.permute(tap.order))
        return output

    with _hook({name: model.get_submodule(name) for name in of_module}, look):
        yield


@contextmanager
def _hook(modules: Mapping[str, Any], look: Callable[[str, int, Any], Any]) -> Iterator[None]:
    """Has ``look`` see, and perhaps replace, each output before any other hook does."""

    def make_hook(name: str) -> Callable[..., Any]:
        calls = itertools.count()
        return lambda _module, _arguments, output: look(name, next(calls), output)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(make_hook(name), prepend=True).remove)
        yield


def _tensors(module: str, call: int, output: Any, path: Key = ()) -> Iterator[Emitted]:
    """Yields the tensors of four axes in an output that is a tuple, list or mapping, and in the lists inside it.

    A module that returns weights and nothing else, such as a dropout, returns them for the next to work with.
    """
    entries: Iterable[tuple[int | str, Any]] = ()
    if isinstance(output, dict):  # as a ModelOutput is
        entries = output.items()
    elif isinstance(output, tuple | list):
        entries = enumerate(output)
    for key, value in entries:
        if isinstance(value, tuple | list) and not path:
            yield from _tensors(module, call, value, (key,))
        elif len(getattr(value, "shape", ())) == _AXES and value.is_floating_point():
            yield Emitted(module, call, (*path, key), value)


def _find_tap(layer: Any, unused: list[Emitted], field: str, place: int, depth: int) -> Tap:
    """Returns a place that a layer came from: ``depth`` modules outside the innermost whose output holds its values."""
    found = list(itertools.islice(_find_places(layer, unused, place), depth + 1))
    if not found:
        raise ShapeError(f"{field}[{place}] has shape {list(layer.shape)}, expected weights [batch, heads, query, key]")
    emitted, order = found[-1]
    # No other layer came from there; but the lists of layers may hold one tensor twice.
    unused[:] = [other for other in unused if other.tensor is not emitted.tensor or _in_list(other)]
    return Tap(emitted.module, emitted.call, emitted.key, order, field, place)


def _find_places(layer: Any, emitted: Sequence[Emitted], place: int) -> Iterator[tuple[Emitted, tuple[int, ...]]]:
    """Yields the places that hold a layer, and the order of its axes there; the model's own list comes last."""
    same = [each for each in emitted if each.tensor is layer]  # also where it holds NaN, equal to nothing
    passed = [(each, _ORDERS[0]) for each in same if not _in_list(each)]
    yield from passed
    if not passed:
        others = (each for each in emitted if not _in_list(each))
        yield from ((each, order) for each in others if (order := _find_order(each.tensor, layer)) is not None)
    yield from ((each, _ORDERS[0]) for each in same if _in_list(each) and each.key[-1] == place)


def _in_list(emitted: Emitted) -> bool:
    """Returns whether a tensor left a module in the list of all layers."""
    return len(emitted.key) > 1


def _find_order(tensor: Any, layer: Any) -> tuple[int, ...] | None:
    """Returns the order of axes in which a tensor equals a layer, or None."""
    for order in _ORDERS:
        turned = tensor.permute(order)
        if turned.shape == layer.shape and bool((turned == layer).all()):
            return order
    return None


def _replace(output: Any, key: Key, value: Any) -> Any:
    """Returns the output with one entry replaced; a mapping, which is the module's own, is changed itself."""
    first, *rest = key
    value = _replace(output[first], tuple(rest), value) if rest else value
    if isinstance(output, dict):
        output[first] = value
        return output
    entries = [value if place == first else entry for place, entry in enumerate(output)]
    return entries if isinstance(output, list) else tuple(entries)
