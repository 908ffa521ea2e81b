"""Bad input in bulk, fed to the server's methods and to the classifier, whose answers are judged.

    python -m tests.attacks.fuzz --inputs 1000000 --seed 1

A fuzzer that follows coverage (atheris; the compiled kernel and the net are not instrumented) feeds each target in a
process of its own. Every input must be answered, or refused with an error of ours, in ``LONGEST`` seconds; what is no
attention map must be refused and all else answered, as plain numpy in float64 decides. Findings go to a folder.
"""

import hashlib
import json
import math
import os
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import atheris
import numpy as np
import typer
from rich.console import Console
from rich.table import Column, Table

from tests.attacks.fuzz_messages import MOST
from tests.attacks.fuzz_targets import REASONS, TARGETS, Bench

ROOT = Path(__file__).parents[2]
LONGEST = 5.0  # seconds an input may take
STUCK = 120.0  # seconds without progress after which a process is ended
MEMORY = 12 << 30  # bytes of address space, so that no input can ask for all there is
SEEDS = 100  # whole messages that a target begins with
MOST_DEATHS = 20  # processes of a target that may die before it is given up
BAD = ("crashes", "hangs", "wrong")
RUNS = Path("run/fuzz")
OF_KERNEL = {"NOT_FINITE", "NEGATIVE_ATTENTION", "LOGITS", "TRANSPOSED", "ROW_SUM", "NOT_CAUSAL"}


class Tally:
    """Counts and the input under way, in files that outlive the process which writes them."""

    COUNTS = ("inputs", "answered", "crashes", "hangs", "wrong", *REASONS)

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        path = folder / f"{name}.counts"
        self._counts = np.memmap(path, np.int64, "r+" if path.exists() else "w+", shape=(len(self.COUNTS),))
        path = folder / f"{name}.input"
        self._input = np.memmap(path, np.uint8, "r+" if path.exists() else "w+", shape=(8 + 4 * MOST,))

    def __getitem__(self, count):
        return int(self._counts[self.COUNTS.index(count)])

    def add(self, count):
        self._counts[self.COUNTS.index(count)] += 1

    @property
    def last_input(self):
        """The input that was taken last."""
        return self._input[8 : 8 + int.from_bytes(self._input[:8], "little")].tobytes()

    def take(self, target, bench, data):
        """Feeds an input and counts what comes of it."""
        self._input[:8] = np.frombuffer(len(data).to_bytes(8, "little"), np.uint8)
        self._input[8 : 8 + len(data)] = np.frombuffer(data, np.uint8)
        self.add("inputs")
        outcome, seconds = _time(target, bench, data)
        if seconds > LONGEST:  # unless something else had the cores
            seconds = _time(target, bench, data)[1]
        if outcome.crash:
            self.note("crashes", outcome.crash, data)
        else:
            self.add(outcome.reason or "answered")
        if outcome.wrong:
            self.note("wrong", f"{outcome.reason or 'answer'}: {outcome.wrong}", data)
        if seconds > LONGEST:
            self.note("hangs", f"over {LONGEST:g} s", data)

    def note(self, kind, what, data):
        """Counts and notes something that must not be; keeps the smallest input that shows it."""
        self.add(kind)
        path = self.folder / f"{self.name}-{hashlib.sha256(what.encode()).hexdigest()[:8]}.bin"
        if not path.exists() or len(data) < path.stat().st_size:
            path.write_bytes(data)
        with (self.folder / "findings").open("a") as lines:
            lines.write(json.dumps([kind, what, path.name]) + "\n")


def _time(target, bench, data):
    started = time.perf_counter()
    outcome = target.judge(bench, data)
    return outcome, time.perf_counter() - started


def run_child(name, folder, inputs, seed):
    """Feeds a target in this process, which ends with it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("error")
    target, bench, tally = TARGETS[name], Bench(), Tally(Path(folder), name)

    def take(data):
        tally.take(target, bench, data)
        if tally["inputs"] >= int(inputs):
            os._exit(0)

    def mutate(data, most, number):
        mutated = target.messages.mutate(data, number, lambda old: atheris.Mutate(old, most))
        return mutated if len(mutated) <= most else atheris.Mutate(data, most)

    with TemporaryDirectory() as corpus:  # left behind, for ``watch`` to remove
        for number in range(SEEDS):
            (Path(corpus) / str(number)).write_bytes(target.seed(number))
        options = {"seed": seed, "max_len": target.longest, "timeout": 3600, "rss_limit_mb": 0, "verbosity": 0}
        arguments = [f"-{option}={value}" for option, value in options.items()]
        custom = {"custom_mutator": mutate} if target.messages else {}
        atheris.Setup([name, *arguments, "-exact_artifact_path=/dev/null", corpus], take, **custom)
        atheris.Fuzz()


_CHILD = """
import sys, atheris
instrumented = ["attention_patterns", "attention_patterns_service"]
with atheris.instrument_imports(instrumented, ["attention_patterns.kernel", "attention_patterns_service.pb"]):
    from tests.attacks import fuzz
