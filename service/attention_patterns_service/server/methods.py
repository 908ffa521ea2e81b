"""The methods of ``AttentionPatternService``: a message as it came in, the answer as it travels out."""

from typing import TypeVar

from google.protobuf.message import Message

from attention_patterns import PatternClassifier
from attention_patterns.errors import MessageError
from attention_patterns_service.contract.converters import (
    HEADS,
    IMAGES,
    STREAMED_ANSWER,
    STREAMED_HEADS,
    declaration_of,
    images_of,
    images_response_of,
    maps_of,
    response_of,
    stream_response_of,
)
from attention_patterns_service.contract.errors import attempt
from attention_patterns_service.contract.model_info import model_response_of
from attention_patterns_service.contract.wire import DecodeError, Parcel, Route
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.metrics import Metrics

_Message = TypeVar("_Message", bound=Message)


class Methods:
    """What each method does; errors are raised."""

    def __init__(self, classifier: PatternClassifier, load: Load, metrics: Metrics) -> None:
        """Answers with ``classifier``, which may be replaced at any time: a request keeps the one it began with."""
        self.classifier = classifier
        self._load = load
        self._limits = load.limits
        self._metrics = metrics

    def get_model(self, data: bytes, _call: Call) -> bytes:
        """Describes the model and the limits."""
        _read(Route(pb.GetModelRequest, (1,)), data)
        return model_response_of(self.classifier.bundle, self._limits).SerializeToString()

    def classify_heads(self, data: bytes, call: Call) -> bytes:
        """Classifies the heads of one input."""
        with self._load.holding(len(data)):
            with call.stage("decode"):
                parcel = _read(HEADS, data)
            return self._classify(parcel, call)

    def classify_streamed(self, data: bytes, call: Call) -> bytes:
        """Answers one request of a stream, errors included."""
        with call.stage("decode"):
            outer = _read(STREAMED_HEADS, data)
        parcel = Parcel(outer.message.request, outer.payload)

        def classify() -> bytes:
            with self._load.holding(len(data)):
                return self._classify(parcel, call)

        return STREAMED_ANSWER.write(stream_response_of(parcel.message, attempt(classify)))

    def classify_images(self, data: bytes, call: Call) -> bytes:
        """Classifies images."""
        classifier = self.classifier
        with self._load.holding(len(data)):
            with call.stage("decode"):
                parcel = _read(IMAGES, data)
                call.request_id = parcel.message.request_id
                images = images_of(parcel, image_size=classifier.bundle.image_size)
                self._limits.check_count(len(images))
            call.maps += len(images)
            seconds, oversight = call.oversight(self._metrics.seen)
            with self._load.at_work(seconds, call.spent):
                answer = classifier.classify_images(images, oversight)
        with call.stage("encode"):
            return images_response_of(answer, bundle=classifier.bundle, request_id=call.request_id).SerializeToString()

    def _classify(self, parcel: Parcel[pb.ClassifyHeadsRequest], call: Call) -> bytes:
        classifier, request = self.classifier, parcel.message
        with call.stage("decode"):
            call.request_id = request.request_id
            maps = maps_of(parcel)
            self._limits.check(maps)
            declaration = declaration_of(request, maps.length)
            self._limits.check_answer(maps, declaration)
        call.maps += len(maps.values)
        seconds, oversight = call.oversight(self._metrics.seen)
        with self._load.at_work(seconds, call.spent):
            result = classifier.classify_read(maps, declaration, oversight)
        with call.stage("encode"):
            return response_of(
                result, maps=maps, bundle=classifier.bundle, request_id=request.request_id
            ).SerializeToString()


def _read(route: Route[_Message], data: bytes) -> Parcel[_Message]:
    try:
        return route.read(data)
    except DecodeError as error:
        raise MessageError(f"the message is no {route.kind.DESCRIPTOR.name}: {error}") from error
