"""The one road of every request that is classified: held, decoded, classified in its turn, encoded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from attention_patterns import PatternClassifier
from attention_patterns.bundle import ModelBundle
from attention_patterns.classifier import Oversight
from attention_patterns_service.limits import Limits
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.metrics import Metrics

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class DecodedRequest(Generic[_Result]):
    """A request that was decoded and checked against the limits.

    Attributes:
        count: Number of its maps or images.
        classify: Classifies them, watched by an oversight.
        encode: Makes the answer of the result.
    """

    count: int
    classify: Callable[[Oversight], _Result]
    encode: Callable[[_Result], Message]


class Pipeline:
    """The way of a request from its bytes to the bytes of its answer; methods differ in what they read and write.

    Attributes:
        classifier: The classifier that answers; it may be replaced at any time, and a request keeps the one that it
            began with.
    """

    def __init__(self, classifier: PatternClassifier, load: Load, metrics: Metrics) -> None:
        """Answers with ``classifier``."""
        self.classifier = classifier
        self._load = load
        self._metrics = metrics

    @property
    def bundle(self) -> ModelBundle:
        """The model bundle that answers."""
        return self.classifier.bundle

    @property
    def limits(self) -> Limits:
        """Limits of the server."""
        return self._load.limits

    def answer(self, size: int, call: Call, decode: Callable[[PatternClassifier], DecodedRequest[_Result]]) -> bytes:
        """Returns the answer to a request of ``size`` bytes, which ``decode`` reads for the classifier it is given.

        Raises:
            OverloadedError: The server has more bytes in flight than it takes.
            DeadlineError: The request's turn did not come in time.
            AttentionPatternsError: The request cannot be decoded, is over a limit, or holds no attention.
        """
        classifier = self.classifier
        with self._load.hold(size):
            with call.stage("decode"):
                request = decode(classifier)
            call.maps += request.count
            deadline = call.deadline()
            with self._load.take_turn(deadline, call.add_time):
                result = request.classify(call.oversight(deadline, self._metrics.count_answers))
            with call.stage("encode"):
                return request.encode(result).SerializeToString()
