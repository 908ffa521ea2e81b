import pytest
import sklearn.ensemble  # noqa: F401  # its OpenMP must be loaded before it can be limited
import torch
from threadpoolctl import threadpool_limits

from attention_patterns import ModelBundle
from attention_patterns_training.evaluation.evaluate import answer_maps
from attention_patterns_training.labels.dataset import read_dataset


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Threads that wait for each other take minutes on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def labelled():
    """The labelled data set."""
    return read_dataset()


@pytest.fixture(scope="session")
def validation(labelled):
    """Its validation split."""
    return labelled.split("validation")


@pytest.fixture(scope="session")
def answers(validation):
    """The bundled model's answers to it."""
    return answer_maps(ModelBundle.read(), validation)
