"""Hostile callers and operators of every kind at once, beside one good client whose answers must all be right.

    python -m tests.attacks.hostile attack --minutes 10

A server process is flooded with work, held by readers who do not read, by drips and silence, shown tokens that it does
not know, and told to read bad files again; the good client, a process of its own, asks for the same answers all the
while. Printed are its latencies beside those of a quiet run, and the server's memory beside what ``--check`` promises.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import grpc
import numpy as np
import typer

from attention_patterns import PatternClassifier
from attention_patterns.bundle import BUNDLED
from attention_patterns.errors import AttentionPatternsError
from attention_patterns_service.client import Client
from attention_patterns_service.limits import MIB, Limits
from attention_patterns_service.server.token_file import add_token
from tests.attacks.callers import TENSORS, bits_of
from tests.attacks.fuzz import ROOT, environment
from tests.attacks.hostile_messages import ANY_SIZE, hostile_messages, method_for
from tests.helpers.calls import method_of
from tests.helpers.http2 import PREFACE, connection, data, head, prefixed, window
from tests.helpers.servers import Holdings, serving

LIMITS = Limits(message_bytes=16 * MIB, calls=32, token_calls=24, bytes=256 * MIB, seconds=5, idle_seconds=5)
OPTIONS = (
    *("--max-message-mib=16", "--max-calls=32", "--max-token-calls=24", "--max-bytes-mib=256", "--max-seconds=5"),
    *("--max-idle-seconds=5", "--load-seconds=20", "--reflection", "--log-level=error"),
)
BAD_BUNDLES = ("[]", "[" * 200_000, '{"image_size": 1e999}', "", "\x00")
BAD_TOKENS = ("[]", "[" * 200_000, '{"tokens": [{"calls_per_second": 1e999}]}', "", '{"tokens": 1}')
PAUSE = 0.05  # seconds between two of an attacker's deeds: the cores are two, and the good client needs one

app = typer.Typer(add_completion=False)


class Attack:
    """Attackers, each a thread that does one thing again and again, and what came of it.

    Attributes:
        outcomes: Attacker and outcome -> count.
    """

    def __init__(self, endpoint, secret, process, folder):
        self.outcomes = Counter()
        self._endpoint, self._port = endpoint, int(endpoint.rpartition(":")[2])
        self._metadata = [("authorization", f"Bearer {secret}")]
        self._process, self._folder = process, folder
        self._over = threading.Event()
        self._messages = list(hostile_messages(LIMITS).items())

    @contextmanager
    def under_way(self):
        """Attacks inside."""
        deeds = [self.flood, self.flood, self.stall, self.drip, self.say_nothing, self.show_strange_tokens, self.reload]
        threads = [threading.Thread(target=self._repeat, args=(deed,)) for deed in deeds]
        for thread in threads:
            thread.start()
        yield
        self._over.set()
        for thread in threads:
            thread.join()

    def _repeat(self, deed: Callable[[], str]) -> None:
        while not self._over.wait(PAUSE):
            try:
                outcome = deed()
            except grpc.RpcError as error:
                outcome = error.code().name
            except OSError as error:
                outcome = type(error).__name__
            self.outcomes[f"{deed.__name__}: {outcome}"] += 1

    def flood(self):
        """Sends a message of much work or memory for its size, and leaves now and then before the answer."""
        name, message = random.choice(self._messages)
        with grpc.insecure_channel(self._endpoint, options=ANY_SIZE) as channel:
            timeout = random.choice([0.1, 1, 10])
            method_for(channel, name)(message, metadata=self._metadata, timeout=timeout)
        return "OK"

    def _head(self, method="ClassifyHeads"):
        return head(1, method, dict(self._metadata))

    def stall(self):
        """Asks for an answer and does not take it."""
        message = dict(self._messages)["the largest answer"]
        with connection(self._port, PREFACE, window(0), self._head()) as connected:
            for begin in range(0, len(message), 16_000):
                piece = prefixed(message)[begin : begin + 16_000]
                with suppress(BlockingIOError):
                    connected.sendall(data(piece))
            self._over.wait(2)
        return "left"

    def drip(self):
        """Sends a message byte by byte."""
        with connection(self._port, PREFACE, window(1 << 16), self._head()) as connected:
            for number in range(20):
                connected.sendall(data(prefixed(bytes(100))[number : number + 1]))
                if self._over.wait(0.1):
                    break
        return "left"

    def say_nothing(self):
        """Opens calls of every kind and sends nothing on them."""
        names = ("ClassifyHeads", "StreamClassifyHeads", "ClassifyImages")
        with connection(self._port, PREFACE, window(1 << 16), self._head(random.choice(names))):
            self._over.wait(1)
        return "left"

    def show_strange_tokens(self):
        """Sends empty messages on a stream whose token is not known."""
        with grpc.insecure_channel(self._endpoint) as channel:
            stream = method_of(channel, "StreamClassifyHeads", "stream_stream")
            list(stream(iter([b""] * 10), metadata=[("authorization", "Bearer guessed")], timeout=10))
        return "OK"

    def reload(self):
        """Has bad files read again, and good ones in between; a token is made and revoked meanwhile."""
        (self._folder / "model" / "bundle.json").write_text(random.choice(BAD_BUNDLES), newline="")
        good = (self._folder / "tokens.json").read_text()
        (self._folder / "tokens.json").write_text(random.choice(BAD_TOKENS))
        self._process.send_signal(signal.SIGHUP)
        self._over.wait(1)
        shutil.copy(BUNDLED / "bundle.json", self._folder / "model" / "bundle.json")
        (self._folder / "tokens.json").write_text(good)
        self._process.send_signal(signal.SIGHUP)
        self._over.wait(4)
        return "done"


@app.command(hidden=True)
def good_client(endpoint: str, seconds: float) -> None:
    """Asks for the same answers until the time is over; prints latencies and outcomes as JSON."""
    tensor = TENSORS[1]
    expected = bits_of(PatternClassifier.load().classify(tensor))
    latencies, outcomes, end = [], Counter(), time.monotonic() + seconds
    with Client(endpoint, token=os.environ["GOOD_TOKEN"], timeout=30) as client:
        while time.monotonic() < end:
            begun = time.perf_counter()
            try:
                outcomes["right" if bits_of(client.classify(tensor)) == expected else "WRONG"] += 1
            except AttentionPatternsError as error:
                outcomes[f"{type(error).__name__}: {error}"] += 1
            latencies.append(time.perf_counter() - begun)
            time.sleep(0.02)
    typer.echo(json.dumps({"latencies": latencies, "outcomes": outcomes}))


def ask_nicely(endpoint, secret, seconds):
    """Runs the good client in a process of its own, and returns its latencies and outcomes."""
    command = [sys.executable, "-P", "-m", "tests.attacks.hostile", "good-client", endpoint, str(seconds)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment(GOOD_TOKEN=secret)
    )
    report = json.loads(done.stdout)
    return np.array(report["latencies"]), Counter(report["outcomes"])


@app.command()
def attack(
    minutes: Annotated[float, typer.Option(help="Time of the attack, in minutes; a tenth of it is quiet before.")] = 10,
) -> None:
    """Attacks a server while a good client asks; exit code 1 where an answer is wrong, missing, or memory runs over."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(BUNDLED, folder / "model")
        good, bad = (add_token(folder / "tokens.json", each, calls_per_second=1000) for each in ("good", "bad"))
        files = (f"--model-dir={folder / 'model'}", f"--tokens={folder / 'tokens.json'}")
        with serving(*OPTIONS, *files) as (process, endpoint):
            quiet, first = ask_nicely(endpoint, good, 6 * minutes)
            before = Holdings.of(process.pid)
            attackers = Attack(endpoint, bad, process, folder)
            with attackers.under_way():
                beside, outcomes = ask_nicely(endpoint, good, 60 * minutes)
            after = Holdings.of(process.pid)
    for outcome, count in sorted(attackers.outcomes.items()):
        typer.echo(f"{count:8,}  {outcome}")
    for when, latencies, counts in (("quiet", quiet, first), ("beside", beside, outcomes)):
        half, most = 1000 * np.quantile(latencies, [0.5, 0.99])
        typer.echo(f"good client, {when}: {dict(counts)}; median {half:.0f} ms, 99 % {most:.0f} ms")
    taken, promised = after.peak - before.memory, LIMITS.memory // MIB
    typer.echo(f"memory: {taken:,} MiB at most beside the {before.memory:,} before, promised {promised:,}")
    typer.echo(f"threads {before.threads} before, {after.threads} after; files {before.files} and {after.files}")
    raise typer.Exit(0 if set(outcomes) == {"right"} and taken <= promised else 1)


if __name__ == "__main__":
    app()
