"""The one road of every request that is classified: counted in, and in its turn decoded, classified and encoded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from attention_patterns import PatternClassifier
from attention_patterns.bundle import ModelBundle
from attention_patterns.classifier import Oversight
from attention_patterns.errors import MessageError
from attention_patterns.rendering import CHANNELS
from attention_patterns_service.contract.wire import Parcel, Route
from attention_patterns_service.limits import Limits
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.metrics import Metrics

_Result = TypeVar("_Result")
_Message = TypeVar("_Message", bound=Message)
_IMAGES = 2  # copies of the images of a request, at most: those of its spans, and all together
_ROWS = 32  # bytes of sums and flags for each token of a map
_ENCODING = 10  # bytes in memory, at most, per byte of an answer while it is written


@dataclass(frozen=True)
class DecodedRequest(Generic[_Result]):
    """A request that was decoded and checked against the limits.

    Attributes:
        count: Number of its maps or images.
        length: Tokens of its maps, 0 for images.
        answer_bytes: Most bytes of its answer.
        classify: Classifies them, watched by an oversight.
        encode: Makes the answer of the result.
    """

    count: int
    length: int
    answer_bytes: int
    classify: Callable[[Oversight], _Result]
    encode: Callable[[_Result], Message]

    def memory(self, image_size: int) -> int:
        """Returns the most bytes that the work on it takes beside the message."""
        images = _IMAGES * CHANNELS * image_size**2 if self.length else 0
        return self.count * (images + _ROWS * self.length) + _ENCODING * self.answer_bytes


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

    def answer(
        self,
        data: bytes,
        call: Call,
        route: Route[_Message],
        decode: Callable[[Parcel[_Message], PatternClassifier], DecodedRequest[Any]],
    ) -> bytes:
        """Returns the answer to a message, which is read along ``route`` and decoded for the classifier of this moment.

        All that it takes counts into the load before it is taken; the answer still does when this returns.

        Raises:
            MessageError: The message is not of the kind that ``route`` leads through.
            OverloadedError: The server has more bytes in flight than it takes.
            DeadlineError: The request's turn did not come in time.
            AbandonedError: The caller does not want the answer any more.
            AttentionPatternsError: The request cannot be decoded, is over a limit, or holds no attention.
        """
        classifier, oversight = self.classifier, call.oversight(self._metrics.count_answers)
        call.holding.add(messages=len(data))
        with self._load.take_turn(call.deadline, oversight.wanted, call.add_time):
            with call.stage("decode"):
                request = decode(self._read(data, call, route), classifier)
                call.holding.add(work=request.memory(classifier.bundle.image_size))
            call.maps = request.count
            result = request.classify(oversight)
            oversight.check()
            with call.stage("encode"):
                answer = request.encode(result).SerializeToString()
        call.holding.keep(len(answer))
        return answer

    def _read(self, data: bytes, call: Call, route: Route[_Message]) -> Parcel[_Message]:
        try:
            opened = route.open(data)
            call.holding.add(work=opened.memory)
            return opened.parse()
        except DecodeError as error:
            raise MessageError(f"the message is not a {route.kind.DESCRIPTOR.name}: {error}") from error
