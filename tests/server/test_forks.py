"""A forked process uses the classifiers of its parent: threads and connections do not survive a fork."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from attention_patterns.per_process import PerProcess
from tests.helpers.servers import serving

ROOT = Path(__file__).parents[2]
WAYS = ("process", "pool", "loader", "exit")


@pytest.fixture(scope="module")
def endpoint():
    """The endpoint of a server in another process: one that also serves may fork only before that."""
    with serving() as (_, address):
        yield address


def answer_of(*arguments):
    command = [sys.executable, "-m", "tests.helpers.forked", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", WAYS)
def test_a_classifier_answers_in_forked_processes(way):
    assert answer_of(way) == "the same\n"


@pytest.mark.parametrize("way", WAYS)
def test_a_client_answers_in_forked_processes(endpoint, way):
    assert answer_of(way, endpoint) == "the same\n"


def test_a_process_makes_an_object_once_and_a_forked_one_makes_its_own():
    made = PerProcess(object)
    assert made.get_made() is None
    assert made.get() is made.get() is made.get_made()
    inherited = made.get()
    if (child := os.fork()) == 0:
        os._exit(0 if made.get_made() is None and made.get() is not inherited else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert made.get() is inherited


def test_threads_that_need_an_object_at_once_get_the_same():
    together = threading.Barrier(4)
    made = PerProcess(lambda: (together.wait(60), object())[1])
    got = []
    threads = [threading.Thread(target=lambda: got.append(made.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, got))) == 1
