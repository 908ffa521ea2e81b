"""The figures of Kovaleva et al. 2019, "Revealing the Dark Secrets of BERT", beside those of a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attention_patterns.errors import InvalidSettingsError
from attention_patterns.patterns import PATTERNS, Pattern

LAYERS, HEADS = 12, 12  # of BERT-base

# Figure 2, per cent of the maps in the order of ``Pattern``, read from the plot to 0.5 points.
SHARES = MappingProxyType(
    {
        "MRPC": (41.8, 7.2, 18.8, 4.3, 27.9),
        "STS-B": (28.8, 4.3, 7.7, 6.2, 52.9),
        "SST-2": (36.1, 5.8, 13.0, 4.3, 40.9),
        "QQP": (25.0, 7.2, 6.7, 2.9, 58.2),
        "RTE": (40.9, 6.2, 13.9, 3.8, 35.1),
        "QNLI": (34.1, 4.8, 23.1, 2.9, 35.1),
        "MNLI": (22.1, 4.8, 12.0, 2.9, 58.2),
    }
)
# Attention by layer of the pre-trained bert-base-uncased to [SEP] and [CLS] on 1,000 pairs of QQP, mean over heads and
# pairs.
TO_SEP = (0.07, 0.08, 0.08, 0.16, 0.29, 0.32, 0.33, 0.34, 0.37, 0.38, 0.45, 0.37)
TO_CLS = (0.12, 0.38, 0.33, 0.21, 0.04)
TO_CLS_AT_MOST = 0.02  # in each layer above these

_OTHER_NAMES = {"STS": "STS-B", "SST": "SST-2", "MNLIM": "MNLI", "MNLIMATCHED": "MNLI"}
_SINGLE_SENTENCES = "SST-2"
_HETEROGENEOUS, _BLOCK = PATTERNS.index(Pattern.HETEROGENEOUS), PATTERNS.index(Pattern.BLOCK)


@dataclass(frozen=True)
class _Run:
    """The run that is compared; its attributes are arguments of ``compare``."""

    task: str
    shares: Sequence[float]
    inputs: int
    model: str | None
    model_layers: int | None
    model_heads: int | None


def paper_task(name: str) -> str:
    """Returns the paper's name of a task, which may be spelt "stsb", "sst2", "mnli-m" or "glue/qqp" as well.

    Raises:
        InvalidSettingsError: The paper has no such task.
    """
    names = {_simplify(task): task for task in SHARES} | _OTHER_NAMES
    try:
        return names[_simplify(name.rpartition("/")[2])]
    except KeyError:
        raise InvalidSettingsError(f"task {name!r} is not in the paper; expected one of {', '.join(SHARES)}") from None


def _simplify(name: str) -> str:
    return "".join(letter for letter in name.upper() if letter.isalnum())


def compare(
    task: str,
    *,
    shares: Sequence[float],
    inputs: int,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    to_cls: Sequence[float | None] | None = None,
    to_sep: Sequence[float | None] | None = None,
    layers: Sequence[int] | None = None,
    model: str | None = None,
    model_layers: int | None = None,
    model_heads: int | None = None,
) -> Group:
    """Returns two tables of a run's figures beside the paper's, and sentences on the differences in method, to print.

    Args:
        task: Task of the paper, as ``paper_task`` takes it.
        shares: Shares of the five patterns in the order of ``Pattern``, 0 to 1.
        inputs: Number of inputs of the run.
        low: Lower ends of the intervals of ``shares``, 0 to 1.
        high: Upper ends of the intervals of ``shares``, 0 to 1.
        to_cls: ``max_token_share`` of [CLS] by layer, mean over heads and inputs, 0 to 1; None or NaN for a layer
            without it.
        to_sep: ``max_token_share`` of [SEP] by layer, in the same form.
        layers: Index in the model of each layer of ``to_cls`` and ``to_sep``; 0, 1, ... by default.
        model: Name of the model, for the text.
        model_layers: Number of layers of the model; by default, if ``layers`` are not given, the number of values.
        model_heads: Number of heads per layer of the model; None where it is not known.

    Raises:
        InvalidSettingsError: The paper has no such task.
    """
    if model_layers is None and layers is None and (given := to_cls if to_sep is None else to_sep) is not None:
        model_layers = len(given)
    run = _Run(paper_task(task), shares, inputs, model, model_layers, model_heads)
    blocks: list[RenderableType] = [
        _heading(f"Patterns on {run.task}, per cent of the maps"),
        _share_table(run.task, shares, low, high),
    ]
    if to_cls is not None or to_sep is not None:
        blocks += [
            _heading("\nAttention by layer, mean over heads and inputs (max_token_share)"),
            _layer_table(_by_layer(to_cls, layers), _by_layer(to_sep, layers)),
        ]
    layer_sentences = [] if to_cls is None and to_sep is None else _compare_layers(run)
    sentences = [*_compare_shares(run), *layer_sentences]
    return Group(*blocks, _heading("\nDifferences in method"), *map(_bullet, sentences))


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _bullet(sentence: str) -> Table:
    """Returns a sentence that wraps beside its dash."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row("-", Text(sentence, overflow="fold"))
    return grid


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _share_table(
    task: str, shares: Sequence[float], low: Sequence[float] | None, high: Sequence[float] | None
) -> Table:
    intervals = [] if low is None or high is None else [*zip(low, high, strict=True)]
    table = _table("pattern", "this run", *(["interval"] if intervals else []), "paper", "difference")
    for place, (pattern, own, theirs) in enumerate(zip(PATTERNS, shares, SHARES[task], strict=True)):
        interval = [f"{100 * low:.1f} to {100 * high:.1f}" for low, high in intervals[place : place + 1]]
        table.add_row(str(pattern), f"{100 * own:.1f}", *interval, f"{theirs:.1f}", f"{100 * own - theirs:+.1f}")
    return table


