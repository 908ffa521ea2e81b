import numpy as np

from attention_patterns.drift import Drift, deciles, features
from attention_patterns.rendering import render
from attention_patterns_training.net.examples import render_all
from tests.helpers.drawn_maps import random_maps


def index_of(images, classifier):
    drift = Drift(classifier.bundle.reference)
    for image in images:
        drift.add(image[None])
    return drift.indices()


def test_the_training_maps_are_no_drift_and_noise_is(classifier, labelled):
    images = render_all(labelled.split("train").maps[::3], classifier.bundle.image_size).numpy()
    assert max(index_of(images, classifier).values()) < 0.1
    noise = render(random_maps(300, 60, 60), image_size=classifier.bundle.image_size)
    assert min(index_of(noise, classifier).values()) > 0.25


def test_the_bundle_s_reference_is_that_of_the_training_maps(classifier, labelled):
    images = render_all(labelled.split("train").maps, classifier.bundle.image_size).numpy()
    assert {name: list(edges) for name, edges in classifier.bundle.reference.items()} == deciles(images)


def test_an_index_by_hand():
    """Deciles 1 to 9; all of 200 maps in the first bin: with half a map more in each, p is 200.5/205 and 9 x 0.5/205.

    (0.97805 - 0.1) ln 9.7805 + 9 (0.00244 - 0.1) ln 0.0244 = 2.0024 + 3.2604.
    """
    drift = Drift({"maximum": range(1, 10)})
    for _ in range(200):
        drift.add(np.zeros((1, 3, 4, 4), np.uint8))
    counts = drift._counts["maximum"]
    counts[:] = [200, *[0] * 9]  # without forgetting
    assert abs(drift.indices()["maximum"] - 5.2628) < 0.001


def test_nothing_is_said_of_a_few_maps_or_without_a_reference(classifier):
    drift = Drift(classifier.bundle.reference)
    drift.add(np.zeros((99, 3, 48, 48), np.uint8))
    assert set(drift.indices().values()) == {0.0}
    Drift({}).add(np.zeros((1, 3, 48, 48), np.uint8))


def test_features_are_darkness_by_channel():
    images = np.stack([np.full((3, 4, 4), 7), np.arange(3)[:, None, None] * np.ones((3, 4, 4))]).astype(np.uint8)
    assert {name: values.tolist() for name, values in features(images).items()} == {
        "maximum": [7, 0],
        "mean": [7, 1],
        "relative_maximum": [7, 2],
    }
