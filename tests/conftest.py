import pytest

from classifier import PatternClassifier


@pytest.fixture(scope="session")
def classifier():
    """The bundled model."""
    return PatternClassifier.load()


@pytest.fixture(scope="session")
def labelled():
    """The labelled data set."""
    from training.dataset import read_dataset

    return read_dataset()
