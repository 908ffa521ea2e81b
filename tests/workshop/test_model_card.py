import re

import numpy as np
import pytest
from PIL import Image

from attention_patterns import ModelBundle
from attention_patterns.bundle import BUNDLED
from attention_patterns_training.evaluation import ablation, robustness, speed
from attention_patterns_training.evaluation.baselines import FEATURES, Rule, boosted_trees, features
from attention_patterns_training.evaluation.card import card_text
from attention_patterns_training.evaluation.evaluate import answers, figures, headline
from attention_patterns_training.evaluation.pictures import draw_maps, draw_sureness
from attention_patterns_training.evaluation.results import read_results
from attention_patterns_training.labels.dataset import LabelledMaps
from attention_patterns_training.net import recipe
from attention_patterns_training.net.examples import images_of, synthetic_examples
from attention_patterns_training.net.net import Design
from attention_patterns_training.net.recipe import Recipe


@pytest.fixture(scope="module")
def validation(labelled):
    return labelled.part("validation")


@pytest.fixture(scope="module")
def given(validation):
    return answers(ModelBundle.read(), validation)


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
    bundle, part = ModelBundle.read(), labelled.part(split)
    found = headline(split, figures(part, answers(bundle, part), uncertain_below=bundle.uncertain_below, resamples=2))
    for name, value in found.items():
        assert bundle.metrics[name] == pytest.approx(value, abs=0.01), name


def test_the_pictures_are_drawn(tmp_path, validation, given):
    found = figures(validation, given, uncertain_below=0.5, resamples=2)
    draw_sureness(found, 0.5, tmp_path / "sureness.png")
    draw_maps(validation, given, tmp_path / "maps.png")
    for name in ("sureness.png", "maps.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert picture.shape[1] >= 900
        assert picture.std() > 10


def test_splitting_tokens_keeps_the_rows_and_what_annotators_were_sure_of(classifier, validation):
    one = validation.maps[0].astype(np.float32)
    split = robustness.resized(one, 3)
    assert split.shape == (3 * len(one), 3 * len(one))
    np.testing.assert_allclose(split.sum(axis=1), 1, atol=2e-3)
    np.testing.assert_array_equal(split[::3, ::3], one / np.float32(3))
    for found in robustness.kept_under_resizing(classifier, validation).values():
        assert found["certain_maps"] > 0
        assert found["certain_share"] >= 0.97


def test_padding_changes_nothing(classifier, validation):
    some = LabelledMaps(validation.maps[::20], validation.table.iloc[::20].reset_index(drop=True))
    assert robustness.kept_with_padding(classifier, some) == {"maps": 3 * len(some.maps), "share": 1.0}


def test_a_heavier_sink_stays_vertical(classifier, validation):
    found = robustness.kept_with_another_sink(classifier, validation)
    assert found["maps"] > 30
    assert found["10"] >= 0.97


def test_strangers_are_not_taken_for_stripes(classifier, validation):
    for kind, found in robustness.answers_to_strangers(classifier, validation).items():
        assert found["maps"] > 20, kind
        assert found["confident_vertical"] <= 0.03, kind
        assert found["heterogeneous_or_uncertain"] >= 0.95, kind


def test_speed_is_measured_against_the_plain_reading(monkeypatch, capsys):
    monkeypatch.setattr(speed, "ROUNDS", 1)
    speed.main()
    lines = capsys.readouterr().out
    for name in ("shipped", "int8, dynamic", "int8, static", "twice as many channels"):
        assert f"{name}: " in lines
    assert "the paper read plainly, 64 x 64: " in lines


def test_recipes_make_nets(monkeypatch, labelled):
    monkeypatch.setattr(recipe, "synthetic_examples", lambda size: synthetic_examples(size, 200))
    rows = np.flatnonzero(labelled.table["split"] == "train")[:120]
    data = LabelledMaps(tuple(labelled.maps[n] for n in rows), labelled.table.iloc[rows].reset_index(drop=True))
    workshop, images = recipe.Workshop(data), images_of(labelled.maps[:50], Design().image_size)
    for way, count in (
        (Recipe(nets=1, pre_train=False, distilled=False), 1),
        (Recipe(nets=2, distilled=False), 2),
        (Recipe(nets=2), 1),
    ):
        one, other = workshop.nets(way, seed=1), workshop.nets(way, seed=2)
        assert len(one) == len(other) == count
        found = ablation.probabilities(one, images)
        assert found.shape == (50, 5)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        assert not np.array_equal(found, ablation.probabilities(other, images))


def test_the_rule_by_hand():
    """Half of the attention is visible. All in stripes: Vertical; 0.4 of 0.5 in either, 0.12 of it in lines: both."""
    measured = np.zeros((5, len(FEATURES)))
    measured[:, 0], measured[:, 11] = 0.5, 1.0
    measured[0, [1, 3]] = 0.5  # stripes hold everything
    measured[1, [2, 3]] = 0.5  # lines hold everything
    measured[2, [1, 2, 3]] = 0.3, 0.12, 0.4
    measured[3, [1, 3, 4, 11]] = 0.1, 0.1, 0.9, 0.5  # little in stripes; 0.9 in the own segment, 0.5 by chance
    measured[4, [1, 3]] = 0.3  # two fifths of what is visible lies elsewhere
    assert Rule().answers(measured).tolist() == [0, 1, 2, 3, 4]


def test_trees_learn_from_the_measures(labelled):
    part = labelled.part("validation")
    measured, truth = features(part), part.table["pattern"].astype("category").cat.codes.to_numpy()
    assert measured.shape == (len(part.maps), len(FEATURES))
    assert np.isfinite(measured).all()
    assert (boosted_trees(measured, truth).predict(measured) == truth).mean() > 0.9
