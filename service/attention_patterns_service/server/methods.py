"""The methods of ``AttentionPatternService``: each turns a message as it came into the answer as it travels."""

from functools import partial

from attention_patterns import PatternClassifier
from attention_patterns.classification import Classification, NetAnswer
from attention_patterns_service.contract.converters import (
    HEADS,
    IMAGES,
    STREAMED_ANSWER,
    STREAMED_HEADS,
    check_request_id,
    declaration_of,
    images_of,
    images_response_of,
    maps_of,
    response_of,
    size_of_images_response,
    size_of_response,
)
from attention_patterns_service.contract.errors import Failure
from attention_patterns_service.contract.model_info import model_response_of
from attention_patterns_service.contract.wire import Parcel, read_small
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.server.access import Access
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.handlers import Method
from attention_patterns_service.server.pipeline import DecodedRequest, Pipeline

SERVICE = pb.DESCRIPTOR.services_by_name["AttentionPatternService"].full_name
_DECLARED = ("tokens", "token_groups", "segment_lengths", "segment_ids", "mask", "layers", "heads")


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
            "StreamClassifyHeads": Method(self.classify_streamed, refuse=self.refuse_streamed),
            "ClassifyImages": Method(self.classify_images),
            "GetModel": Method(self.get_model),
        }
        return {f"/{SERVICE}/{name}": method for name, method in methods.items()}

    def get_model(self, data: bytes, call: Call) -> bytes:
        """Describes the model and the limits."""
        read_small(pb.GetModelRequest, data)
        rate = self._access.rate_of(call.caller.name)
        return model_response_of(self._pipeline.bundle, self._pipeline.limits, rate).SerializeToString()

    def classify_heads(self, data: bytes, call: Call) -> bytes:
        """Classifies the heads of one input."""
        return self._pipeline.answer(data, call, HEADS, partial(self._decode_heads, call=call))

    def classify_streamed(self, data: bytes, call: Call) -> bytes:
        """Classifies the heads of one input of a stream."""
        answer = self._pipeline.answer(data, call, STREAMED_HEADS, partial(self._decode_streamed, call=call))
        return STREAMED_ANSWER.write(Parcel(_streamed_answer(call), answer))

    def refuse_streamed(self, failure: Failure, call: Call) -> bytes:
        """Returns the answer to a message of a stream that is not answered otherwise."""
        code: int = failure.code.value[0]
        answer = _streamed_answer(call)
        answer.error.MergeFrom(
            pb.StreamError(
                code=code,
                reason=failure.reason,
                message=failure.message,
                metadata=failure.metadata,
                retry_seconds=failure.retry_after,
            )
        )
        return answer.SerializeToString()

    def classify_images(self, data: bytes, call: Call) -> bytes:
        """Classifies images."""
        return self._pipeline.answer(data, call, IMAGES, partial(self._decode_images, call=call))

    def _decode_streamed(
        self, parcel: Parcel[pb.StreamClassifyHeadsRequest], classifier: PatternClassifier, *, call: Call
    ) -> DecodedRequest[Classification]:
        request = parcel.message.request
        call.place = request.first_layer, request.first_head
        return self._decode_heads(Parcel(request, parcel.payload), classifier, call=call)

    def _decode_heads(
        self, parcel: Parcel[pb.ClassifyHeadsRequest], classifier: PatternClassifier, *, call: Call
    ) -> DecodedRequest[Classification]:
        request, limits = parcel.message, self._pipeline.limits
        call.request_id = check_request_id(request.request_id)
        limits.check_declarations(**{name: len(getattr(request, name)) for name in _DECLARED})
        maps = maps_of(parcel)
        limits.check(maps)
        declaration = declaration_of(request, maps.length)
        limits.check_declarations(groups=len(declaration.groups))
        size = size_of_response(maps, declaration)
        limits.check_answer(size)
        return DecodedRequest(
            count=len(maps.values),
            length=maps.length,
            answer_bytes=size,
            classify=partial(classifier.classify_read, maps, declaration),
            encode=partial(response_of, maps=maps, bundle=classifier.bundle, request_id=request.request_id),
        )

    def _decode_images(
        self, parcel: Parcel[pb.ClassifyImagesRequest], classifier: PatternClassifier, *, call: Call
    ) -> DecodedRequest[NetAnswer]:
        bundle, request_id = classifier.bundle, check_request_id(parcel.message.request_id)
        call.request_id = request_id
        images = images_of(parcel, image_size=bundle.image_size)
        self._pipeline.limits.check_count(len(images))
        size = size_of_images_response(len(images))
        self._pipeline.limits.check_answer(size)
        return DecodedRequest(
            count=len(images),
            length=0,
            answer_bytes=size,
            classify=partial(classifier.classify_images, images),
            encode=partial(images_response_of, bundle=bundle, request_id=request_id),
        )


def _streamed_answer(call: Call) -> pb.StreamClassifyHeadsResponse:
    first_layer, first_head = call.place
    return pb.StreamClassifyHeadsResponse(request_id=call.request_id, first_layer=first_layer, first_head=first_head)
