"""Runs that are killed before each of their writes: ``python -m tests.helpers.killed_runs FOLDER TASK=DUMP...``.

For each write of a run, FOLDER gets a run that was killed right before it, whose continuation was killed as well, at a
random write, and that was then continued to its end. FOLDER/reference is a run that was not killed.

Each run is a child of one process, in which all packages are loaded.
"""

import os
import random
import signal
import sys
import traceback
from itertools import count
from pathlib import Path

import pandas  # noqa: F401  pyarrow imports it as soon as it makes an array

from attention_patterns import PatternClassifier
from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.run.run import label
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.sources.source import Selection

CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")  # names of audit events
FEW = 12  # writes
MOST_SECONDS = 300  # of a run, which takes a fraction of one


def kill_before_write(folder, number):
    """Has this process killed right before its ``number``-th change of a folder."""
    writes = 0

    def look(event, arguments):
        nonlocal writes
        if is_change(event, arguments) and str(arguments[0]).startswith(str(folder)):
            writes += 1
            if writes == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def is_change(event, arguments):
    return event in CHANGES or (event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)))


def run_in_child(maker, output, kill_before=None):
    """Runs in a child process; returns whether it got to its end."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        if status not in (0, signal.SIGKILL):
            raise SystemExit(f"a run into {output} ended with status {status}")
        return status == 0
    try:
        signal.alarm(MOST_SECONDS)
        if kill_before:
            kill_before_write(output, kill_before)
        label(maker, output=output, settings={})
    except BaseException:  # noqa: BLE001  the child is no second parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def load(source):
    """Loads what a run needs, without a thread that a child would miss: the classifier, its kernel, and pandas."""
    classifier = PatternClassifier.load(threads=1)
    with classifier.on_this_thread():
        for unit in source.units():
            inputs = [one.maps for _, one in source.measure(unit, classifier, most_bytes=2**30)]
            classifier.classify_measured(inputs)
    return classifier


def main(folder, *dumps):
    source = DumpSource(dump_tasks(dumps), Selection(layers=(0,), heads=(0, 1)))
    maker = PartMaker(source, load(source), Memory.from_now(None))
    chance = random.Random(0)
    assert run_in_child(maker, Path(folder) / "reference")
    for number in count(1):
        output = Path(folder) / f"{number}"
        if run_in_child(maker, output, kill_before=number):
            break
        run_in_child(maker, output, kill_before=chance.randrange(1, FEW))
        assert run_in_child(maker, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
