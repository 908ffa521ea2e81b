"""Measures serving against the same work in one process: ``python -m benchmarks.serving``.

Everything is measured in one run, in turns over several rounds. The tables give medians and their ratios, which hold
where the speed of the machine drifts. Client, server and the work in-process share the same cores.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import grpc
import numpy as np
import typer
from numpy.typing import NDArray

from attention_patterns import PatternClassifier
from attention_patterns_service.client import Client
from attention_patterns_service.command.demo import running_server
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2_grpc as pb_grpc
from benchmarks.harness import HEADS, LAYERS, in_turns, sample_attention
from benchmarks.tables import ResultTable, keep

_FEWER_LAYERS = {2048: 2}  # L -> layers, where twelve would not fit into memory
Rounds = Annotated[int, typer.Option(help="Rounds, of which the median is taken.", min=1)]
Seconds = Annotated[float, typer.Option(help="Length of one measurement, seconds.", min=0.1)]


def beside_the_process(endpoint: str, *, rounds: int, seconds: float) -> None:
    """Compares maps per second in-process, with maps sent, and with maps reduced at the client."""
    classifier, rows = PatternClassifier.load(), []
    with Client(endpoint, reduce="never") as sending, Client(endpoint) as reducing:
        for length in (64, 128, 512, 2048):
            for dtype in (np.float32, np.float16):
                maps = sample_attention(length, _FEWER_LAYERS.get(length, LAYERS)).astype(dtype)
                heads = maps.shape[0] * HEADS
                for callers in (1, 4):
                    doors = (classifier, reducing, sending)
                    calls = {str(n): (lambda door=door: door.classify(maps)) for n, door in enumerate(doors)}  # noqa: B023
                    loads = in_turns(calls, callers=callers, seconds=seconds, rounds=rounds)
                    here, reduced, sent = (heads * loads[str(n)].rate for n in range(3))
                    rows.append(
                        (
                            f"{length}",
                            np.dtype(dtype).name,
                            f"{callers}",
                            f"{here:,.0f}",
                            f"{reduced:,.0f}",
                            f"{reduced / here:.2f}",
                            f"{sent:,.0f}",
                            f"{sent / here:.2f}",
                        )
                    )
    columns = (
        "L",
        "dtype",
        "callers",
        "in-process",
        "client",
        "client / in-process",
        "maps sent",
        "maps sent / in-process",
    )
    table = ResultTable(
        title="Serving beside the same work in-process, maps/s",
        shows=f'{LAYERS} x {HEADS} heads per call (2 x {HEADS} at L = 2048). "client" is the client with its defaults, '
        'which renders maps and sends images where these are smaller; "maps sent" is a client with `reduce="never"`. '
        "Client and server share the cores.",
        columns=columns,
        rows=rows,
    )
    keep("serving", table)


@contextmanager
def naive_server() -> Iterator[str]:
    """Yields the endpoint of a server as generated code makes it."""
    command = [sys.executable, "-m", "benchmarks.naive_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def naive_call(channel: grpc.Channel, maps: NDArray[Any]) -> object:
    """Sends one message of float32 by generated code."""
    stub = pb_grpc.AttentionPatternServiceStub(channel)  # type: ignore[no-untyped-call] # generated
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=maps.shape, data=maps.tobytes())
    return stub.ClassifyHeads(pb.ClassifyHeadsRequest(attention=tensor))


def beside_the_naive_way(endpoint: str, *, rounds: int, seconds: float) -> None:
    """Compares calls per second with a whole tensor of 512 tokens, from one caller."""
    maps = sample_attention(512)
    half = maps.astype(np.float16)
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with (
        naive_server() as naive,
        grpc.insecure_channel(naive, options=unlimited) as channel,
        Client(endpoint, reduce="never") as sending,
        Client(endpoint) as reducing,
    ):
        calls = {
            "one protobuf message, float32": lambda: naive_call(channel, maps),
            "chunks, float32": lambda: sending.classify(maps),
            "chunks, float16": lambda: sending.classify(half),
            "reduced at the client, float32": lambda: reducing.classify(maps),
            "reduced at the client, float16": lambda: reducing.classify(half),
        }
        loads = in_turns(calls, callers=1, seconds=seconds, rounds=rounds)
    first = next(iter(loads.values())).rate
    table = ResultTable(
        title="Calls of 12 x 12 heads and 512 tokens, by what travels",
        shows="One caller. The first line is a server and a client as generated code makes them; the others are ours.",
        columns=("what travels", "calls/s", "times the first"),
        rows=[(name, f"{of_name.rate:.1f}", f"{of_name.rate / first:.1f}") for name, of_name in loads.items()],
    )
    keep("naive", table)


def one_map_per_call(endpoint: str, *, rounds: int, seconds: float) -> None:
    """Measures calls per second with one map each."""
    rows = []
    with Client(endpoint) as reducing, Client(endpoint, reduce="never") as sending:
        for length in (64, 128):
            single = sample_attention(length)[0, 0].astype(np.float16)
            calls = {
                "default": lambda: reducing.classify(single),  # noqa: B023  called in this turn
                "maps sent": lambda: sending.classify(single),  # noqa: B023
            }
            for callers in (1, 8):
                for name, of_name in in_turns(calls, callers=callers, seconds=seconds, rounds=rounds).items():
                    figures = (f"{of_name.rate:,.0f}", f"{of_name.median:.1f}", f"{of_name.p99:.1f}")
                    rows.append((f"{length}", f"{callers}", name, *figures))
    table = ResultTable(
        title="One float16 map per call",
        shows='"default" is the client with its defaults, "maps sent" one with `reduce="never"`; at both lengths the '
        "image is smaller than the map.",
        columns=("L", "callers", "client", "calls/s", "median ms", "p99 ms"),
        rows=rows,
    )
    keep("single", table)


def main(rounds: Rounds = 5, seconds: Seconds = 1.5) -> None:
    """Prints and keeps all tables."""
    with running_server() as endpoint:
        beside_the_process(endpoint, rounds=rounds, seconds=seconds)
        beside_the_naive_way(endpoint, rounds=rounds, seconds=seconds)
        one_map_per_call(endpoint, rounds=rounds, seconds=2 * seconds)


if __name__ == "__main__":
    typer.run(main)
