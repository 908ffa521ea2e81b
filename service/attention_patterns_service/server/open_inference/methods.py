"""The Open Inference Protocol, beside our own service: two models, and the methods of ``GRPCInferenceService``."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from attention_patterns import PatternClassifier
from attention_patterns.bundle import ModelBundle
from attention_patterns.errors import (
    AttentionPatternsError,
    MessageError,
    PaddingError,
    SegmentsError,
    TokensError,
    UnknownModelError,
)
from attention_patterns.measures import EVIDENCE, Measure
from attention_patterns.patterns import PATTERNS
from attention_patterns.rendering import CHANNELS
from attention_patterns_service.contract.converters import check_request_id
from attention_patterns_service.contract.wire import DecodeError, Parcel
from attention_patterns_service.pb.inference import open_inference_pb2 as pb
from attention_patterns_service.server.call import Call
from attention_patterns_service.server.gate import Door
from attention_patterns_service.server.load import Load
from attention_patterns_service.server.metrics import Metrics
from attention_patterns_service.server.open_inference.messages import (
    ATTENTION_TYPES,
    DATATYPES,
    INFER,
    TensorKind,
    declaration_of,
    inputs_of,
    maps_of,
    names_of,
    output_of,
    response_of,
    wanted_of,
)

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
NAME = "attention-patterns"  # of the package, and of the model that does all that it does
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Model:
    """A model as the protocol knows it: its platform, what it takes, and what it gives to every request."""

    platform: str
    inputs: tuple[TensorKind, ...]
    outputs: tuple[TensorKind, ...]


def _declared(name: str, *datatypes: str, error: type[AttentionPatternsError]) -> TensorKind:
    return TensorKind(name, datatypes, (-1,), required=False, mistyped=error, misfit=error)


def _by_map(datatype: str, *names: str, shape: tuple[int, ...] = ()) -> tuple[TensorKind, ...]:
    return tuple(TensorKind(name, (datatype,), (-1, -1, *shape)) for name in names)


def _by_measure(name: str, measure: Measure) -> tuple[TensorKind, ...]:
    return _by_map(DATATYPES[np.dtype(measure.dtype).kind], name, shape=(-1,) if measure.per_token else ())


_MAPS = Model(
    platform="",
    inputs=(
        TensorKind("attention", tuple(ATTENTION_TYPES), (-1, -1, -1, -1), any_axes=True),
        _declared("tokens", "BYTES", error=TokensError),
        _declared("segments", "INT64", "INT32", error=SegmentsError),
        _declared("mask", "BOOL", error=PaddingError),
    ),
    outputs=(
        *_by_map("BYTES", "pattern"),
        *_by_map("FP32", "probabilities", shape=(len(PATTERNS),)),
        *_by_map("FP32", "margin"),
        *_by_map("BOOL", "uncertain", "overruled", "causal"),
        *(kind for name, measure in EVIDENCE.items() if not measure.needs for kind in _by_measure(name, measure)),
    ),
)


def models_of(bundle: ModelBundle) -> dict[str, Model]:
    """The models that a server of ``bundle`` serves, by name: its net alone, and all that the library does."""
    size = bundle.image_size
    net = Model(
        platform="onnx_onnxv1",
        inputs=(TensorKind("images", ("UINT8",), (-1, CHANNELS, size, size)),),
        outputs=(TensorKind("probabilities", ("FP32",), (-1, len(PATTERNS))),),
    )
    return {bundle.name: net, NAME: _MAPS}


class OpenInference:
    """What each method of the protocol does; errors are raised."""

    def __init__(self, current: Callable[[], PatternClassifier], load: Load, metrics: Metrics) -> None:
        """Answers with what ``current`` gives when a call begins."""
        self._current = current
        self._load = load
        self._metrics = metrics

    def doors(self) -> dict[str, Door]:
        """The methods by their full names."""
        answers = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.infer,
        }
        return {f"/{SERVICE}/{name}": Door(answer) for name, answer in answers.items()}

    def server_live(self, data: bytes, _call: Call) -> bytes:
        """Says that the server answers."""
        _read(pb.ServerLiveRequest.FromString, data)
        return _written(pb.ServerLiveResponse(live=True))

    def server_ready(self, data: bytes, _call: Call) -> bytes:
        """Says that the server classifies."""
        _read(pb.ServerReadyRequest.FromString, data)
        return _written(pb.ServerReadyResponse(ready=True))

    def model_ready(self, data: bytes, _call: Call) -> bytes:
        """Says whether a model is served."""
        request, bundle = _read(pb.ModelReadyRequest.FromString, data), self._current().bundle
        served = request.name in models_of(bundle) and request.version in ("", bundle.version)
        return _written(pb.ModelReadyResponse(ready=served))

    def server_metadata(self, data: bytes, _call: Call) -> bytes:
        """Describes the server."""
        _read(pb.ServerMetadataRequest.FromString, data)
        return _written(pb.ServerMetadataResponse(name=NAME, version=version(NAME)))

    def model_metadata(self, data: bytes, _call: Call) -> bytes:
        """Describes a model."""
        request, bundle = _read(pb.ModelMetadataRequest.FromString, data), self._current().bundle
        model = _served(request.name, request.version, bundle)
        answer = pb.ModelMetadataResponse(
            name=request.name,
            versions=[bundle.version],
            platform=model.platform,
            inputs=_told(model.inputs),
            outputs=_told(model.outputs),
        )
        return _written(answer)

    def infer(self, data: bytes, call: Call) -> bytes:
        """Classifies."""
        classifier = self._current()
        with self._load.holding(len(data)):
            with call.stage("decode"):
                parcel = _read(INFER.read, data)
                request = parcel.message
                check_request_id(request.id)
                call.request_id = request.id
                model = _served(request.model_name, request.model_version, classifier.bundle)
            answer = self._classify_maps if model is _MAPS else self._classify_images
            response = answer(classifier, model, parcel, call)
        with call.stage("encode"):
            return _written(response)

    def _classify_maps(
        self, classifier: PatternClassifier, model: Model, parcel: Parcel[pb.ModelInferRequest], call: Call
    ) -> pb.ModelInferResponse:
        with call.stage("decode"):
            inputs = inputs_of(parcel, model.inputs)
            maps = maps_of(inputs["attention"])
            self._load.limits.check(maps)
            declaration = declaration_of(inputs, maps.length)
            wanted = wanted_of(parcel.message, [*_names(model.outputs), *names_of(declaration)])
        call.maps += len(maps.values)
        seconds, oversight = call.oversight(self._metrics.seen)
        with self._load.at_work(seconds, call.spent):
            result = classifier.classify_read(maps, declaration, oversight)
        with call.stage("encode"):
            outputs = {name: output_of(result, name) for name in wanted}
            return response_of(parcel.message, outputs, bundle=classifier.bundle, warnings=result.warnings)

    def _classify_images(
        self, classifier: PatternClassifier, model: Model, parcel: Parcel[pb.ModelInferRequest], call: Call
    ) -> pb.ModelInferResponse:
        with call.stage("decode"):
            images: NDArray[Any] = inputs_of(parcel, model.inputs)["images"].values()
            self._load.limits.check_count(len(images))
            wanted_of(parcel.message, _names(model.outputs))
        call.maps += len(images)
        seconds, oversight = call.oversight(self._metrics.seen)
        with self._load.at_work(seconds, call.spent):
            answer = classifier.classify_images(images, oversight)
        with call.stage("encode"):
            outputs = {"probabilities": answer.probabilities}
            return response_of(parcel.message, outputs, bundle=classifier.bundle)


def _served(name: str, wanted: str, bundle: ModelBundle) -> Model:
    """The model of that name and version; an empty version is the one that is served."""
    models = models_of(bundle)
    if name not in models:
        raise UnknownModelError(f"model {name!r:.80} is not served, expected {' or '.join(models)}")
    if wanted not in ("", bundle.version):
        raise UnknownModelError(f"model {name} is not served in version {wanted!r:.80}, expected {bundle.version}")
    return models[name]


def _told(kinds: Iterable[TensorKind]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    kind_of = pb.ModelMetadataResponse.TensorMetadata
    return [kind_of(name=kind.name, datatype=kind.datatypes[0], shape=kind.shape) for kind in kinds]


def _names(kinds: Iterable[TensorKind]) -> list[str]:
    return [kind.name for kind in kinds]


def _read(read: Callable[[bytes], _Read], data: bytes) -> _Read:
    try:
        return read(data)
    except DecodeError as error:
        raise MessageError(f"the message is not of the protocol: {error}") from error


def _written(message: Message) -> bytes:
    return message.SerializeToString()
