"""Speed of serving against the same work in one process: ``python -m benchmarks.serving``.

All are measured in one run, in turns over several rounds; the tables give medians and their ratios, which stay put
where the machine's own speed drifts. Client, server and the work in-process share the same cores.
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
from benchmarks.harness import HEADS, LAYERS, in_turns, keep, sample_attention

_SHORT = {2048: 2}  # layers, where twelve would not fit
Rounds = Annotated[int, typer.Option(help="rounds, of which the median is taken", min=1)]
Seconds = Annotated[float, typer.Option(help="length of one measurement", min=0.1)]


def beside_the_process(endpoint: str, *, rounds: int, seconds: float) -> None:
    """Maps a second in-process, with maps sent, and with maps reduced at the client."""
    classifier, rows = PatternClassifier.load(), []
    with Client(endpoint, reduce="never") as sending, Client(endpoint) as reducing:
        for length in (64, 128, 512, 2048):
            for dtype in (np.float32, np.float16):
                maps = sample_attention(length, _SHORT.get(length, LAYERS)).astype(dtype)
                heads = maps.shape[0] * HEADS
                for callers in (1, 4):
                    doors = (classifier, reducing, sending)
                    calls = {str(n): (lambda door=door: door.classify(maps)) for n, door in enumerate(doors)}  # noqa: B023
                    found = in_turns(calls, callers=callers, seconds=seconds, rounds=rounds)
                    here, reduced, sent = (heads * found[str(n)].rate for n in range(3))
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
    keep(
        "serving",
        f"{LAYERS} x {HEADS} heads (2 x {HEADS} at L = 2048), maps/s: in-process, by the client as it is, and by one "
        'that sends the maps (`reduce="never"`)',
        ("L", "dtype", "callers", "in-process", "client", "ratio", "maps sent", "ratio"),
        rows,
    )


@contextmanager
def naive_server() -> Iterator[str]:
    """The endpoint of a server as generated code makes it."""
    command = [sys.executable, "-m", "benchmarks.naive_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def naive_call(channel: grpc.Channel, maps: NDArray[Any]) -> object:
    """One message of float32 by generated code."""
    stub = pb_grpc.AttentionPatternServiceStub(channel)  # type: ignore[no-untyped-call] # generated
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=maps.shape, data=maps.tobytes())
    return stub.ClassifyHeads(pb.ClassifyHeadsRequest(attention=tensor))


def beside_the_naive_way(endpoint: str, *, rounds: int, seconds: float) -> None:
    """Calls a second with a whole tensor of 512 tokens, one caller."""
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
            "parts, float32": lambda: sending.classify(maps),
            "parts, float16": lambda: sending.classify(half),
            "reduced at the client, float32": lambda: reducing.classify(maps),
            "reduced at the client, float16": lambda: reducing.classify(half),
        }
        found = in_turns(calls, callers=1, seconds=seconds, rounds=rounds)
    slowest = next(iter(found.values())).rate
    rows = [(name, f"{one.rate:.1f}", f"{one.rate / slowest:.1f}") for name, one in found.items()]
    keep("naive", "12 x 12 heads, L = 512, one caller", ("what travels", "calls/s", "times the first"), rows)


def one_map_a_call(endpoint: str, *, rounds: int, seconds: float) -> None:
    """Calls a second with one map each."""
    rows = []
    with Client(endpoint) as reducing, Client(endpoint, reduce="never") as sending:
        for length in (64, 128):
            one = sample_attention(length)[0, 0].astype(np.float16)
            calls = {
                "client": lambda: reducing.classify(one),  # noqa: B023  called in this turn
                "maps sent": lambda: sending.classify(one),  # noqa: B023
            }
            for callers in (1, 8):
                for name, found in in_turns(calls, callers=callers, seconds=seconds, rounds=rounds).items():
                    numbers = (f"{found.rate:,.0f}", f"{found.median:.1f}", f"{found.p99:.1f}")
                    rows.append((f"{length}", f"{callers}", name, *numbers))
    keep("single", "One float16 map a call", ("L", "callers", "", "calls/s", "median ms", "p99 ms"), rows)


def main(rounds: Rounds = 5, seconds: Seconds = 1.5) -> None:
    """Prints all tables."""
    with running_server() as endpoint:
        beside_the_process(endpoint, rounds=rounds, seconds=seconds)
        beside_the_naive_way(endpoint, rounds=rounds, seconds=seconds)
        one_map_a_call(endpoint, rounds=rounds, seconds=2 * seconds)


if __name__ == "__main__":
    typer.run(main)