fuzz.run_child(*sys.argv[1:])
"""


def environment(**variables):
    """Returns the environment of a process that imports this package, wherever it is started."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path} | variables


def watch(name, folder, inputs, seed, end, code=_CHILD):
    """Feeds a target in processes of their own, a new one where one died or is stuck, until ``end`` at most."""
    tally, deaths = Tally(folder, name), 0
    while (before := tally["inputs"]) < inputs and deaths < MOST_DEATHS and time.monotonic() < end:
        with TemporaryDirectory() as scratch, (folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-P", "-c", code, name, str(folder), str(inputs), str(seed + deaths)]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(TMPDIR=scratch))
            bad = _wait(process, tally, end)
        if bad:
            what = f"stuck for {STUCK:g} s" if bad == "hangs" else f"the process died, exit code {process.returncode}"
            tally.note(bad, what, tally.last_input)
            deaths += 1
        if tally["inputs"] == before:  # another would not come further
            break
    return tally


def _wait(process, tally, end):
    """Waits for a process and returns what became of it, "" where all is well."""
    moved, before = time.monotonic(), tally["inputs"]
    while process.poll() is None:
        time.sleep(0.1)
        now, count = time.monotonic(), tally["inputs"]
        if count != before:
            moved, before = now, count
        if now > moved + STUCK or now > end:
            process.kill()
            process.wait()
            return "hangs" if now > moved + STUCK else ""
    return "crashes" if process.returncode else ""


def table_of(tallies):
    """Returns the counts as a table, one line per target."""
    rows = {tally.name: Counter({count: tally[count] for count in Tally.COUNTS}) for tally in tallies}
    for name, row in rows.items():
        answered = row["answered"] if TARGETS[name].classifies else 0
        row["reached"] = answered + sum(row[reason] for reason in OF_KERNEL)
    numbers = ("inputs", "to kernel or net", "answered", "refused", "by reason", *BAD)
    table = Table("target", *(Column(name, justify="left" if name == "by reason" else "right") for name in numbers))
    for name, row in (*rows.items(), ("all", sum(rows.values(), Counter()))):
        reasons = {reason: row[reason] for reason in sorted(REASONS, key=lambda reason: -row[reason]) if row[reason]}
        table.add_row(
            name,
            f"{row['inputs']:,}",
            f"{row['reached'] / max(row['inputs'], 1):.0%}",
            f"{row['answered']:,}",
            f"{sum(reasons.values()):,}",
            ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()),
            *(f"{row[bad]:,}" for bad in BAD),
            end_section=name == list(rows)[-1],
        )
    return table


def feed(
    inputs: Annotated[int, typer.Option(help="Number of inputs, of all targets together.", min=1)] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Seed of the first inputs and of all changes.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Target to feed, may be repeated; all by default.")] = None,
    minutes: Annotated[float, typer.Option(help="Time after which it ends, in minutes.")] = 60,
    folder: Annotated[Path, typer.Option(help="Folder that gets one of this run, with the findings.")] = RUNS,
    replay: Annotated[Path | None, typer.Option(help="File of one input to feed once, and nothing else.")] = None,
) -> None:
    """Feeds the targets and prints what came of it; exit code 1 if anything is wrong or left undone."""
    console, names = Console(width=None if sys.stdout.isatty() else 150), only or list(TARGETS)
    if replay:
        console.print(TARGETS[names[0]].judge(Bench(), replay.read_bytes()))
        return
    run = folder / time.strftime("%Y%m%d-%H%M%S")
    run.mkdir(parents=True)
    end, shares = time.monotonic() + 60 * minutes, sum(TARGETS[name].share for name in names)
    counts = {name: math.ceil(inputs * TARGETS[name].share / shares) for name in names}
    with ThreadPoolExecutor(2) as pool:
        tallies = list(pool.map(lambda name: watch(name, run, counts[name], seed, end), names))
    console.print(table_of(tallies))
    file = run / "findings"
    findings = Counter(file.read_text().splitlines() if file.exists() else ())
    for line, times in findings.most_common():
        kind, what, name = json.loads(line)
        console.print(f"{times:,} {kind}: {what}\n    {run / name}", markup=False, highlight=False, soft_wrap=True)
    left = {tally.name: counts[tally.name] - tally["inputs"] for tally in tallies}
    for name, count in left.items():
        if count > 0:
            console.print(f"{name}: {count:,} inputs are left")
    raise typer.Exit(int(bool(findings) or any(count > 0 for count in left.values())))


if __name__ == "__main__":
    typer.run(feed)
