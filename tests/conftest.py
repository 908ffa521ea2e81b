import os

import pytest

from attention_patterns import PatternClassifier
from attention_patterns_service import AttentionServer, Client

os.environ["HF_HUB_OFFLINE"] = "1"  # models come from packages or are made by the tests
# At Ray's own niceness, 15, its workers stand still beside other work.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's spelling


@pytest.fixture(scope="session")
def classifier():
    """The classifier of the bundled model."""
    return PatternClassifier.load()


@pytest.fixture(scope="session")
def server(classifier):
    """A real server on a free port of this machine."""
    with AttentionServer(classifier, port=0) as running:
        yield running


@pytest.fixture(scope="session", params=["never", "always", "auto"])
def client(server, request):
    """A client of the server, which sends maps, images, or the smaller of both."""
    with Client(server.endpoint, reduce=request.param) as connected:
        yield connected
