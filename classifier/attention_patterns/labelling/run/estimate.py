"""What a run is going to take, told by labelling a few of its inputs and writing nothing."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.sources.source import Unit

_TRIED = 32  # inputs


@dataclass(frozen=True)
class Estimate:
    """What a run is going to take.

    Attributes:
        inputs: in all; an encoder-decoder makes two of each text, which this does not count.
        heads: of an input, the mean of those that were tried.
        maps: in all, by these.
        bytes: of attention or text to read.
        tried: inputs that were labelled.
        errors: those of them that failed, as lines of the errors file.
        seconds: for all, at the rate of those tried; None if all of them failed.
        output_bytes: likewise what is going to be written.
    """

    inputs: int
    heads: float
    maps: int
    bytes: int
    tried: int
    errors: tuple[Mapping[str, str | None], ...]
    seconds: float | None
    output_bytes: int


def estimate(maker: PartMaker, units: Sequence[Unit]) -> Estimate:
    """Labels some of the inputs, spread over all of them, and concludes from these.

    Args:
        maker: whose parts are made and thrown away.
        units: of its source.
    """
    source = maker.source
    numbers = sorted(source.only) if source.only is not None else range(source.count_inputs())
    some = source.restricted({numbers[n * len(numbers) // _TRIED] for n in range(_TRIED)} if numbers else ())
    trial, trial_units = replace(maker, source=some), some.units()
    for unit in trial_units[:1]:
        some.prepare(unit)
    started = time.perf_counter()
    parts = [trial.make(unit) for unit in trial_units]
    taken = time.perf_counter() - started
    tried = sum(unit.inputs for unit in trial_units)
    times = sum(unit.inputs for unit in units) / max(tried, 1)
    written = sum(len(table) for part in parts for table in part.tables.values())
    return Estimate(
        inputs=sum(unit.inputs for unit in units),
        heads=sum(part.maps for part in parts) / max(sum(part.inputs for part in parts), 1),
        maps=round(sum(part.maps for part in parts) * times),
        bytes=sum(unit.bytes for unit in units),
        tried=tried,
        errors=tuple(error for part in parts for error in part.errors),
        seconds=taken * times if any(part.inputs for part in parts) else None,
        output_bytes=round(written * times),
    )
