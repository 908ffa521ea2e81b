from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_BFLOAT16: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]

class Causality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAUSALITY_UNSPECIFIED: _ClassVar[Causality]
    CAUSALITY_CAUSAL: _ClassVar[Causality]
    CAUSALITY_BIDIRECTIONAL: _ClassVar[Causality]

class Pattern(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PATTERN_UNSPECIFIED: _ClassVar[Pattern]
    PATTERN_VERTICAL: _ClassVar[Pattern]
    PATTERN_DIAGONAL: _ClassVar[Pattern]
    PATTERN_VERTICAL_DIAGONAL: _ClassVar[Pattern]
    PATTERN_BLOCK: _ClassVar[Pattern]
    PATTERN_HETEROGENEOUS: _ClassVar[Pattern]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_BFLOAT16: DataType
DATA_TYPE_FLOAT64: DataType
CAUSALITY_UNSPECIFIED: Causality
CAUSALITY_CAUSAL: Causality
CAUSALITY_BIDIRECTIONAL: Causality
PATTERN_UNSPECIFIED: Pattern
PATTERN_VERTICAL: Pattern
PATTERN_DIAGONAL: Pattern
PATTERN_VERTICAL_DIAGONAL: Pattern
PATTERN_BLOCK: Pattern
PATTERN_HETEROGENEOUS: Pattern

class Tensor(_message.Message):
    __slots__ = ("data_type", "shape", "data")
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    data_type: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, data_type: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class TokenGroup(_message.Message):
    __slots__ = ("name", "positions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    positions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., positions: _Optional[_Iterable[int]] = ...) -> None: ...

class ClassifyHeadsRequest(_message.Message):
    __slots__ = ("request_id", "attention", "tokens", "token_groups", "segment_lengths", "segment_ids", "valid_length", "mask", "causality", "layers", "heads", "first_layer", "first_head")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_GROUPS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_IDS_FIELD_NUMBER: _ClassVar[int]
    VALID_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    CAUSALITY_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    FIRST_LAYER_FIELD_NUMBER: _ClassVar[int]
    FIRST_HEAD_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attention: Tensor
    tokens: _containers.RepeatedScalarFieldContainer[str]
    token_groups: _containers.RepeatedCompositeFieldContainer[TokenGroup]
    segment_lengths: _containers.RepeatedScalarFieldContainer[int]
    segment_ids: _containers.RepeatedScalarFieldContainer[int]
    valid_length: int
    mask: _containers.RepeatedScalarFieldContainer[bool]
    causality: Causality
    layers: _containers.RepeatedScalarFieldContainer[int]
    heads: _containers.RepeatedScalarFieldContainer[int]
    first_layer: int
    first_head: int
    def __init__(self, request_id: _Optional[str] = ..., attention: _Optional[_Union[Tensor, _Mapping]] = ..., tokens: _Optional[_Iterable[str]] = ..., token_groups: _Optional[_Iterable[_Union[TokenGroup, _Mapping]]] = ..., segment_lengths: _Optional[_Iterable[int]] = ..., segment_ids: _Optional[_Iterable[int]] = ..., valid_length: _Optional[int] = ..., mask: _Optional[_Iterable[bool]] = ..., causality: _Optional[_Union[Causality, str]] = ..., layers: _Optional[_Iterable[int]] = ..., heads: _Optional[_Iterable[int]] = ..., first_layer: _Optional[int] = ..., first_head: _Optional[int] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("visible_mass", "stripe_mass", "stripes", "line_mass", "line_offset", "stripe_or_line_mass", "segment_mass", "row_entropy")
    VISIBLE_MASS_FIELD_NUMBER: _ClassVar[int]
    STRIPE_MASS_FIELD_NUMBER: _ClassVar[int]
    STRIPES_FIELD_NUMBER: _ClassVar[int]
    LINE_MASS_FIELD_NUMBER: _ClassVar[int]
    LINE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    STRIPE_OR_LINE_MASS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_MASS_FIELD_NUMBER: _ClassVar[int]
    ROW_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    visible_mass: float
    stripe_mass: float
    stripes: _containers.RepeatedScalarFieldContainer[int]
    line_mass: float
    line_offset: int
    stripe_or_line_mass: float
    segment_mass: float
    row_entropy: float
    def __init__(self, visible_mass: _Optional[float] = ..., stripe_mass: _Optional[float] = ..., stripes: _Optional[_Iterable[int]] = ..., line_mass: _Optional[float] = ..., line_offset: _Optional[int] = ..., stripe_or_line_mass: _Optional[float] = ..., segment_mass: _Optional[float] = ..., row_entropy: _Optional[float] = ...) -> None: ...

class AttentionTo(_message.Message):
    __slots__ = ("group", "share", "max_token_share", "baseline", "share_from_outside", "share_from_inside")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKEN_SHARE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FROM_OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FROM_INSIDE_FIELD_NUMBER: _ClassVar[int]
    group: str
    share: float
    max_token_share: float
    baseline: float
    share_from_outside: float
    share_from_inside: float
    def __init__(self, group: _Optional[str] = ..., share: _Optional[float] = ..., max_token_share: _Optional[float] = ..., baseline: _Optional[float] = ..., share_from_outside: _Optional[float] = ..., share_from_inside: _Optional[float] = ...) -> None: ...

class HeadResult(_message.Message):
    __slots__ = ("layer", "head", "pattern", "probabilities", "margin", "overruled", "causal", "evidence", "attention_to", "uncertain")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    OVERRULED_FIELD_NUMBER: _ClassVar[int]
    CAUSAL_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_TO_FIELD_NUMBER: _ClassVar[int]
    UNCERTAIN_FIELD_NUMBER: _ClassVar[int]
    layer: int
    head: int
    pattern: Pattern
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    margin: float
    overruled: bool
    causal: bool
    evidence: Evidence
    attention_to: _containers.RepeatedCompositeFieldContainer[AttentionTo]
    uncertain: bool
    def __init__(self, layer: _Optional[int] = ..., head: _Optional[int] = ..., pattern: _Optional[_Union[Pattern, str]] = ..., probabilities: _Optional[_Iterable[float]] = ..., margin: _Optional[float] = ..., overruled: bool = ..., causal: bool = ..., evidence: _Optional[_Union[Evidence, _Mapping]] = ..., attention_to: _Optional[_Iterable[_Union[AttentionTo, _Mapping]]] = ..., uncertain: bool = ...) -> None: ...

class TokenGroupPositions(_message.Message):
    __slots__ = ("name", "positions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    positions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., positions: _Optional[_Iterable[int]] = ...) -> None: ...

class ClassifyHeadsResponse(_message.Message):
    __slots__ = ("request_id", "model_name", "model_version", "rendering_version", "warnings", "length", "too_short", "groups", "heads", "model_sha256")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RENDERING_VERSION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TOO_SHORT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    model_version: str
    rendering_version: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    length: int
    too_short: bool
    groups: _containers.RepeatedCompositeFieldContainer[TokenGroupPositions]
    heads: _containers.RepeatedCompositeFieldContainer[HeadResult]
    model_sha256: str
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., rendering_version: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., length: _Optional[int] = ..., too_short: bool = ..., groups: _Optional[_Iterable[_Union[TokenGroupPositions, _Mapping]]] = ..., heads: _Optional[_Iterable[_Union[HeadResult, _Mapping]]] = ..., model_sha256: _Optional[str] = ...) -> None: ...

class ClassifyImagesRequest(_message.Message):
    __slots__ = ("request_id", "rendering_version", "image_size", "images")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RENDERING_VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    rendering_version: int
    image_size: int
    images: bytes
    def __init__(self, request_id: _Optional[str] = ..., rendering_version: _Optional[int] = ..., image_size: _Optional[int] = ..., images: _Optional[bytes] = ...) -> None: ...

class ClassifyImagesResponse(_message.Message):
    __slots__ = ("request_id", "model_name", "model_version", "model_sha256", "uncertain_below", "probabilities")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    UNCERTAIN_BELOW_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    model_version: str
    model_sha256: str
    uncertain_below: float
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., model_sha256: _Optional[str] = ..., uncertain_below: _Optional[float] = ..., probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class StreamClassifyHeadsRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: ClassifyHeadsRequest
    def __init__(self, request: _Optional[_Union[ClassifyHeadsRequest, _Mapping]] = ...) -> None: ...

class StreamError(_message.Message):
    __slots__ = ("code", "reason", "message", "metadata", "retry_seconds")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    RETRY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    metadata: _containers.ScalarMap[str, str]
    retry_seconds: float
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., retry_seconds: _Optional[float] = ...) -> None: ...

class StreamClassifyHeadsResponse(_message.Message):
    __slots__ = ("request_id", "first_layer", "response", "error", "first_head")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_LAYER_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FIRST_HEAD_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    first_layer: int
    response: ClassifyHeadsResponse
    error: StreamError
    first_head: int
    def __init__(self, request_id: _Optional[str] = ..., first_layer: _Optional[int] = ..., response: _Optional[_Union[ClassifyHeadsResponse, _Mapping]] = ..., error: _Optional[_Union[StreamError, _Mapping]] = ..., first_head: _Optional[int] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("name", "version", "sha256", "classes", "image_size", "rendering_version", "dataset_sha256", "metrics", "max_message_bytes", "uncertain_below", "contract_version", "max_maps", "max_length", "max_calls", "max_bytes", "max_seconds", "max_idle_seconds", "max_calls_per_second", "max_groups", "max_answer_bytes", "max_token_calls", "max_stream_seconds")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    RENDERING_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATASET_SHA256_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNCERTAIN_BELOW_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_MAPS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MAX_GROUPS_FIELD_NUMBER: _ClassVar[int]
    MAX_ANSWER_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKEN_CALLS_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    sha256: str
    classes: _containers.RepeatedScalarFieldContainer[Pattern]
    image_size: int
    rendering_version: int
    dataset_sha256: str
    metrics: _containers.ScalarMap[str, float]
    max_message_bytes: int
    uncertain_below: float
    contract_version: int
    max_maps: int
    max_length: int
    max_calls: int
    max_bytes: int
    max_seconds: float
    max_idle_seconds: float
    max_calls_per_second: int
    max_groups: int
    max_answer_bytes: int
    max_token_calls: int
    max_stream_seconds: float
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., sha256: _Optional[str] = ..., classes: _Optional[_Iterable[_Union[Pattern, str]]] = ..., image_size: _Optional[int] = ..., rendering_version: _Optional[int] = ..., dataset_sha256: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., max_message_bytes: _Optional[int] = ..., uncertain_below: _Optional[float] = ..., contract_version: _Optional[int] = ..., max_maps: _Optional[int] = ..., max_length: _Optional[int] = ..., max_calls: _Optional[int] = ..., max_bytes: _Optional[int] = ..., max_seconds: _Optional[float] = ..., max_idle_seconds: _Optional[float] = ..., max_calls_per_second: _Optional[int] = ..., max_groups: _Optional[int] = ..., max_answer_bytes: _Optional[int] = ..., max_token_calls: _Optional[int] = ..., max_stream_seconds: _Optional[float] = ...) -> None: ...
