"""A program that uses a classifier before and after a fork, in the way it is told; each wait in it is bounded.

    python -m tests.helpers.forked WAY [ENDPOINT]

The classifier is a client of ENDPOINT, or else the one of this process. It writes "the same" when parent and children
got the same answers.
"""

import os
import sys
from multiprocessing import get_context

import numpy as np

from attention_patterns import PatternClassifier
from attention_patterns_service import Client
from tests.helpers.drawn_maps import random_maps

SECONDS = 120  # longest wait for a child
MAPS = random_maps(6, 12, 100, 100)  # many enough for all threads of a classifier and of a client
FORK = get_context("fork")


def probabilities(_=None):
    """Returns the probabilities of the maps, as images and, of a client, as maps in several messages too."""
    return np.stack([way.classify(MAPS).probabilities for way in classifiers])


def by_process():
    """Asks in a child, and in a child of it."""
    answers = FORK.SimpleQueue()

    def ask(generations):
        answers.put(probabilities())
        if generations:
            run(generations - 1)

    def run(generations):
        child = FORK.Process(target=ask, args=(generations,))
        child.start()
        child.join(SECONDS)
        if child.exitcode is None:
            child.kill()
        assert child.exitcode == 0

    run(1)
    return [answers.get(), answers.get()]


def by_pool():
    """Asks in the workers of a pool."""
    with FORK.Pool(2) as pool:
        return pool.map_async(probabilities, range(4), chunksize=1).get(SECONDS)


def by_loader():
    """Asks in the workers of a torch DataLoader."""
    from torch.utils.data import DataLoader  # noqa: PLC0415  the other ways need no torch

    return list(DataLoader(range(4), 1, num_workers=2, timeout=SECONDS, collate_fn=probabilities))


def by_exit():
    """Asks in a child that ends as programs do, with the parent's objects still in its hands."""
    if os.fork() == 0:
        probabilities()
        sys.exit()
    return [] if os.wait()[1] == 0 else ["the child failed"]


way, *endpoint = sys.argv[1:]
if endpoint:
    classifiers = [Client(*endpoint, reduce=reduce, timeout=SECONDS) for reduce in ("always", "never")]
else:
    classifiers = [PatternClassifier.load(threads=2)]
before = probabilities()
answers = globals()[f"by_{way}"]()
answers.append(probabilities())
assert all(np.array_equal(answer, before) for answer in answers), answers
sys.stdout.write("the same\n")
