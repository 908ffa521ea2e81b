import os

import pytest

from attention_patterns import PatternClassifier
from attention_patterns_service import AttentionServer, Client

os.environ["HF_HUB_OFFLINE"] = "1"  # models come from packages or are made by the tests


@pytest.fixture(scope="session")
def classifier():
    """The bundled model."""
    return PatternClassifier.load()


@pytest.fixture(scope="session")
def server(classifier):
    """A real server on a free port of this machine."""
    with AttentionServer(classifier, port=0) as running:
        yield running


@pytest.fixture(scope="session", params=["never", "always", "auto"])
def client(server, request):
    """A client of it, that reduces maps to images or does not."""
    with Client(server.endpoint, reduce=request.param) as connected:
        yield connected
