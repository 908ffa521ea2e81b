"""The bench of the fuzzer, for the tests of the fuzzer and of bad input."""

import logging

import pytest

from tests.attacks.fuzz_targets import Bench


@pytest.fixture(scope="module")
def bench(classifier):
    """The server's methods without a server."""
    logger = logging.getLogger("attention_patterns_service.contract.errors")
    before = logger.handlers, logger.propagate
    yield Bench(classifier)
    logger.handlers, logger.propagate = before
