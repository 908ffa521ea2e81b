"""What is watched of the server, for Prometheus."""

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
_DRIFT_EVERY = 32  # chunks of maps whose first are looked at for drift together
_MAPS = (1, 2, 4, 12, 36, 72, 144, 384, 1024, 4096, 16384)


class Metrics:
    """The server's figures; safe to share between threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers all figures."""
        self.registry = registry
        self._requests = cache(
            Counter("attention_requests", "Calls that ended.", ["method", "code"], registry=registry).labels
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
        self._maps = Counter("attention_maps", "Maps by what the net said first.", ["pattern"], registry=registry)
        self._uncertain = Counter("attention_uncertain_maps", "Maps whose answer is uncertain.", registry=registry)
        self._batches = Histogram("attention_maps_per_request", "Maps in a call.", buckets=_MAPS, registry=registry)
        self._received = Counter("attention_received_bytes", "Bytes of messages received.", registry=registry)
        self._sent = Counter("attention_sent_bytes", "Bytes of answers.", registry=registry)
        self._refused = Counter("attention_refused", "Calls that failed, by reason.", ["reason"], registry=registry)
        self._calls = Gauge(
            "attention_requests_in_flight",
            "Calls under way.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._bytes = Gauge(
            "attention_bytes_in_flight",
            "Bytes of calls under way.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._drift = Gauge(
            "attention_drift",
            "Population stability index of the maps that came last against the training maps; over 0.25 is a shift.",
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
        self._current = Drift({})
        self._loaded: tuple[str, ...] = ()
        self._looked: list[bytes] = []
        self._shape: tuple[int, ...] = ()
        self._lock = Lock()

    def under_way(self, calls: int, size: int) -> None:
        """Notes what the server has to do: calls, and bytes of their messages."""
        self._calls.set(calls)
        self._bytes.set(size)

    def loaded(self, bundle: ModelBundle) -> None:
        """Notes that this model answers from now on."""
        if self._loaded:
            self._model.labels(*self._loaded).set(0)
        self._loaded = (bundle.name, bundle.version, bundle.sha256)
        self._model.labels(*self._loaded).set(1)
        self._current = Drift(bundle.reference)

    def seen(self, images: NDArray[np.uint8], answer: NetAnswer) -> None:
        """Counts what the net said of a chunk of images."""
        # In plain Python: of a few maps numpy is no faster, and each time it lets other threads go ahead.
        counts, uncertain = [0] * len(PATTERNS), 0
        for row in answer.probabilities.tolist():
            top = max(row)
            counts[row.index(top)] += 1
            uncertain += top < answer.uncertain_below
        for counter, found in zip(self._by_pattern, counts, strict=True):
            if found:
                counter.inc(found)
        if uncertain:
            self._uncertain.inc(uncertain)
        self._look(images[0])  # one of each chunk: all would take as long as the net

    def _look(self, image: NDArray[np.uint8]) -> None:
        with self._lock:
            if image.shape != self._shape:  # the first, or the model was replaced by one of another size
                self._looked, self._shape = [], image.shape
            self._looked.append(image.tobytes())
            if len(self._looked) < _DRIFT_EVERY:
                return
            looked, self._looked = b"".join(self._looked), []
        self._current.add(np.frombuffer(looked, np.uint8).reshape(-1, *image.shape))
        for feature, index in self._current.indices().items():
            self._drift.labels(feature).set(index)

    def refused(self, method: str, failure: Failure) -> None:
        """Counts a call that was not let in."""
        self._requests(method, failure.code.name).inc()
        self._refused.labels(reason=failure.reason).inc()

    def ended(self, call: Call, failure: Failure | None) -> None:
        """Counts a call that was let in and has ended, well or with a failure."""
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
