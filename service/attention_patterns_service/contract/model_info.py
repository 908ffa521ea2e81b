"""The description of a server: its model, and the limits of requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from attention_patterns.bundle import ModelBundle
from attention_patterns.patterns import PATTERNS, Pattern
from attention_patterns_service.limits import Limits
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb

CONTRACT_VERSION = 1
_PATTERN_OF = {pb.Pattern.Value(f"PATTERN_{pattern.name}"): pattern for pattern in PATTERNS}


@dataclass(frozen=True)
class ModelInfo:
    """The model behind a server.

    Attributes:
        name: Name of the model.
        version: Version of the model, semantic.
        sha256: SHA-256 of the ONNX file, hexadecimal.
        classes: Patterns in the order of probabilities.
        image_size: Pixels per side of the images that the model reads.
        rendering_version: Version of the rendering that the model reads.
        dataset_sha256: SHA-256 of the labels that the model was trained on, hexadecimal.
        metrics: Figure -> value, as measured when the model was exported.
        uncertain_below: Probability below which an answer is uncertain, 0 to 1.
        contract_version: Version of the contract that the server speaks.
        max_message_bytes: Largest message that the server takes.
        max_maps: Most maps in a request.
        max_length: Most tokens of a map, padding included.
        max_calls: Most calls accepted and not yet answered, all callers together; an open stream is one.
        max_bytes: Most bytes of memory for all callers together, half for messages and answers, half for the work.
        max_groups: Most token groups in a request, special tokens included.
        max_answer_bytes: Largest answer that the server gives.
        max_token_calls: Most calls in flight of callers with one access token.
        max_seconds: Longest time that a request may take.
        max_idle_seconds: Longest time between two good requests of a stream.
        max_stream_seconds: Longest time that a stream may stay open.
        max_calls_per_second: Calls per second that the caller's token may make; None where they are not counted.
    """

    name: str
    version: str
    sha256: str
    classes: tuple[Pattern, ...]
    image_size: int
    rendering_version: int
    dataset_sha256: str
    metrics: Mapping[str, float]
    uncertain_below: float
    contract_version: int
    max_message_bytes: int
    max_maps: int
    max_length: int
    max_calls: int
    max_bytes: int
    max_groups: int
    max_answer_bytes: int
    max_token_calls: int
    max_seconds: float
    max_stream_seconds: float
    max_idle_seconds: float
    max_calls_per_second: int | None


_OF_BUNDLE = ("name", "version", "sha256", "image_size", "rendering_version", "dataset_sha256", "uncertain_below")
_OF_LIMITS = (  # each as max_...
    *("message_bytes", "maps", "length", "groups", "answer_bytes", "calls", "token_calls", "bytes"),
    *("seconds", "idle_seconds", "stream_seconds"),
)


def model_response_of(bundle: ModelBundle, limits: Limits, calls_per_second: int | None = None) -> pb.GetModelResponse:
    """Returns the description of a server of the model in ``bundle``, for a caller who may make so many calls."""
    return pb.GetModelResponse(
        **{name: getattr(bundle, name) for name in _OF_BUNDLE},
        classes=[pb.Pattern.Name(number) for number in _PATTERN_OF],
        metrics=dict(bundle.metrics),
        contract_version=CONTRACT_VERSION,
        **{f"max_{name}": getattr(limits, name) for name in _OF_LIMITS},
        max_calls_per_second=calls_per_second,
    )


def model_info_of(response: pb.GetModelResponse) -> ModelInfo:
    """Returns the model that a server described."""
    return ModelInfo(
        **{name: getattr(response, name) for name in _OF_BUNDLE},
        **{f"max_{name}": getattr(response, f"max_{name}") for name in _OF_LIMITS},
        contract_version=response.contract_version,
        max_calls_per_second=response.max_calls_per_second if response.HasField("max_calls_per_second") else None,
        classes=tuple(_PATTERN_OF[number] for number in response.classes),
        metrics=MappingProxyType(dict(response.metrics)),
    )
