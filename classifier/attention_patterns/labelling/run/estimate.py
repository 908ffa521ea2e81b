"""An estimate of what a run would take, from labelling a few of its inputs and writing nothing."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.sources.source import Unit

_TRIED = 32  # inputs


@dataclass(frozen=True)
class Estimate:
    """An estimate of what a run would take.

    Attributes:
        inputs: Number of all inputs; the two that an encoder-decoder makes of a text count as one.
        heads: Mean number of heads per input, of those that were tried.
        maps: Expected number of all maps.
        bytes: Bytes of attention or text to read.
        tried: Number of inputs that were tried.
        errors: Failures among them, as lines of the errors file.
        seconds: Expected time for all inputs, in seconds; None if all that were tried failed.
        output_bytes: Expected bytes of the output.
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
    """Labels some of the inputs, spread over all of them, and estimates from these what all would take.

    Args:
        maker: Maker of parts, which are thrown away.
        units: Units of its source.

    Raises:
        SourceError: All inputs would fail for one reason.
        MissingExtraError: A package that the source needs is not installed.
    """
    source = maker.source
    if units:
        source.check(maker.classifier)
    numbers = sorted(source.only) if source.only is not None else range(source.count_inputs())
    some = source.restrict({numbers[n * len(numbers) // _TRIED] for n in range(_TRIED)} if numbers else ())
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
