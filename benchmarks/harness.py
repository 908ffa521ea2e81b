"""Makes attention to work on, loads calls from several callers, and takes measurements in turns."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LAYERS, HEADS = 12, 12


def sample_attention(length: int, layers: int = LAYERS) -> NDArray[np.float32]:
    """Returns attention [layers, 12, L, L]: softmaxes of random logits with a sink in the first column."""
    logits = 2 * np.random.default_rng(length).standard_normal((layers, HEADS, length, length), np.float32)
    logits[..., 0] += 4
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)


@dataclass(frozen=True)
class Load:
    """The answers that callers got.

    Attributes:
        rate: Calls per second.
        median: Median time of a call, ms.
        p99: 99 % quantile of that time, ms.
    """

    rate: float
    median: float
    p99: float


def load(call: Callable[[], object], *, callers: int, seconds: float) -> Load:
    """Calls in a loop from ``callers`` threads for ``seconds``, at least once from each."""
    started = time.perf_counter()
    until = started + seconds

    def caller(_: int) -> list[float]:
        times: list[float] = []
        while not times or time.perf_counter() < until:
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
        return times

    with ThreadPoolExecutor(callers) as pool:
        times = np.concatenate(list(pool.map(caller, range(callers))))
    median, p99 = 1000 * np.quantile(times, (0.5, 0.99))
    return Load(len(times) / (time.perf_counter() - started), float(median), float(p99))


def in_turns(
    calls: Mapping[str, Callable[[], object]], *, callers: int, seconds: float, rounds: int
) -> dict[str, Load]:
    """Loads all calls in turns, round after round, and returns medians over the rounds.

    The first call of each is not counted.
    """
    for call in calls.values():
        call()
    loads: dict[str, list[Load]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            loads[name].append(load(call, callers=callers, seconds=seconds))
    return {name: _median(of_name) for name, of_name in loads.items()}


def _median(loads: list[Load]) -> Load:
    rate, median, p99 = np.median([(each.rate, each.median, each.p99) for each in loads], axis=0)
    return Load(float(rate), float(median), float(p99))
