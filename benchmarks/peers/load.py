"""Loads a server with callers that each send their next request when the last is answered."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from benchmarks.peers.callers import Caller, CallError

_BETWEEN_CONNECTS = 0.02  # seconds, so that the processes of a server each accept some


@dataclass(frozen=True)
class Figures:
    """The figures of one measurement.

    Attributes:
        rate: Requests per second.
        median: Median time to an answer, ms.
        p99: 99 % quantile of that time, ms.
        server: CPU time of the server's processes per request, ms.
        caller: CPU time of the callers per request, ms.
    """

    rate: float
    median: float
    p99: float
    server: float
    caller: float


def measure(
    connect: Callable[[], Caller], *, callers: int, seconds: float, size: int, server_cpu: Callable[[], float]
) -> Figures:
    """Loads a server for ``seconds`` with ``callers`` connections, one thread each.

    They are threads of one process, which use 0.03 to 0.06 ms of CPU per small call, less than a third of a core
    together; two or eight processes in their place got 3 to 10 % fewer answers.

    Raises:
        CallError: An answer is not a success of ``size`` bytes.
    """
    with ExitStack() as stack, ThreadPoolExecutor(callers) as pool:
        connections = []
        for _ in range(callers):
            connections.append(stack.enter_context(connect()))
            connections[-1]()
            time.sleep(_BETWEEN_CONNECTS)
        server, own, started = server_cpu(), time.process_time(), time.perf_counter()

        def call(connection: Caller) -> list[float]:
            times, then = [], time.perf_counter()
            while then < started + seconds:
                if len(connection()) != size:
                    raise CallError(f"an answer was not of {size} bytes")
                now = time.perf_counter()
                times.append(now - then)
                then = now
            return times

        times = np.concatenate(list(pool.map(call, connections)))
        elapsed, own, server = time.perf_counter() - started, time.process_time() - own, server_cpu() - server
    return Figures(
        rate=len(times) / elapsed,
        median=1000 * float(np.median(times)),
        p99=1000 * float(np.percentile(times, 99)),
        server=1000 * server / len(times),
        caller=1000 * own / len(times),
    )
