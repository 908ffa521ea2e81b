import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from attention_patterns import ModelBundle
from attention_patterns.bundle import BUNDLED
from attention_patterns_training.__main__ import app
from attention_patterns_training.evaluation import ablation, robustness, speed
from attention_patterns_training.evaluation.baselines import FEATURES, Rule, boosted_trees, features
from attention_patterns_training.evaluation.card import card_text
from attention_patterns_training.evaluation.evaluate import answer_maps, compute_figures, headline_figures
from attention_patterns_training.evaluation.pictures import draw_maps, draw_sureness
from attention_patterns_training.evaluation.results import read_results
from attention_patterns_training.labels.annotators import is_certain
from attention_patterns_training.net.examples import render_all
from attention_patterns_training.net.fit import HAND_LABELS
from attention_patterns_training.net.net import Design, PatternNet
from attention_patterns_training.net.recipe import NetMaker, Recipe


def test_the_card_is_what_was_measured():
    assert (BUNDLED / "MODEL_CARD.md").read_text() == card_text(ModelBundle.read(), read_results())


def test_the_card_is_whole():
    """Every program has been run for the model that is shipped, and the pictures are there."""
    results, card = read_results(), (BUNDLED / "MODEL_CARD.md").read_text()
    assert set(results) == {"ablation", "elsewhere", "figures", "robustness", "speed", "validation"}
    assert results["elsewhere"]["model"] == ModelBundle.read().version
    assert set(ablation.ALTERNATIVES) < set(results["ablation"])
    for name in re.findall(r"\]\((\w+\.png)\)", card):
        assert np.asarray(Image.open(BUNDLED / name).convert("L")).std() > 10
    assert card.count(".png)") == 2


@pytest.mark.parametrize("split", ["validation", "test", "held-out"])
def test_the_figures_are_those_of_the_shipped_model(labelled, split):
    bundle, data = ModelBundle.read(), labelled.split(split)
    answers = answer_maps(bundle, data)
    figures = compute_figures(data, answers, uncertain_below=bundle.uncertain_below, resamples=2)
    for name, value in headline_figures(split, figures).items():
        assert bundle.metrics[name] == pytest.approx(value, abs=0.01), name


def test_the_pictures_are_drawn(tmp_path, validation, answers):
    figures = compute_figures(validation, answers, uncertain_below=0.5, resamples=2)
    draw_sureness(figures, 0.5, tmp_path / "sureness.png")
    draw_maps(validation, answers, tmp_path / "maps.png")
    for name in ("sureness.png", "maps.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert picture.shape[1] >= 900
        assert picture.std() > 10


def test_splitting_tokens_keeps_the_rows_and_what_annotators_were_sure_of(classifier, validation):
    attention = validation.maps[0].astype(np.float32)
    split = robustness.split_tokens(attention, 3)
    assert split.shape == (3 * len(attention), 3 * len(attention))
    np.testing.assert_allclose(split.sum(axis=1), 1, atol=2e-3)
    np.testing.assert_array_equal(split[::3, ::3], attention / np.float32(3))
    sure = validation.rows(np.flatnonzero(is_certain(validation.table)))
    for figures in robustness.measure_resizing(classifier, sure).values():
        assert figures["certain_maps"] == figures["maps"] > 0
        assert figures["certain_share"] >= 0.97


def test_padding_changes_nothing(classifier, validation):
    some = validation.rows(np.arange(0, len(validation.maps), 20))
    assert robustness.measure_padding(classifier, some) == {"maps": 3 * len(some.maps), "share": 1.0}


def test_a_heavier_sink_stays_vertical(classifier, validation):
    figures = robustness.measure_sinks(classifier, validation)
    assert figures["maps"] > 30
    assert figures["10"] >= 0.97


def test_strangers_are_not_taken_for_stripes(classifier, validation):
    for kind, figures in robustness.measure_strangers(classifier, validation).items():
        assert figures["maps"] > 20, kind
        assert figures["confident_vertical"] <= 0.03, kind
        assert figures["heterogeneous_or_uncertain"] >= 0.95, kind


def test_speed_is_measured_against_the_plain_reading(monkeypatch, labelled):
    """Measures the shipped net and two other designs, one of them the plain reading, over every tenth map."""
    wide = "one net, twice as many channels"
    monkeypatch.setattr(speed, "ROUNDS", 1)
    alternatives = {name: ablation.ALTERNATIVES[name] for name in ("shipped", ablation.PLAINLY, wide)}
    monkeypatch.setattr(speed, "ALTERNATIVES", alternatives)
    monkeypatch.setattr(speed, "read_dataset", lambda: labelled.rows(np.arange(0, len(labelled.maps), 10)))
    printed = " ".join(CliRunner().invoke(app, ["speed"], catch_exceptions=False).output.split())  # lines wrap
    for name in ("shipped", "int8, dynamic", "int8, static", wide):
        assert f"{name}: " in printed
    assert re.search(f"{ablation.PLAINLY}: [0-9,]+ maps/s, 1.00 of the plain reading", printed)


def test_every_alternative_has_a_net(validation):
    for recipe in ablation.ALTERNATIVES.values():
        images = render_all(validation.maps[:2], recipe.design.image_size)
        assert ablation.mean_probabilities([PatternNet(recipe.design).eval()], images).shape == (2, 5)


def test_recipes_make_nets(labelled):
    maker = NetMaker(labelled.split("train").rows(np.arange(60)), synthetic_maps=60)
    course, design = replace(HAND_LABELS, epochs=2), Design(32)
    images = render_all(labelled.maps[:50], design.image_size)
    for recipe, count in (
        (Recipe(design, nets=1, pre_train=False, distil=False, course=course), 1),
        (Recipe(design, nets=2, distil=False, course=course), 2),
        (Recipe(design, nets=2, course=course), 1),
    ):
        nets, others = maker.make(recipe, seed=1), maker.make(recipe, seed=2)
        assert len(nets) == len(others) == count
        probabilities = ablation.mean_probabilities(nets, images)
        assert probabilities.shape == (50, 5)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        assert not np.array_equal(probabilities, ablation.mean_probabilities(others, images))


def test_the_rule_by_hand():
    """Half of the attention is visible. All in stripes: Vertical; 0.4 of 0.5 in either, 0.12 of it in lines: both."""
    measured = np.zeros((5, len(FEATURES)))
    measured[:, 0], measured[:, 11] = 0.5, 1.0
    measured[0, [1, 3]] = 0.5  # stripes hold everything
    measured[1, [2, 3]] = 0.5  # lines hold everything
    measured[2, [1, 2, 3]] = 0.3, 0.12, 0.4
    measured[3, [1, 3, 4, 11]] = 0.1, 0.1, 0.9, 0.5  # little in stripes; 0.9 in the own segment, 0.5 by chance
    measured[4, [1, 3]] = 0.3  # two fifths of what is visible lies elsewhere
    assert Rule().answer(measured).tolist() == [0, 1, 2, 3, 4]


def test_trees_learn_from_the_measures(validation):
    measured, truth = features(validation), validation.table["pattern"].astype("category").cat.codes.to_numpy()
    assert measured.shape == (len(validation.maps), len(FEATURES))
    assert np.isfinite(measured).all()
    assert (boosted_trees(measured, truth).predict(measured) == truth).mean() > 0.9
