import os

import pytest

from classifier import PatternClassifier
from service import AttentionServer, Client
from training.dataset import read_dataset

os.environ["HF_HUB_OFFLINE"] = "1"  # models come from packages or are made by the tests


@pytest.fixture(scope="session")
def classifier():
    """The bundled model."""
    return PatternClassifier.load()


@pytest.fixture(scope="session")
def labelled():
    """The labelled data set."""
    return read_dataset()


@pytest.fixture(scope="session")
def server(classifier):
    """A real server on a free port of this machine."""
    with AttentionServer(classifier, port=0) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    """A client of it."""
    with Client(server.endpoint) as connected:
        yield connected
