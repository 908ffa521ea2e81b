import numpy as np
import onnxruntime
import pytest
import torch

from classifier import PATTERNS, ModelBundle, Pattern
from classifier.bundle import BUNDLED
from training.card import card_text
from training.evaluate import split_figures
from training.net import IMAGE_SIZE, PatternNet, Probabilities
from training.synthetic import draw_many
from training.train import export, fit, images_of, turned


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A net after a short training on synthetic maps, and its exported bundle."""
    torch.manual_seed(0)
    drawn = draw_many(1500, seed=1)
    images = images_of([one.attention for one in drawn])
    targets = torch.eye(len(PATTERNS))[[PATTERNS.index(one.pattern) for one in drawn]]
    net = PatternNet()
    fit(net, images, targets, epochs=5, batch=64, rate=3e-3, title="test")
    folder = tmp_path_factory.mktemp("bundle")
    export(net, folder, dataset_sha256="0" * 64)
    return net, folder, images, targets


def test_the_net_learns(trained):
    net, _, images, targets = trained
    assert (net(images).argmax(dim=1) == targets.argmax(dim=1)).float().mean() > 0.6


def test_torch_and_onnxruntime_agree(trained):
    net, folder, images, _ = trained
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, 7, 200):  # the batch axis is dynamic
        with torch.inference_mode():
            expected = Probabilities(net).eval()(images[:count]).numpy()
        (answered,) = session.run(["probabilities"], {"images": images[:count].numpy()})
        np.testing.assert_allclose(answered, expected, atol=1e-5)
    assert ModelBundle.read(folder).image_size == IMAGE_SIZE


def test_no_machine_is_named_in_the_model(trained):
    """The exporter notes where each operation was called; that does not leave the machine."""
    for folder in (trained[1], BUNDLED):
        assert b".py" not in (folder / "model.onnx").read_bytes()


def test_the_net_is_the_papers_kind_and_small():
    net = PatternNet()
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in net.modules()) == 8
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in net.modules()) == 8
    assert sum(parameter.numel() for parameter in net.parameters()) < 500_000


def test_turning_leaves_causal_maps_alone():
    causal = np.tril(np.ones((20, 20))) / np.arange(1, 21)[:, None]
    both = images_of(
        [causal.astype(np.float32), np.eye(20, k=3, dtype=np.float32)[:20] + np.eye(20)[:] * 0 + _last(20)]
    )
    torch.manual_seed(3)
    seen = torch.stack([turned(both) for _ in range(20)])
    assert (seen[:, 0] == both[0]).all()
    assert (seen[:, 1] == both[1]).flatten(1).all(dim=1).any()
    assert (seen[:, 1] == both[1].flip(1, 2)).flatten(1).all(dim=1).any()


def _last(length):
    """Weight for the rows that the offset diagonal leaves empty."""
    one = np.zeros((length, length), np.float32)
    one[-3:, 0] = 1
    return one


def test_synthetic_maps_are_attention_of_every_class():
    drawn = draw_many(100, seed=4)
    assert {one.pattern for one in drawn} == set(Pattern)
    for one in drawn:
        assert one.attention.min() >= 0
        np.testing.assert_allclose(one.attention.sum(axis=1), 1, atol=1e-5)
        assert sum(one.segments) == len(one.attention)
        assert one.pattern is not Pattern.BLOCK or len(one.segments) > 1
    again = draw_many(100, seed=4)
    assert all((a.attention == b.attention).all() for a, b in zip(drawn, again, strict=True))


def test_the_shipped_card_states_the_shipped_figures():
    bundle = ModelBundle.read()
    assert (BUNDLED / "MODEL_CARD.md").read_text() == card_text(bundle)


def test_the_shipped_figures_are_those_of_the_shipped_model(labelled):
    bundle = ModelBundle.read()
    for split in ("validation", "test"):
        for name, value in split_figures(bundle, labelled, split).items():
            assert bundle.metrics[name] == pytest.approx(value, abs=0.01), name
