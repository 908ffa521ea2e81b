"""Figures of the server, for Prometheus."""

from functools import cache
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from attention_patterns.bundle import ModelBundle
from attention_patterns.classification import NetAnswer
from attention_patterns.drift import Drift
from attention_patterns.patterns import PATTERNS
from attention_patterns_service.contract.errors import Failure
from attention_patterns_service.server.call import Call

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_DRIFT_EVERY = 32  # spans of maps; the first map of each goes into one update of the drift
_MAPS = (1, 2, 4, 12, 36, 72, 144, 384, 1024, 4096, 16384)


class Metrics:
    """The figures of the server; safe to share between threads.

    Attributes:
        registry: Registry that all of them are in.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers all figures in ``registry``."""
        self.registry = registry
        self._requests = cache(
            Counter(
                "attention_requests",
                "Requests that ended: calls, and single messages of streams.",
                ["method", "code"],
                registry=registry,
            ).labels
        )
        self._streams = Counter("attention_streams", "Streams that ended.", ["method", "code"], registry=registry)
        self._reloads = Gauge(
            "attention_last_reload_success",
            "Whether the file that was read last was taken: 1, or 0 where the one before it stays.",
            ["file"],
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._seconds = cache(
            Histogram(
                "attention_request_seconds",
                "From arrival to end, s.",
                ["method"],
                buckets=_SECONDS,
                registry=registry,
            ).labels
        )
        self._stages = cache(
            Histogram(
                "attention_stage_seconds",
                "Time of a call by stage, s: waiting for its turn, reading, rendering and measuring, the net, "
                "answering; rendering and the net summed over the cores.",
                ["stage"],
                buckets=_SECONDS,
                registry=registry,
            ).labels
        )
        self._maps = Counter(
            "attention_maps", "Maps by the net's most probable pattern.", ["pattern"], registry=registry
        )
        self._uncertain = Counter("attention_uncertain_maps", "Maps whose answer is uncertain.", registry=registry)
        self._batches = Histogram("attention_maps_per_request", "Maps per request.", buckets=_MAPS, registry=registry)
        self._received = Counter("attention_received_bytes", "Bytes of messages received.", registry=registry)
        self._sent = Counter("attention_sent_bytes", "Bytes of answers.", registry=registry)
        self._refused = Counter(
            "attention_refused", "Requests and calls that failed, by reason.", ["reason"], registry=registry
        )
        self._dropped = Counter(
            "attention_log_lines_dropped", "Log lines that were dropped since nobody read them.", registry=registry
        )
        self._calls = Gauge(
            "attention_requests_in_flight",
            "Calls in flight.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._bytes = Gauge(
            "attention_bytes_in_flight",
            "Bytes that the calls in flight take: messages, work and answers.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._drift = Gauge(
            "attention_drift",
            "Population stability index of the latest maps against the training maps; over 0.25 is a shift.",
            ["feature"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._model = Gauge(
            "attention_model_info",
            "1 for the model that answers.",
            ["name", "version", "sha256"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._by_pattern = [self._maps.labels(pattern=str(pattern)) for pattern in PATTERNS]
        self._latest = Drift({})
        self._model_labels: tuple[str, ...] = ()
        self._samples: list[bytes] = []  # images, one per span of maps
        self._sample_shape: tuple[int, ...] = ()
        self._lock = Lock()

    def set_load(self, calls: int, size: int) -> None:
        """Sets the calls in flight and the bytes of their messages."""
        self._calls.set(calls)
        self._bytes.set(size)

    def set_model(self, bundle: ModelBundle) -> None:
        """Sets the model that answers from now on."""
        if self._model_labels:
            self._model.labels(*self._model_labels).set(0)
        self._model_labels = (bundle.name, bundle.version, bundle.sha256)
        self._model.labels(*self._model_labels).set(1)
        self._latest = Drift(bundle.reference)

    def count_answers(self, images: NDArray[np.uint8], answer: NetAnswer) -> None:
        """Counts the net's answers to the images of a span of maps, and follows the drift of the images."""
        # In plain Python: for a few maps numpy is no faster, and each call of it lets other threads go first.
        counts, uncertain = [0] * len(PATTERNS), 0
        for row in answer.probabilities.tolist():
            top = max(row)
            counts[row.index(top)] += 1
            uncertain += top < answer.uncertain_below
        for counter, count in zip(self._by_pattern, counts, strict=True):
            if count:
                counter.inc(count)
        if uncertain:
            self._uncertain.inc(uncertain)
        self._follow_drift(images[0])  # one per span: all would take as long as the net

    def _follow_drift(self, image: NDArray[np.uint8]) -> None:
        with self._lock:
            if image.shape != self._sample_shape:  # the first image, or the model now reads images of another size
                self._samples, self._sample_shape = [], image.shape
            self._samples.append(image.tobytes())
            if len(self._samples) < _DRIFT_EVERY:
                return
            samples, self._samples = b"".join(self._samples), []
        self._latest.add(np.frombuffer(samples, np.uint8).reshape(-1, *image.shape))
        for feature, index in self._latest.indices().items():
            self._drift.labels(feature).set(index)

    def count_dropped_line(self) -> None:
        """Counts a log line that was dropped."""
        self._dropped.inc()

    def count_refusal(self, method: str, failure: Failure) -> None:
        """Counts a call that was not let in."""
        self._requests(method, failure.code.name).inc()
        self._refused.labels(reason=failure.reason).inc()

    def note_reload(self, file: str, *, success: bool) -> None:
        """Notes whether a file that was read again, "model", "tokens" or "certificates", was taken."""
        self._reloads.labels(file).set(success)

    def count_stream(self, method: str, failure: Failure | None) -> None:
        """Counts a stream that was let in and has ended, well or with a failure; its messages were counted apart."""
        self._streams.labels(method, failure.code.name if failure else "OK").inc()
        if failure:
            self._refused.labels(reason=failure.reason).inc()

    def count_call(self, call: Call, failure: Failure | None) -> None:
        """Counts a request that was let in and has ended, well or with a failure."""
        self._requests(call.method, failure.code.name if failure else "OK").inc()
        self._seconds(call.method).observe(call.elapsed)
        for stage, seconds in call.stages.items():
            self._stages(stage).observe(seconds)
        if call.maps:
            self._batches.observe(call.maps)
        self._received.inc(call.received)
        self._sent.inc(call.sent)
        if failure:
            self._refused.labels(reason=failure.reason).inc()
