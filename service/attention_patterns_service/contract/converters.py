"""The translation between messages and the library's types, in pairs: one writes what the other reads."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import (
    MOST_AXES,
    AttentionMaps,
    DataType,
    Declaration,
    read_attention,
    read_declaration,
)
from attention_patterns.bundle import ModelBundle
from attention_patterns.classification import Classification, NetAnswer
from attention_patterns.errors import (
    DataTypeError,
    InvalidDeclarationError,
    ModelReplacedError,
    RequestIdError,
    SegmentsError,
    SelectionError,
    ServerError,
    ShapeError,
    TokenGroupsError,
    VersionError,
)
from attention_patterns.patterns import PATTERN_NAMES, PATTERNS
from attention_patterns.rendering import CHANNELS, RENDERING_VERSION
from attention_patterns.special_tokens import is_special
from attention_patterns_service.contract.chunks import select_maps
from attention_patterns_service.contract.measure_messages import (
    flat,
    read_attention_to,
    read_column,
    read_evidence,
    write_attention_to,
    write_evidence,
    write_rows,
)
from attention_patterns_service.contract.wire import DECLARATIONS, Parcel, Route
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb

LONGEST_REQUEST_ID = 256  # characters
_UINT32_END = 2**32
# Most bytes in an answer: of a head, of the measures of a token group beside its name, of a position, of all else.
_HEAD_BYTES, _GROUP_BYTES, _POSITION_BYTES, _FRAME_BYTES = 160, 40, 3, 4096

# The payloads: tensor values, images, and the answer within the answer of a stream.
HEADS = Route(pb.ClassifyHeadsRequest, (2, 3), rest=DECLARATIONS)
STREAMED_HEADS = Route(pb.StreamClassifyHeadsRequest, (1, 2, 3), rest=DECLARATIONS)
IMAGES = Route(pb.ClassifyImagesRequest, (4,), rest=DECLARATIONS)
STREAMED_ANSWER = Route(pb.StreamClassifyHeadsResponse, (3,))

_STORED: dict[int, tuple[DataType, np.dtype[Any]]] = {
    pb.DATA_TYPE_FLOAT64: (DataType.FLOAT64, np.dtype("<f8")),
    pb.DATA_TYPE_FLOAT32: (DataType.FLOAT32, np.dtype("<f4")),
    pb.DATA_TYPE_FLOAT16: (DataType.FLOAT16, np.dtype("<f2")),
    pb.DATA_TYPE_BFLOAT16: (DataType.BFLOAT16, np.dtype("<u2")),
}
_DATA_TYPES = {stored: pb.DataType.Name(number) for number, (stored, _) in _STORED.items()}
_CAUSAL: dict[int, bool | None] = {
    pb.CAUSALITY_UNSPECIFIED: None,
    pb.CAUSALITY_CAUSAL: True,
    pb.CAUSALITY_BIDIRECTIONAL: False,
}
_CAUSALITIES = {causal: pb.Causality.Name(number) for number, causal in _CAUSAL.items()}
_PATTERN_OF = {pb.Pattern.Value(f"PATTERN_{pattern.name}"): pattern for pattern in PATTERNS}
_NUMBER_OF = {str(pattern): number for number, pattern in _PATTERN_OF.items()}


def declared_request(declaration: Declaration, *, length: int) -> pb.ClassifyHeadsRequest:
    """Returns a request for maps of ``length`` tokens that holds all but the maps.

    Raises:
        InvalidDeclarationError: A name is not Unicode, which a message cannot hold.
    """
    kept, tokens, segments = declaration.kept, declaration.tokens or (), declaration.segments
    padded = len(kept) < length
    prefix = int(kept[-1]) == len(kept) - 1
    groups = [group for group in declaration.groups if not (is_special(group.name) and group.name in tokens)]
    try:
        return pb.ClassifyHeadsRequest(
            tokens=tokens,
            token_groups=[pb.TokenGroup(name=g.name, positions=kept[g.positions].tolist()) for g in groups],
            segment_ids=() if segments is None else np.unique(segments, return_inverse=True)[1].tolist(),
            valid_length=len(kept) if padded and prefix else None,
            mask=np.isin(np.arange(length), kept).tolist() if padded and not prefix else (),
            causality=_CAUSALITIES[declaration.causal],
        )
    except UnicodeEncodeError as error:
        raise InvalidDeclarationError(f"tokens or names of token groups are not Unicode: {error}") from error


def request_of(
    maps: AttentionMaps, declared: pb.ClassifyHeadsRequest, *, causal: bool | None = None
) -> Parcel[pb.ClassifyHeadsRequest]:
    """Returns the request to classify ``maps``.

    Args:
        maps: A tensor or a chunk of it.
        declared: Request that holds the declarations.
        causal: Whether the maps are causal, where a layer is cut into chunks that must not each find their own answer.
    """
    firsts = {name: axis[0] for name, axis in zip(maps.names, maps.axes, strict=True)}
    message = pb.ClassifyHeadsRequest()
    message.CopyFrom(declared)
    if causal is not None:
        message.MergeFrom(pb.ClassifyHeadsRequest(causality=_CAUSALITIES[causal]))
    message.first_layer = firsts.get("layer", 0)
    message.first_head = firsts.get("head", 0)
    shape = [*maps.leading, maps.length, maps.length]
    message.attention.MergeFrom(pb.Tensor(data_type=_DATA_TYPES[maps.data_type], shape=shape))
    return Parcel(message, maps.values.data.cast("B"))


def maps_of(parcel: Parcel[pb.ClassifyHeadsRequest]) -> AttentionMaps:
    """Returns the maps of a request, on the memory of its payload unless layers or heads are selected.

    Raises:
        ShapeError: The tensor is damaged or not self-attention.
        DataTypeError: The tensor is not of a type that is read.
        SelectionError: A selected layer or head is not in the tensor, or named twice.
        InvalidDeclarationError: An index does not fit into 32 bits.
    """
    request = parcel.message
    data = (
        request.attention.data or parcel.payload or b""
    )  # of several payloads the last counts, which is in the message
    maps = _read_tensor(request.attention, data, first_layer=request.first_layer, first_head=request.first_head)
    for name, axis in zip(maps.names, maps.axes, strict=True):
        if axis[-1] >= _UINT32_END:
            raise InvalidDeclarationError(f"the last {name} has index {axis[-1]}, expected less than {_UINT32_END}")
    return _select(maps, {"layer": list(request.layers), "head": list(request.heads)})


def check_request_id(request_id: str) -> str:
    """Returns a request id that is not too long.

    Raises:
        RequestIdError: The id has more than 256 characters.
    """
    if len(request_id) > LONGEST_REQUEST_ID:
        raise RequestIdError(f"request_id has {len(request_id)} characters, expected at most {LONGEST_REQUEST_ID}")
    return request_id


def _read_tensor(tensor: pb.Tensor, data: memoryview | bytes, *, first_layer: int, first_head: int) -> AttentionMaps:
    if tensor.data_type not in _STORED:
        expected = ", ".join(pb.DataType.Name(number) for number in _STORED)
        raise DataTypeError(f"attention.data_type is {tensor.data_type}, expected one of {expected}")
    (stored, dtype), shape = _STORED[tensor.data_type], list(tensor.shape)
    if len(shape) > MOST_AXES:  # the product of many sizes is a number too long to print
        raise ShapeError(f"attention has {len(shape)} axes, expected [L, L], [heads, L, L] or [layers, heads, L, L]")
    size = math.prod(shape) * dtype.itemsize
    if size == 0 or size != len(data):
        raise ShapeError(
            f"attention has shape {shape!r:.80} of {stored} and {len(data)} bytes of data, expected "
            f"{f'{size} bytes' if size else 'at least one map of one token'}"
        )
    array = np.frombuffer(data, dtype).reshape(shape)
    return read_attention(array, stored, first_layer=first_layer, first_head=first_head)


def _select(maps: AttentionMaps, selection: Mapping[str, list[int]]) -> AttentionMaps:
    axes = dict(zip(maps.names, maps.axes, strict=True))
    for name, indices in selection.items():
        axis = axes.get(name, ())
        if len(set(indices)) < len(indices) or not set(indices) <= set(axis):
            expected = f"{axis[0]} to {axis[-1]}, each once" if axis else f"none: the tensor has no {name} axis"
            raise SelectionError(f"{name}s {indices!r:.80} are selected, expected {expected}")
    if not any(selection.values()):
        return maps
    return select_maps(maps, *([i - axis[0] for i in selection[name]] or slice(None) for name, axis in axes.items()))


def declaration_of(request: pb.ClassifyHeadsRequest, length: int) -> Declaration:
    """Returns the declaration that a request makes of its maps of ``length`` tokens.

    Raises:
        InvalidDeclarationError: A declaration does not fit the maps or another declaration.
    """
    groups = {group.name: list(group.positions) for group in request.token_groups}
    if len(groups) < len(request.token_groups):
        raise TokenGroupsError(
            f"{len(request.token_groups)} token groups have {len(groups)} names, expected unique ones"
        )
    if request.causality not in _CAUSAL:
        raise InvalidDeclarationError(f"causality is {request.causality}, expected 0, 1 or 2")
    return read_declaration(
        length,
        tokens=list(request.tokens) or None,
        token_groups=groups,
        segments=_segments_of(request, length),
        valid_length=request.valid_length if request.HasField("valid_length") else None,
        mask=list(request.mask) or None,
        causal=_CAUSAL[request.causality],
    )


def _segments_of(request: pb.ClassifyHeadsRequest, length: int) -> NDArray[np.int64] | None:
    """Returns the segment of each token; the library takes lengths and ids in one argument and would have to guess."""
    lengths, ids = list(request.segment_lengths), list(request.segment_ids)
    kept = min(request.valid_length or sum(request.mask) or length, length)
    if lengths and ids:
        raise SegmentsError("segment_lengths and segment_ids are both declared, expected one of them")
    if lengths and (0 in lengths or sum(lengths) not in (length, kept)):
        raise SegmentsError(
            f"segment_lengths is {lengths!r:.80} (sum {sum(lengths)}), expected lengths from 1 up that sum to {kept}"
        )
    if ids and len(ids) not in (length, kept):
        raise SegmentsError(f"{len(ids)} segment_ids are declared, expected one for each of {kept} tokens")
    if not (lengths or ids):
        return None
    return np.array(ids) if ids else np.repeat(np.arange(len(lengths)), lengths)


def response_of(
    result: Classification, *, maps: AttentionMaps, bundle: ModelBundle, request_id: str
) -> pb.ClassifyHeadsResponse:
    """Returns the answer that holds ``result``, the classification of ``maps``."""
    groups = result.attention_to
    columns = {
        **dict(zip(maps.names, zip(*product(*maps.axes), strict=True), strict=False)),  # a lone map has no axes
        "pattern": [_NUMBER_OF[name] for name in flat(result.patterns)],
        "probabilities": result.probabilities.reshape(-1, len(PATTERNS)).tolist(),
        **{name: flat(getattr(result, name)) for name in ("margin", "uncertain", "overruled", "causal")},
        "evidence": write_evidence(result.evidence, maps.length),
    }
    if groups:
        columns["attention_to"] = list(zip(*map(write_attention_to, groups, groups.values()), strict=True))
    return pb.ClassifyHeadsResponse(
        request_id=request_id,
        model_name=bundle.name,
        model_version=bundle.version,
        model_sha256=bundle.sha256,
        rendering_version=bundle.rendering_version,
        warnings=result.warnings,
        length=result.length,
        too_short=result.too_short,
        groups=[pb.TokenGroupPositions(name=n, positions=group.positions.tolist()) for n, group in groups.items()],
        heads=write_rows(pb.HeadResult, columns),
    )


def size_of_response(maps: AttentionMaps, declaration: Declaration) -> int:
    """Returns the most bytes of the answer to ``maps``."""
    groups = sum(_GROUP_BYTES + len(group.name.encode()) for group in declaration.groups)
    positions = sum(len(group.positions) for group in declaration.groups) + len(maps.values) * maps.length
    return _FRAME_BYTES + len(maps.values) * (_HEAD_BYTES + groups) + groups + _POSITION_BYTES * positions


def size_of_images_response(count: int) -> int:
    """Returns the most bytes of the answer to so many images."""
    return _FRAME_BYTES + 4 * len(PATTERNS) * count


def classification_of(
    responses: Sequence[pb.ClassifyHeadsResponse],
    *,
    leading: tuple[int, ...],
    length: int,
    layers: Sequence[int] | None = None,
) -> Classification:
    """Returns the classification that the answers to all chunks of a tensor hold.

    Args:
        responses: Answers in the order of the chunks, at least one.
        leading: Sizes of the axes of the tensor before the last two.
        length: Number of tokens, padding included.
        layers: Indices of the layers, where they are not 0, 1, ...

    Raises:
        ModelReplacedError: The answers are of different models.
        ServerError: The answers are not those to this tensor.
    """
    first, heads = responses[0], [head for response in responses for head in response.heads]
    if any(response.model_sha256 != first.model_sha256 for response in responses):
        raise ModelReplacedError("some chunks were read by one model, others by its successor")
    if len(heads) != math.prod(leading):
        raise ServerError(f"the server answered for {len(heads)} heads, expected {math.prod(leading)}")
    return Classification(
        patterns=np.array([_PATTERN_OF[head.pattern] for head in heads], PATTERN_NAMES.dtype).reshape(leading),
        probabilities=np.array([list(head.probabilities) for head in heads], np.float32).reshape(*leading, -1),
        margin=read_column(heads, "margin", leading),
        uncertain=read_column(heads, "uncertain", leading, np.bool_),
        overruled=read_column(heads, "overruled", leading, np.bool_),
        causal=read_column(heads, "causal", leading, np.bool_),
        evidence=read_evidence([head.evidence for head in heads], leading=leading, length=length),
        attention_to=MappingProxyType(
            {
                group.name: read_attention_to(group, [head.attention_to[number] for head in heads], leading)
                for number, group in enumerate(first.groups)
            }
        ),
        length=first.length,
        too_short=first.too_short,
        model=f"{first.model_name} {first.model_version}",
        warnings=tuple(dict.fromkeys(warning for response in responses for warning in response.warnings)),
        layers=tuple(range(leading[0]) if layers is None and len(leading) > 1 else layers or ()),
    )


def images_request_of(images: NDArray[np.uint8]) -> Parcel[pb.ClassifyImagesRequest]:
    """Returns the request to classify images uint8 [n, 3, size, size]."""
    message = pb.ClassifyImagesRequest(rendering_version=RENDERING_VERSION, image_size=images.shape[-1])
    return Parcel(message, images.data.cast("B"))


def images_of(parcel: Parcel[pb.ClassifyImagesRequest], *, image_size: int) -> NDArray[np.uint8]:
    """Returns the images uint8 [n, 3, size, size] of a request, on the memory of its payload.

    Raises:
        ModelReplacedError: The images are not of the size that this model reads.
        VersionError: The images are of another rendering.
        ShapeError: There is no image, or an incomplete one.
    """
    request = parcel.message
    if request.rendering_version != RENDERING_VERSION:
        raise VersionError(f"rendering_version is {request.rendering_version}, the model reads {RENDERING_VERSION}")
    if request.image_size != image_size:
        raise ModelReplacedError(
            f"image_size is {request.image_size}, the model reads images of {image_size} pixels a side"
        )
    data, size = request.images or parcel.payload or b"", CHANNELS * image_size * image_size
    if len(data) == 0 or len(data) % size:
        raise ShapeError(f"images has {len(data)} bytes, expected {size} for each of at least one image")
    return np.frombuffer(data, np.uint8).reshape(-1, CHANNELS, image_size, image_size)


def images_response_of(answer: NetAnswer, *, bundle: ModelBundle, request_id: str) -> pb.ClassifyImagesResponse:
    """Returns the answer that holds the answer of the net."""
    return pb.ClassifyImagesResponse(
        request_id=request_id,
        model_name=bundle.name,
        model_version=bundle.version,
        model_sha256=bundle.sha256,
        uncertain_below=answer.uncertain_below,
        probabilities=answer.probabilities.ravel().tolist(),
    )


def net_answer_of(response: pb.ClassifyImagesResponse, *, count: int) -> NetAnswer:
    """Returns the answer of a server's net to ``count`` images.

    Raises:
        ServerError: The answer is not that to these images.
    """
    values = np.array(response.probabilities, np.float32)
    if len(values) != count * len(PATTERNS):
        raise ServerError(f"the server answered {len(values)} probabilities, expected {count * len(PATTERNS)}")
    return NetAnswer(
        probabilities=values.reshape(count, -1),
        model=f"{response.model_name} {response.model_version}",
        sha256=response.model_sha256,
        uncertain_below=response.uncertain_below,
    )
