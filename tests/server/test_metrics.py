"""Figures that the server keeps of itself, counted by hand."""

from collections import Counter

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from attention_patterns import PatternClassifier
from attention_patterns.errors import NotFiniteError
from attention_patterns.patterns import PATTERNS
from attention_patterns.sample import load_sample
from attention_patterns_service import AttentionServer, Client
from attention_patterns_service.server.metrics import Metrics
from tests.helpers.drawn_maps import random_maps
from tests.helpers.server_metrics import METRICS
from tests.helpers.servers import until


@pytest.fixture
def watched(classifier):
    registry = CollectorRegistry()
    with AttentionServer(classifier, port=0, metrics=Metrics(registry)) as server:
        yield server, registry.get_sample_value


def test_calls_and_maps_are_counted(watched):
    server, value = watched
    sample = load_sample().attention
    with Client(server.endpoint, reduce="always") as reducing, Client(server.endpoint, reduce="never") as sending:
        results = [reducing.classify(sample), sending.classify(sample), reducing.classify(sample[0, 0])]
        with pytest.raises(NotFiniteError):
            sending.classify(np.full((9, 9), np.nan))
        reducing.model()
    patterns = Counter(str(pattern) for result in results for pattern in np.ravel(result.patterns))
    assert {name: value("attention_maps_total", {"pattern": name}) for name in map(str, PATTERNS)} == {
        name: patterns[name] for name in map(str, PATTERNS)
    }
    assert value("attention_uncertain_maps_total") == sum(int(np.sum(result.uncertain)) for result in results)
    assert value("attention_requests_total", {"method": "ClassifyImages", "code": "OK"}) == 2
    assert value("attention_requests_total", {"method": "ClassifyHeads", "code": "INVALID_ARGUMENT"}) == 1
    assert value("attention_refused_total", {"reason": "NOT_FINITE"}) == 1
    assert value("attention_request_seconds_count", {"method": "GetModel"}) == 3
    assert value("attention_maps_per_request_sum") == 2 * sample[..., 0, 0].size + 2
    assert value("attention_received_bytes_total") > sample.nbytes
    until(lambda: value("attention_requests_in_flight") == value("attention_bytes_in_flight") == 0)
    for stage in ("wait", "decode", "render", "classify", "encode"):
        assert value("attention_stage_seconds_sum", {"stage": stage}) > 0


def test_the_figures_that_the_dashboard_reads_are_served(watched):
    server, _ = watched
    maps = random_maps(40, 20, 20)
    with Client(server.endpoint, reduce="never") as client:
        for each in maps:
            client.classify(each)
        with pytest.raises(NotFiniteError):
            client.classify(np.full((9, 9), np.nan))
    served = {
        sample.name.removesuffix("_bucket"): set(sample.labels) - {"le"}
        for family in server.metrics.registry.collect()
        for sample in family.samples
    }
    later = {
        "attention_streams_total",
        "attention_last_reload_success",
    }  # once one ended or was read
    assert {name: labels for name, labels in METRICS.items() if name not in later}.items() <= served.items()


def test_maps_unlike_the_training_maps_are_drift(watched):
    server, value = watched
    with Client(server.endpoint) as client:
        for each in random_maps(96, 60, 60):
            client.classify(each)
        drift = [value("attention_drift", {"feature": feature}) for feature in ("maximum", "mean", "relative_maximum")]
        assert drift == [0, 0, 0]  # before a hundred maps nothing is reported
        for each in random_maps(64, 60, 60):
            client.classify(each)
    assert min(value("attention_drift", {"feature": f}) for f in ("maximum", "mean", "relative_maximum")) > 0.25


def test_a_model_of_another_size_may_take_over(watched, classifier):
    server, _ = watched
    answer = classifier.classify_images(np.zeros((1, 3, 48, 48), np.uint8))
    for size in (48, 64):
        for _ in range(20):
            server.metrics.count_answers(np.zeros((1, 3, size, size), np.uint8), answer)
    server.replace(PatternClassifier.load())
