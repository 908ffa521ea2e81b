import json

import numpy as np

from tests.helpers import golden_files


def test_rendering_is_as_recorded():
    """A change here needs a higher RENDERING_VERSION and a model trained anew."""
    with np.load(golden_files.FOLDER / "images.npz", allow_pickle=False) as recorded:
        difference = np.abs(recorded["images"].astype(int) - golden_files.images())
    assert difference.max() <= 1  # a shade, where another processor rounds a half the other way
    assert (difference > 0).mean() < 1e-4


def test_classification_is_as_recorded():
    recorded = json.loads((golden_files.FOLDER / "classification.json").read_text())
    now = golden_files.classification()
    assert now["model"] == recorded["model"]
    assert now["patterns"] == recorded["patterns"]
    np.testing.assert_allclose(now["probabilities"], recorded["probabilities"], atol=2e-3)
    assert now["share"].keys() == recorded["share"].keys()
    for name, share in now["share"].items():
        np.testing.assert_allclose(share, recorded["share"][name], atol=2e-5)
