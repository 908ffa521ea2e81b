"""A server process that is short of memory, or given as much work as callers can make: it ends or answers."""

import resource
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import numpy as np
import pytest

from attention_patterns_service.limits import MIB, Limits
from tests.attacks.fuzz import ROOT, environment
from tests.attacks.hostile_messages import ANY_SIZE, hostile_messages, method_for
from tests.helpers.calls import message_of, method_of
from tests.helpers.drawn_maps import random_maps
from tests.helpers.servers import Holdings, process_of, run, serving

SMALL = message_of(random_maps(9, 9))


def outcome_of(method, message, timeout=60):
    try:
        method(message, timeout=timeout)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


@pytest.mark.parametrize("spare", [0, 20 * MIB])
def test_a_server_without_memory_ends_or_answers_and_is_never_deaf(spare):
    """No thread and no message has room any more: the server then refuses, or its process ends and is replaced."""
    large = message_of(random_maps(40, 12, 128, 128).astype(np.float32))
    with process_of("--log-level=error") as (process, endpoint), grpc.insecure_channel(endpoint) as channel:
        method = method_of(channel)
        method(SMALL)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + spare
        resource.prlimit(process.pid, resource.RLIMIT_AS, (most, most))
        with ThreadPoolExecutor(32) as pool:
            outcomes = Counter(pool.map(lambda message: outcome_of(method, message), [SMALL, large] * 32))
        assert "DEADLINE_EXCEEDED" not in outcomes
        process.terminate()
        assert process.wait(60) is not None


def test_the_memory_is_what_check_promises():
    """All kinds of messages at once, several times each, by callers of whom some do not take their answers."""
    limits = Limits(message_bytes=16 * MIB, calls=16, bytes=192 * MIB)
    options = ("--max-message-mib=16", "--max-calls=16", "--max-bytes-mib=192")
    promised = run(*options, "--check").stdout
    assert f"{limits.memory // MIB:,} MiB" in promised
    messages = hostile_messages(limits)
    with serving(*options, "--log-level=error") as (process, endpoint):
        local = [("grpc.use_local_subchannel_pool", 1), *ANY_SIZE]
        channels = [grpc.insecure_channel(endpoint, options=local) for _ in range(4)]
        for _ in range(3):  # what the first calls load stays
            method_of(channels[0])(message_of(random_maps(12, 12, 128, 128).astype(np.float32)))
        before = Holdings.of(process.pid).peak
        work = [(name, channel) for name in messages for channel in channels for _ in range(2)]
        with ThreadPoolExecutor(16) as pool:
            outcomes = pool.map(
                lambda one: (one[0], outcome_of(method_for(one[1], one[0]), messages[one[0]], 300)), work
            )
            ended = Counter(outcomes)
        taken = Holdings.of(process.pid).peak - before
        for channel in channels:
            channel.close()
    assert taken <= limits.memory // MIB, ended
    assert not [name for name, code in ended if code in ("INTERNAL", "UNKNOWN", "UNAVAILABLE")], ended
    assert ended["a long map", "OK"]
    assert ended["most groups", "OK"]


@pytest.mark.parametrize("name", ["most groups", "most maps", "many maps", "the largest answer", "images"])
def test_work_ends_with_the_call_at_every_stage(name):
    """Four callers leave in the middle of long work; SIGTERM then finds nothing left to wait for."""
    message = hostile_messages(Limits(message_bytes=16 * MIB))[name]
    with (
        process_of("--grace=1", "--log-level=error") as (process, endpoint),
        grpc.insecure_channel(endpoint, options=ANY_SIZE) as channel,
    ):
        method = method_for(channel, name)
        for _ in range(3):
            calls = [method.future(message) for _ in range(4)]
            Event().wait(0.3)
            for call in calls:
                call.cancel()
        calls = [method.future(message) for _ in range(4)]
        Event().wait(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0  # and not by SIGALRM


def test_a_good_client_is_answered_rightly_beside_hostile_callers():
    command = [sys.executable, "-P", "-m", "tests.attacks.hostile", "attack", "--minutes=0.2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flood: RESOURCE_EXHAUSTED" in done.stdout
    assert "show_strange_tokens: UNAUTHENTICATED" in done.stdout
