import pytest

from attention_patterns_training.labels.dataset import read_dataset


@pytest.fixture(scope="session")
def labelled():
    """The labelled data set."""
    return read_dataset()
