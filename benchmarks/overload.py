"""Puts ten times the load on the server that it can carry: ``python -m benchmarks.overload``, three minutes.

The peak is the rate of a few callers who call again as soon as they are answered. Then calls come at ten times that
rate, whether the server answers or not, each with a deadline. Goodput is the rate of answers within the deadline. A
call holds 32 x 32 heads at L = 32, 2 MB: its caller shares the machine, and copies each message anew.
"""

import time
from collections import Counter
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Any

import grpc
import numpy as np
import typer

from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns_service.client import Client
from attention_patterns_service.command.demo import server_process
from attention_patterns_service.contract.converters import HEADS, declared_request, request_of
from benchmarks.harness import load, sample_attention
from benchmarks.tables import ResultTable, keep

_METHOD = "/attention_patterns.v1.AttentionPatternService/ClassifyHeads"


def message(length: int) -> bytes:
    """Returns a request of 32 x 32 float16 maps of that many tokens, as it travels."""
    maps = read_attention(np.tile(sample_attention(length, 8), (4, 3, 1, 1))[:, :32].astype(np.float16), None)
    return HEADS.write(request_of(maps, declared_request(read_declaration(length), length=length)))


def resident(pid: int) -> float:
    """Returns the memory of a process, MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Overload:
    """Calls that come at a fixed rate, and their outcomes.

    Attributes:
        outcomes: gRPC code -> number of calls that ended with it.
        refusals: Times from a call to its refusal, seconds.
    """

    def __init__(self, call: Any, *, timeout: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self.refusals: list[float] = []
        self._call, self._timeout = call, timeout

    def run(self, data: bytes, *, rate: float, seconds: float) -> None:
        """Calls at ``rate`` per second for ``seconds``, and waits for the calls that are still under way."""
        started, sent, under_way = time.perf_counter(), 0, []
        while (now := time.perf_counter() - started) < seconds:
            if sent >= now * rate:
                time.sleep(1 / rate / 4)
                continue
            sent += 1
            future = self._call.future(data, timeout=self._timeout)
            future.add_done_callback(partial(self._count, time.perf_counter()))
            under_way.append(future)
            if len(under_way) > 1000:
                under_way = [call for call in under_way if not call.done()]
        for call in under_way:
            call.exception()

    def _count(self, begun: float, future: Any) -> None:
        code: str = future.code().name
        self.outcomes[code] += 1
        if code == "RESOURCE_EXHAUSTED":
            self.refusals.append(time.perf_counter() - begun)


def main(
    seconds: Annotated[float, typer.Option(help="Length of the overload, seconds.", min=1)] = 120,
    times: Annotated[float, typer.Option(help="Load, in multiples of the peak.", min=1)] = 10,
    deadline: Annotated[float, typer.Option(help="Deadline of each call, seconds.", min=0.1)] = 10,
    length: Annotated[int, typer.Option(help="Length of the maps, tokens.", min=1)] = 32,
) -> None:
    """Prints the peak, the goodput, and the memory of the server."""
    data = message(length)
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with server_process() as (process, endpoint), grpc.insecure_channel(endpoint, options=unlimited) as channel:
        call: Any = channel.unary_unary(_METHOD)
        peak = load(lambda: call(data), callers=4, seconds=min(20, seconds)).rate
        before, memory, done = resident(process.pid), [0.0], Event()

        def watch() -> None:
            while not done.wait(0.2):
                memory.append(resident(process.pid))

        watcher = Thread(target=watch)
        watcher.start()
        overload = Overload(call, timeout=deadline)
        overload.run(data, rate=times * peak, seconds=seconds)
        done.set()
        watcher.join()
        with Client(endpoint) as client:
            client.classify(sample_attention(32))  # it still serves
    outcomes, total = overload.outcomes, sum(overload.outcomes.values())
    goodput = outcomes["OK"] / seconds
    rows = [
        ("peak, calls/s", f"{peak:.1f}"),
        ("offered, calls/s", f"{total / seconds:.1f}"),
        (f"answered within {deadline:g} s, calls/s", f"{goodput:.1f}"),
        ("goodput / peak", f"{goodput / peak:.2f}"),
        *((f"{code}, calls", f"{count:,}") for code, count in sorted(outcomes.items())),
        ("time of a refusal, median and 99 %, ms", " and ".join(_quantiles(overload.refusals))),
        ("memory of the server before and at most, MiB", f"{before:.0f} and {max(memory):.0f}"),
    ]
    table = ResultTable(
        title=f"{times:g} times the peak load for {seconds:g} s",
        shows=f"Calls of 32 x 32 heads of {length} tokens, each with a deadline of {deadline:g} s. The peak is the "
        "rate of four callers who wait for each answer; goodput is the rate of answers within the deadline.",
        columns=("figure", "value"),
        rows=rows,
    )
    keep("overload", table)


def _quantiles(times: list[float]) -> list[str]:
    return [f"{1000 * value:.0f}" for value in np.quantile(times, (0.5, 0.99))] if times else []


if __name__ == "__main__":
    typer.run(main)
