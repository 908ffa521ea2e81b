"""Results of a run in the terminal: its estimate, its shares and grids, and the comparison with the paper's figures."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import numpy as np

from attention_patterns.errors import InvalidSettingsError
from attention_patterns.labelling.output.tally import Line, Tally
from attention_patterns.labelling.run.estimate import Estimate
from attention_patterns.labelling.run.run import RunResult
from attention_patterns.labelling.sources.memory import in_words
from attention_patterns.labelling.sources.source import Source
from attention_patterns.labelling.summary.paper import compare, paper_task
from attention_patterns.labelling.summary.summary import StackSummary
from attention_patterns.patterns import PATTERNS
from attention_patterns.programs.terminal import (
    SafeConsole,
    attention_table,
    pattern_grid,
    pattern_shares,
    with_title,
)

_MOST_GRIDS = 4  # of a run over many tasks or models
_MOST_FAILURES = 3  # that are not alike
_MOST_TASKS = 8


def describe_tasks(source: Source, unit: str) -> str:
    """Returns what became of the inputs, before any is read: "20 files, 1 task 'dumps'".

    Args:
        source: Source that holds them.
        unit: Name of what its tasks hold, "file" or "input".
    """
    sizes = {task: len(items) for task, items in source.tasks}
    some = [f"{task!r} ({size:,})" if len(sizes) > 1 else repr(task) for task, size in sizes.items()]
    more = f" and {len(some) - _MOST_TASKS:,} more" if len(some) > _MOST_TASKS else ""
    return (
        f"{with_unit(sum(sizes.values()), unit)}, {with_unit(len(some), 'task')} {', '.join(some[:_MOST_TASKS])}{more}"
    )


def print_estimate(result: Estimate) -> None:
    """Prints how much a run would read, write and take."""
    console = SafeConsole()
    size = f"{with_unit(result.inputs, 'input')} of {result.heads:,.10g} heads, about {with_unit(result.maps, 'map')}"
    console.print(size)
    console.print(f"{in_words(result.bytes)} to read, about {in_words(result.output_bytes)} to write")
    if result.seconds is not None:
        console.print(f"about {_format_duration(result.seconds)} on this machine")
    console.print(f"{with_unit(result.tried, 'input')} tried, {len(result.errors):,} failed; nothing was written")
    for sentence in failure_sentences(result.errors):
        console.print(f"  {sentence}")


def print_result(console: SafeConsole, result: RunResult) -> None:
    """Prints how much a run labelled, and its summary."""
    warned = f", {result.warned:,} with warnings" if result.warned else ""
    continued = f"; {with_unit(result.continued, 'part')} from an earlier run" if result.continued else ""
    size = f"{with_unit(result.maps, 'map')} of {with_unit(result.inputs, 'input')}{warned}{continued}"
    console.print(f"{result.folder.path}: {size}\n", soft_wrap=True)
    print_stacks(console, result.stacks)


def print_stacks(console: SafeConsole, stacks: Sequence[StackSummary]) -> None:
    """Prints the shares of the patterns over all stacks, then the grid of each of the largest."""
    if not stacks:
        return
    counts = np.concatenate([stack.counts.reshape(-1, len(PATTERNS)) for stack in stacks])
    console.print(with_title("patterns", pattern_shares(counts)))
    grids = [stack for stack in stacks if stack.counts[..., 0].size > 1]
    for stack in sorted(grids, key=lambda stack: -stack.inputs)[:_MOST_GRIDS]:
        _print_stack(console, stack)
    if len(grids) > _MOST_GRIDS:
        console.print(f"{len(grids) - _MOST_GRIDS} more grids are not printed; summary.json has all")


def _print_stack(console: SafeConsole, stack: StackSummary) -> None:
    stable = f"{int(stack.stable.sum())} of {with_unit(int(stack.counts.any(axis=-1).sum()), 'head')} stable"
    size = f"{len(stack.layers)} x {len(stack.heads)} heads, {with_unit(stack.inputs, 'input')}, {stable}"
    console.print(with_title(f"{_name(stack)}: {size}", pattern_grid(stack.counts)))
    shares = {name: np.nan_to_num(group.means["share"]) for name, group in stack.attention_to.items()}
    inputs = {name: group.inputs for name, group in stack.attention_to.items()}
    if shares:
        table = attention_table(shares, inputs=inputs if min(inputs.values()) < stack.inputs else None)
        console.print(
            with_title("attention to token groups, mean over heads and the inputs that hold the group", table)
        )


def _name(stack: StackSummary) -> str:
    return " ".join(name for name in (stack.task, stack.model, stack.part) if name)


def print_comparison(console: SafeConsole, stacks: Sequence[StackSummary], task: str) -> None:
    """Prints each stack of the task beside the paper's figures; each of all stacks where no task has that name."""
    same_task = [stack for stack in stacks if _is_task(stack.task, task)]
    for stack in same_task or stacks:
        if len(same_task or stacks) > 1:
            console.print(f"\n{_name(stack)}\n")
        to_cls, to_sep = (_means_by_layer(stack, group) for group in ("[CLS]", "[SEP]"))
        console.print(
            compare(
                task,
                shares=stack.of_all.share.tolist(),
                low=stack.of_all.low.tolist(),
                high=stack.of_all.high.tolist(),
                inputs=stack.inputs,
                to_cls=to_cls,
                to_sep=to_sep,
                layers=stack.layers,
                model=stack.model,
                model_layers=len(stack.layers),
                model_heads=len(stack.heads),
            )
        )


def _is_task(name: str, task: str) -> bool:
    try:
        return paper_task(name) == paper_task(task)
    except InvalidSettingsError:
        return False


def _means_by_layer(stack: StackSummary, group: str) -> list[float] | None:
    summary = stack.attention_to.get(group)
    return None if summary is None else [float(layer.mean()) for layer in summary.means["max_token_share"]]


def failure_sentences(errors: Iterable[Mapping[str, str | None]]) -> list[str]:
    """Returns the first of the failures that are not alike, each with its count, from lines of the errors file."""
    tally = Tally()
    tally.add_errors(errors)
    return first_sentences(tally)


def first_sentences(tally: Tally) -> list[str]:
    """Returns the first lines of a tally as sentences, and the number of those left out."""
    lines = tally.lines
    left = len(lines) - _MOST_FAILURES
    return [_sentence(line) for line in lines[:_MOST_FAILURES]] + [f"and {with_unit(left, 'other error')}"] * (left > 0)


def _sentence(line: Line) -> str:
    return f"{line.count:,} x {line.name}{', such as' * (line.count > 1)}: {line.example}"


def with_unit(count: int, unit: str) -> str:
    """Returns a count with its unit, in the plural where need be: "1,000 inputs"."""
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _format_duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
