"""What a run shows in the terminal: what it is going to take, what came of it, and how the paper's figures compare."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
from rich.console import Console

from attention_patterns.errors import InvalidSettingsError
from attention_patterns.labelling.run.estimate import Estimate
from attention_patterns.labelling.run.run import RunResult
from attention_patterns.labelling.sources.memory import in_words
from attention_patterns.labelling.summary.paper import compare, paper_task
from attention_patterns.labelling.summary.summary import StackSummary
from attention_patterns.patterns import PATTERNS
from attention_patterns.programs.terminal import attention_table, pattern_grid, pattern_shares, with_title

_MOST_GRIDS = 4  # of a run over many tasks or models
_MOST_ERRORS = 3


def show_estimate(found: Estimate) -> None:
    """What a run is going to take."""
    console = Console(highlight=False)
    console.print(f"{number(found.inputs, 'input')} of {found.heads:,.10g} heads, about {number(found.maps, 'map')}")
    console.print(f"{in_words(found.bytes)} to read, about {in_words(found.output_bytes)} to write")
    if found.seconds is not None:
        console.print(f"about {_duration(found.seconds)} here, at the rate of {number(found.tried, 'input')} tried now")
    console.print(f"{number(len(found.errors), 'input')} of these failed; nothing was written")
    for error in found.errors[:_MOST_ERRORS]:
        console.print(f"  {error['input_id']}: {error['error']}: {error['message']}", markup=False)


def show_result(console: Console, result: RunResult) -> None:
    """What came of a run."""
    warned = f", {result.warned:,} of them with warnings" if result.warned else ""
    before = f"; {number(result.continued, 'part')} of an earlier run" if result.continued else ""
    done = f"{number(result.maps, 'map')} of {number(result.inputs, 'input')}{warned}{before}"
    console.print(f"{result.folder.path}: {done}\n", soft_wrap=True, markup=False)
    show_stacks(console, result.stacks)


def show_stacks(console: Console, stacks: Sequence[StackSummary]) -> None:
    """Shares of the patterns over all, then the grid of each task, model and part."""
    if not stacks:
        return
    counts = np.concatenate([stack.counts.reshape(-1, len(PATTERNS)) for stack in stacks])
    console.print(with_title("patterns", pattern_shares(counts)))
    drawn = [stack for stack in stacks if stack.counts[..., 0].size > 1]
    for stack in sorted(drawn, key=lambda stack: -stack.inputs)[:_MOST_GRIDS]:
        _show_stack(console, stack)
    if len(drawn) > _MOST_GRIDS:
        console.print(f"{len(drawn) - _MOST_GRIDS} more grids are not shown; summary.json has all")


def _show_stack(console: Console, stack: StackSummary) -> None:
    stable = f"{int(stack.stable.sum())} of {number(int(stack.counts.any(axis=-1).sum()), 'head')} stable"
    size = f"{len(stack.layers)} x {len(stack.heads)} heads, {number(stack.inputs, 'input')}, {stable}"
    console.print(with_title(f"{_name(stack)}: {size}", pattern_grid(stack.counts)))
    shares = {group: np.nan_to_num(means["share"]) for group, means in stack.attention_to.items()}
    if shares:
        console.print(with_title("attention to, mean over heads and inputs", attention_table(shares)))


def _name(stack: StackSummary) -> str:
    return " ".join(name for name in (stack.task, stack.model, stack.part) if name)


def show_comparison(console: Console, stacks: Sequence[StackSummary], task: str) -> None:
    """Each stack of the task beside the paper's; of all tasks, where none is called so."""
    named = [stack for stack in stacks if _is_task(stack.task, task)]
    for stack in named or stacks:
        if len(named or stacks) > 1:
            console.print(f"\n{_name(stack)}\n", markup=False)
        to_cls, to_sep = (_by_layer(stack, group) for group in ("[CLS]", "[SEP]"))
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


def _by_layer(stack: StackSummary, group: str) -> list[float] | None:
    means = stack.attention_to.get(group)
    return None if means is None else [float(layer.mean()) for layer in means["max_token_share"]]


def number(count: int, of: str) -> str:
    """A count and what of: "1,000 inputs"."""
    return f"{count:,} {of}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
