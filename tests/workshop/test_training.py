from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
import typer

from attention_patterns import ModelBundle, Pattern
from attention_patterns.bundle import BUNDLED
from attention_patterns_training.evaluation.ablation import answer_names
from attention_patterns_training.evaluation.evaluate import calibration_error, compute_figures, coverage_curve
from attention_patterns_training.labels.dataset import LabelledMaps, write_labels, write_maps
from attention_patterns_training.net.examples import hard_targets, render_all, soft_targets, synthetic_examples
from attention_patterns_training.net.export import export
from attention_patterns_training.net.fit import HAND_LABELS, fit, turn_half
from attention_patterns_training.net.net import PLAIN, Design, PatternNet, Probabilities
from attention_patterns_training.net.synthetic import draw_many
from attention_patterns_training.train import fit_temperature, fit_threshold, train

DESIGN = Design()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A net after a short training on synthetic maps, and its exported bundle."""
    torch.manual_seed(0)
    examples = synthetic_examples(DESIGN.image_size, 300)
    net = PatternNet(DESIGN)
    fit(net, examples, replace(HAND_LABELS, epochs=8, batch=32, rate=3e-3))
    folder = tmp_path_factory.mktemp("bundle")
    export(net, DESIGN, folder, temperature=1.5, dataset_sha256="0" * 64)
    return net, folder, examples


def test_the_net_learns(trained):
    net, _, examples = trained
    assert (net(examples.images).argmax(dim=1) == examples.targets.argmax(dim=1)).float().mean() > 0.6


def test_torch_and_onnxruntime_agree(trained):
    net, folder, examples = trained
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, 7, 200):  # the batch axis is dynamic
        with torch.inference_mode():
            expected = Probabilities(net, 1.5).eval()(examples.images[:count]).numpy()
        (probabilities,) = session.run(["probabilities"], {"images": examples.images[:count].numpy()})
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert ModelBundle.read(folder).image_size == DESIGN.image_size


def test_no_machine_is_named_in_the_model(trained):
    """The exporter notes where each operation was called; that does not leave the machine."""
    for folder in (trained[1], BUNDLED):
        assert b".py" not in (folder / "model.onnx").read_bytes()


def test_the_net_is_the_papers_kind_and_small():
    net = PatternNet(DESIGN)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in net.modules()) == 8
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in net.modules()) == 8
    assert sum(parameter.numel() for parameter in net.parameters()) < 500_000


def test_turning_leaves_causal_maps_alone():
    causal = np.tril(np.ones((20, 20))) / np.arange(1, 21)[:, None]
    both = render_all([causal.astype(np.float32), np.eye(20, k=3, dtype=np.float32) + _last(20)], DESIGN.image_size)
    torch.manual_seed(3)
    seen = torch.stack([turn_half(both) for _ in range(20)])
    assert (seen[:, 0] == both[0]).all()
    assert (seen[:, 1] == both[1]).flatten(1).all(dim=1).any()
    assert (seen[:, 1] == both[1].flip(1, 2)).flatten(1).all(dim=1).any()


def _last(length):
    """Weight for the rows that the offset diagonal leaves empty."""
    weight = np.zeros((length, length), np.float32)
    weight[-3:, 0] = 1
    return weight


def test_synthetic_maps_are_attention_of_every_class():
    drawn = draw_many(100, seed=4)
    assert {synthetic.pattern for synthetic in drawn} == set(Pattern)
    for synthetic in drawn:
        assert synthetic.attention.min() >= 0
        np.testing.assert_allclose(synthetic.attention.sum(axis=1), 1, atol=1e-5)
        assert sum(synthetic.segments) == len(synthetic.attention)
        assert synthetic.pattern is not Pattern.BLOCK or len(synthetic.segments) > 1
    again = draw_many(100, seed=4)
    assert all((a.attention == b.attention).all() for a, b in zip(drawn, again, strict=True))


def test_a_block_on_one_segment_is_never_answered(validation):
    probabilities = np.tile(np.array([0.1, 0.1, 0.1, 0.4, 0.3], np.float32), (len(validation.maps), 1))
    single = ~validation.table["segments"].str.contains("+", regex=False).to_numpy()
    assert set(answer_names(probabilities, validation)[single]) == {"Heterogeneous"}
    assert set(answer_names(probabilities, validation)[~single]) == {"Block"}


def test_soft_labels_hold_every_answer(labelled):
    """Worked: label V (second H), a V (H), b H: V = (0.75 + 0.75) / 3, H = (0.25 + 0.25 + 1) / 3."""
    row = labelled.table.iloc[:1].assign(
        pattern="Vertical", second="Heterogeneous", annotator_a="Vertical", annotator_a_second="Heterogeneous",
        annotator_b="Heterogeneous", annotator_b_second="",
    )  # fmt: skip
    data = LabelledMaps(labelled.maps[:1], row)
    np.testing.assert_allclose(soft_targets(data)[0], [0.5, 0, 0, 0, 0.5], atol=1e-6)
    assert hard_targets(data)[0].tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_allclose(soft_targets(labelled).sum(1), 1, atol=1e-5)


def test_calibration_error_by_hand():
    """Two bins of two maps: confidence 0.95 with one of two right, 0.55 with one of two: (0.45 + 0.05) / 2 = 0.25."""
    right, confidence = np.array([True, False, True, False]), np.array([0.95, 0.95, 0.55, 0.55])
    assert calibration_error(right, confidence) == pytest.approx(0.25)
    curve = coverage_curve(right, confidence)
    assert next(point["coverage"] for point in curve if point["threshold"] > 0.6) == 0.5


def test_the_threshold_keeps_what_is_right_often_enough():
    confidence = np.linspace(1, 0, 1000)
    right = np.arange(1000) < 940  # the 60 least confident are wrong
    kept = confidence >= fit_threshold(right, confidence)
    assert right[kept].mean() >= 0.97
    assert kept.mean() >= 0.9
    assert (confidence >= fit_threshold(np.zeros(1000, bool), confidence)).mean() == pytest.approx(0.9, abs=0.002)


def test_temperature_softens_a_net_that_is_too_sure(trained, validation):
    assert fit_temperature(trained[0], DESIGN, validation) > 1


def test_the_shipped_net_is_small_and_the_papers_kind():
    bundle = ModelBundle.read()
    assert bundle.model_path.stat().st_size <= 2e6
    assert len(DESIGN.widths) == len(PLAIN.widths) == 8
    assert bundle.image_size == DESIGN.image_size


def test_a_data_set_of_one_annotator_can_be_trained_on(tmp_path, labelled, validation, answers):
    """The other gave no answers: targets and figures do without them."""
    alone = LabelledMaps(validation.maps, validation.table.assign(annotator_b="", annotator_b_second=""))
    np.testing.assert_allclose(soft_targets(alone).sum(1), 1, atol=1e-6)
    figures = compute_figures(alone, answers, uncertain_below=0.5, resamples=2)
    assert "annotators" not in figures
    assert figures["maps"] == len(validation.maps)
    write_labels(labelled.table.iloc[:3].assign(pattern=""), tmp_path)
    write_maps(dict(zip(labelled.table["map_id"][:3], labelled.maps[:3], strict=True)), tmp_path)
    with pytest.raises(typer.BadParameter, match="no labelled map of split 'train'"):
        train(output=tmp_path / "bundle", folder=tmp_path, threads=1)
