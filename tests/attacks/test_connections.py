"""More connections than a server may have open files."""

import resource
import signal
from contextlib import ExitStack, contextmanager
from urllib.request import urlopen

import pytest

from attention_patterns_service import Client, Limits
from attention_patterns_service.limits import OTHER_FILES
from tests.helpers.drawn_maps import random_maps
from tests.helpers.equality import assert_equal
from tests.helpers.http2 import HELLO, SETTINGS_KNOWN, connection, read_until
from tests.helpers.servers import Holdings, free_port, run, serving, until

MAPS = random_maps(3, 12, 24, 24)
CONNECTIONS = 100


@contextmanager
def open_files(count):
    """Limits the files that processes started meanwhile may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_bounds_connections():
    with open_files(CONNECTIONS + OTHER_FILES):
        assert Limits().connections == CONNECTIONS
    with open_files(OTHER_FILES):
        assert Limits().connections == 1


@pytest.mark.parametrize("words", [b"", HELLO], ids=["silent", "idle"])
def test_beyond_the_limit_of_open_files_others_are_refused_and_standing_calls_go_on(classifier, words):
    expected = classifier.classify(MAPS)
    with ExitStack() as stack:
        with open_files(CONNECTIONS + OTHER_FILES):
            process, endpoint = stack.enter_context(serving(f"--metrics-port={(metrics_port := free_port())}"))
        port = int(endpoint.rpartition(":")[2])
        standing = stack.enter_context(Client(endpoint))
        assert_equal(standing.classify(MAPS), expected)
        crowd = stack.enter_context(ExitStack())
        for _ in range(CONNECTIONS - 1):
            client = crowd.enter_context(connection(port, words))
            if words:
                read_until(client, SETTINGS_KNOWN)
        until(lambda: Holdings.of(process.pid).files >= CONNECTIONS)
        for _ in range(2 * CONNECTIONS):  # closed at once, those before them are not
            with connection(port) as refused:
                assert read_until(refused) == b""
        assert run("health", endpoint).stdout == ""
        assert_equal(standing.classify(MAPS), expected)
        with urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as page:
            assert b"attention_requests_total" in page.read()
        process.send_signal(signal.SIGHUP)  # files are left to read the model again
        until(lambda: "model loaded" in process.stderr.readline())
        assert_equal(standing.classify(MAPS), expected)
        if words:
            crowd.close()
        until(lambda: run("health", endpoint).stdout == "SERVING\n")  # silent ones give their places back
        assert_equal(standing.classify(MAPS), expected)
