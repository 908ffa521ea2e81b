"""The methods of ``AttentionPatternService``: each turns a message as it came into the answer as it travels."""

from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from attention_patterns import PatternClassifier
from attention_patterns.classification import Classification, NetAnswer
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
from attention_patterns_service.server.access import Access
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.handlers import Method
from attention_patterns_service.server.pipeline import DecodedRequest, Pipeline

SERVICE = pb.DESCRIPTOR.services_by_name["AttentionPatternService"].full_name
_Message = TypeVar("_Message", bound=Message)


class AttentionPatternService:
    """The methods of the service, without gRPC; errors are raised."""

    def __init__(self, pipeline: Pipeline, access: Access) -> None:
        """Answers through ``pipeline`` whom ``access`` let in."""
        self._pipeline = pipeline
        self._access = access

    def methods(self) -> dict[str, Method]:
        """Returns the methods by their full names."""
        methods = {
            "ClassifyHeads": Method(self.classify_heads),
            "StreamClassifyHeads": Method(self.classify_streamed, streaming=True),
            "ClassifyImages": Method(self.classify_images),
            "GetModel": Method(self.get_model),
        }
        return {f"/{SERVICE}/{name}": method for name, method in methods.items()}

    def get_model(self, data: bytes, call: Call) -> bytes:
        """Describes the model and the limits."""
        _read(Route(pb.GetModelRequest, (1,)), data)
        rate = self._access.rate_of(call.caller)
        return model_response_of(self._pipeline.bundle, self._pipeline.limits, rate).SerializeToString()

    def classify_heads(self, data: bytes, call: Call) -> bytes:
        """Classifies the heads of one input."""
        return self._pipeline.answer(
            len(data), call, lambda classifier: self._decode_heads(_read(HEADS, data), classifier, call)
        )

    def classify_streamed(self, data: bytes, call: Call) -> bytes:
        """Classifies the heads of one input of a stream; the answer may hold an error."""
        with call.stage("decode"):
            outer = _read(STREAMED_HEADS, data)
        parcel = Parcel(outer.message.request, outer.payload)
        outcome = attempt(
            lambda: self._pipeline.answer(
                len(data), call, lambda classifier: self._decode_heads(parcel, classifier, call)
            )
        )
        return STREAMED_ANSWER.write(stream_response_of(parcel.message, outcome))

    def classify_images(self, data: bytes, call: Call) -> bytes:
        """Classifies images."""
        return self._pipeline.answer(
            len(data), call, lambda classifier: self._decode_images(_read(IMAGES, data), classifier, call)
        )

    def _decode_heads(
        self, parcel: Parcel[pb.ClassifyHeadsRequest], classifier: PatternClassifier, call: Call
    ) -> DecodedRequest[Classification]:
        request, limits = parcel.message, self._pipeline.limits
        call.request_id = request.request_id
        maps = maps_of(parcel)
        limits.check(maps)
        declaration = declaration_of(request, maps.length)
        limits.check_answer(maps, declaration)
        return DecodedRequest(
            count=len(maps.values),
            classify=partial(classifier.classify_read, maps, declaration),
            encode=partial(response_of, maps=maps, bundle=classifier.bundle, request_id=request.request_id),
        )

    def _decode_images(
        self, parcel: Parcel[pb.ClassifyImagesRequest], classifier: PatternClassifier, call: Call
    ) -> DecodedRequest[NetAnswer]:
        bundle, request_id = classifier.bundle, parcel.message.request_id
        call.request_id = request_id
        images = images_of(parcel, image_size=bundle.image_size)
        self._pipeline.limits.check_count(len(images))
        return DecodedRequest(
            count=len(images),
            classify=partial(classifier.classify_images, images),
            encode=partial(images_response_of, bundle=bundle, request_id=request_id),
        )


def _read(route: Route[_Message], data: bytes) -> Parcel[_Message]:
    try:
        return route.read(data)
    except DecodeError as error:
        raise MessageError(f"the message is not a {route.kind.DESCRIPTOR.name}: {error}") from error