def _by_layer(values: Sequence[float | None] | None, layers: Sequence[int] | None) -> dict[int, float]:
    """Returns layer -> value, of the layers that have one."""
    given = [] if values is None else values
    places = range(len(given)) if layers is None or values is None else layers
    pairs = zip(places, given, strict=True)
    return {layer: value for layer, value in pairs if value is not None and not math.isnan(value)}


def _layer_table(to_cls: dict[int, float], to_sep: dict[int, float]) -> Table:
    groups = [heading for name in ("[CLS]", "[SEP]") for heading in (f"{name}\nthis run", "\npaper", "\ndifference")]
    table = _table("\nlayer", *groups)
    for layer in sorted({*range(LAYERS), *to_cls, *to_sep}):
        most = TO_CLS_AT_MOST if len(TO_CLS) <= layer < LAYERS else None
        cls = _cells(to_cls.get(layer), _at(TO_CLS, layer), at_most=most)
        table.add_row(str(layer), *cls, *_cells(to_sep.get(layer), _at(TO_SEP, layer)))
    return table


def _at(values: Sequence[float], layer: int) -> float | None:
    return values[layer] if layer < len(values) else None


def _cells(own: float | None, theirs: float | None, *, at_most: float | None = None) -> tuple[str, str, str]:
    """Returns the run's value, the paper's and their difference; above an upper bound, the distance from that."""
    text = "" if own is None else f"{own:.2f}"
    if at_most is not None:
        above = _format_difference(own - at_most) if own is not None and own > at_most else ""
        return text, f"<= {at_most:.2f}", above
    if theirs is None:
        return text, "", ""
    return text, f"{theirs:.2f}", "" if own is None else _format_difference(own - theirs)


def _format_difference(difference: float) -> str:
    return f"{round(difference, 2) + 0.0:+.2f}"  # adding 0 turns -0.0 into 0.0


def _compare_shares(run: _Run) -> list[str]:
    together = 100 * (run.shares[_HETEROGENEOUS] + run.shares[_BLOCK])
    sentences = [
        "Their classifier was trained on about 400 maps that they labelled, and its weights were never published. "
        "Ours was trained on our own labels, which follow our reading of their descriptions.",
        f"Theirs: bert-base-uncased fine-tuned on {run.task}, up to 1,000 inputs of the validation set. "
        f"This run: {run.model or 'attention from files'}, {run.inputs:,} input{'' if run.inputs == 1 else 's'}.",
        "Their shares were read from the plot in figure 2: each may be wrong by 0.5 points.",
        "Their text counts Heterogeneous and Block together as 'Heterogeneous' (32 % on MRPC, 61 % on QQP); "
        f"together they are {together:.1f} % in this run.",
    ]
    if run.task == _SINGLE_SENTENCES:
        sentences.append(
            f"{run.task} consists of single sentences, and still their classifier answered Block on "
            f"{SHARES[run.task][_BLOCK]} % of the maps; ours never answers Block on one segment."
        )
    return sentences + _compare_sizes(run)


def _compare_sizes(run: _Run) -> list[str]:
    if (run.model_layers or LAYERS, run.model_heads or HEADS) == (LAYERS, HEADS):
        return []
    counts = ((run.model_layers, "layers"), (run.model_heads, "heads per layer"))
    size = " and ".join(f"{count} {name}" for count, name in counts if count is not None)
    return [
        f"This model has {size}, theirs {LAYERS} layers and {HEADS} heads per layer: the layers do not match one to "
        "one."
    ]


def _compare_layers(run: _Run) -> list[str]:
    other_task = "" if run.task == "QQP" else f"; this run is on {run.task}"
    sentences = [
        "Attention to [CLS] and [SEP] is max_token_share: the largest column mean among these tokens (their section "
        "4.4, as computed in their notebook), averaged over heads and inputs.",
        f"Their [CLS] and [SEP] figures are those of bert-base-uncased before fine-tuning, on 1,000 pairs of "
        f"QQP{other_task}.",
    ]
    if run.task == _SINGLE_SENTENCES:
        sentences.append("A single sentence has one [SEP]; a pair of QQP has two, of which the more attended counts.")
    return sentences
