"""The models that the server shows to the Open Inference Protocol, and the methods of ``GRPCInferenceService``."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from attention_patterns import PatternClassifier
from attention_patterns.bundle import ModelBundle
from attention_patterns.classification import Classification, NetAnswer
from attention_patterns.errors import (
    AttentionPatternsError,
    PaddingError,
    SegmentsError,
    TokensError,
    UnknownModelError,
)
from attention_patterns.measures import EVIDENCE, Measure
from attention_patterns.patterns import PATTERNS
from attention_patterns.rendering import CHANNELS
from attention_patterns_service.contract.converters import check_request_id
from attention_patterns_service.contract.wire import Parcel, read_small
from attention_patterns_service.pb.inference import open_inference_pb2 as pb
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.handlers import Method
from attention_patterns_service.server.open_inference.messages import (
    ATTENTION_TYPES,
    DATATYPES,
    INFER,
    InputTensor,
    TensorKind,
    declaration_of,
    inputs_of,
    maps_of,
    names_of,
    output_of,
    response_of,
    size_of_response,
    wanted_of,
)
from attention_patterns_service.server.pipeline import DecodedRequest, Pipeline

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
NAME = "attention-patterns"  # of the distribution, and of the model that does all that the library does


@dataclass(frozen=True)
class Model:
    """A model as the protocol describes it.

    Attributes:
        platform: Format and runtime; "" where the protocol has no name for them.
        inputs: Tensors that it takes.
        outputs: Tensors that it gives to every request.
    """

    platform: str
    inputs: tuple[TensorKind, ...]
    outputs: tuple[TensorKind, ...]


def _token_kind(name: str, *datatypes: str, error: type[AttentionPatternsError]) -> TensorKind:
    return TensorKind(name, datatypes, (-1,), required=False, type_error=error, shape_error=error)


def _map_kinds(datatype: str, *names: str, shape: tuple[int, ...] = ()) -> tuple[TensorKind, ...]:
    return tuple(TensorKind(name, (datatype,), (-1, -1, *shape)) for name in names)


def _measure_kinds(name: str, measure: Measure) -> tuple[TensorKind, ...]:
    return _map_kinds(DATATYPES[np.dtype(measure.dtype).kind], name, shape=(-1,) if measure.per_token else ())


_MAPS = Model(
    platform="",
    inputs=(
        TensorKind("attention", tuple(ATTENTION_TYPES), (-1, -1, -1, -1), any_axes=True),
        _token_kind("tokens", "BYTES", error=TokensError),
        _token_kind("segments", "INT64", "INT32", error=SegmentsError),
        _token_kind("mask", "BOOL", error=PaddingError),
    ),
    outputs=(
        *_map_kinds("BYTES", "pattern"),
        *_map_kinds("FP32", "probabilities", shape=(len(PATTERNS),)),
        *_map_kinds("FP32", "margin"),
        *_map_kinds("BOOL", "uncertain", "overruled", "causal"),
        *(kind for name, measure in EVIDENCE.items() if not measure.needs for kind in _measure_kinds(name, measure)),
    ),
)


def models_of(bundle: ModelBundle) -> dict[str, Model]:
    """Returns the models of a server of ``bundle``, by name: its net alone, and all that the library does."""
    size = bundle.image_size
    net = Model(
        platform="onnx_onnxv1",
        inputs=(TensorKind("images", ("UINT8",), (-1, CHANNELS, size, size)),),
        outputs=(TensorKind("probabilities", ("FP32",), (-1, len(PATTERNS))),),
    )
    return {bundle.name: net, NAME: _MAPS}


class OpenInference:
    """The methods of the protocol, without gRPC; errors are raised."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Answers through ``pipeline``."""
        self._pipeline = pipeline

    def methods(self) -> dict[str, Method]:
        """Returns the methods by their full names."""
        answers = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.infer,
        }
        return {f"/{SERVICE}/{name}": Method(answer) for name, answer in answers.items()}

    def server_live(self, data: bytes, _call: Call) -> bytes:
        """Reports that the server answers."""
        read_small(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    def server_ready(self, data: bytes, _call: Call) -> bytes:
        """Reports that the server classifies."""
        read_small(pb.ServerReadyRequest, data)
        return pb.ServerReadyResponse(ready=True).SerializeToString()

    def model_ready(self, data: bytes, _call: Call) -> bytes:
        """Reports whether a model is served."""
        request, bundle = read_small(pb.ModelReadyRequest, data), self._pipeline.bundle
        ready = request.name in models_of(bundle) and request.version in ("", bundle.version)
        return pb.ModelReadyResponse(ready=ready).SerializeToString()

    def server_metadata(self, data: bytes, _call: Call) -> bytes:
        """Describes the server."""
        read_small(pb.ServerMetadataRequest, data)
        return pb.ServerMetadataResponse(name=NAME, version=version(NAME)).SerializeToString()

    def model_metadata(self, data: bytes, _call: Call) -> bytes:
        """Describes a model."""
        request, bundle = read_small(pb.ModelMetadataRequest, data), self._pipeline.bundle
        model = _find_model(request.name, request.version, bundle)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[bundle.version],
            platform=model.platform,
            inputs=_describe(model.inputs),
            outputs=_describe(model.outputs),
        ).SerializeToString()

    def infer(self, data: bytes, call: Call) -> bytes:
        """Asks a model."""
        return self._pipeline.answer(data, call, INFER, partial(self._decode, call=call))

    def _decode(
        self, parcel: Parcel[pb.ModelInferRequest], classifier: PatternClassifier, *, call: Call
    ) -> DecodedRequest[Any]:
        request = parcel.message
        call.request_id = check_request_id(request.id)
        model = _find_model(request.model_name, request.model_version, classifier.bundle)
        inputs = inputs_of(parcel, model.inputs)
        if model is _MAPS:
            return self._decode_maps(request, inputs, classifier)
        return self._decode_images(request, inputs, model, classifier)

    def _decode_maps(
        self, request: pb.ModelInferRequest, inputs: dict[str, InputTensor], classifier: PatternClassifier
    ) -> DecodedRequest[Classification]:
        maps = maps_of(inputs["attention"])
        self._pipeline.limits.check(maps)
        declaration = declaration_of(inputs, maps.length)
        self._pipeline.limits.check_declarations(groups=len(declaration.groups))
        wanted = wanted_of(request, [*_names(_MAPS.outputs), *names_of(declaration)])
        size = size_of_response(wanted, count=len(maps.values), length=maps.length)
        self._pipeline.limits.check_answer(size)

        def encode(result: Classification) -> Message:
            outputs = {name: output_of(result, name) for name in wanted}
            return response_of(request, outputs, bundle=classifier.bundle, warnings=result.warnings)

        classify = partial(classifier.classify_read, maps, declaration)
        return DecodedRequest(len(maps.values), maps.length, size, classify, encode)

    def _decode_images(
        self, request: pb.ModelInferRequest, inputs: dict[str, InputTensor], net: Model, classifier: PatternClassifier
    ) -> DecodedRequest[NetAnswer]:
        images: NDArray[Any] = inputs["images"].values()
        self._pipeline.limits.check_count(len(images))
        wanted = wanted_of(request, _names(net.outputs))
        size = size_of_response(wanted, count=len(images), length=0)
        self._pipeline.limits.check_answer(size)

        def encode(answer: NetAnswer) -> Message:
            return response_of(request, {"probabilities": answer.probabilities}, bundle=classifier.bundle)

        return DecodedRequest(len(images), 0, size, partial(classifier.classify_images, images), encode)


def _find_model(name: str, wanted: str, bundle: ModelBundle) -> Model:
    """Returns the model of that name and version; an empty version is the one that is served."""
    models = models_of(bundle)
    if name not in models:
        raise UnknownModelError(f"model {name!r:.80} is not served, expected {' or '.join(models)}")
    if wanted not in ("", bundle.version):
        raise UnknownModelError(f"model {name} is not served in version {wanted!r:.80}, expected {bundle.version}")
    return models[name]


def _describe(kinds: Iterable[TensorKind]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    kind_of = pb.ModelMetadataResponse.TensorMetadata
    return [kind_of(name=kind.name, datatype=kind.datatypes[0], shape=kind.shape) for kind in kinds]


def _names(kinds: Iterable[TensorKind]) -> list[str]:
    return [kind.name for kind in kinds]
