"""The client: the library's calls, answered by a server."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import AttentionMaps, Declaration
from attention_patterns.classification import Classification, NetAnswer
from attention_patterns.classifier import UNWATCHED, Classifier, Oversight
from attention_patterns.errors import AttentionPatternsError, MessageTooLargeError, ModelReplacedError, VersionError
from attention_patterns.rendering import CHANNELS, RENDERING_VERSION, find_causal
from attention_patterns_service.contract.chunks import parts_of
from attention_patterns_service.contract.converters import (
    HEADS,
    IMAGES,
    classification_of,
    declared_request,
    images_request_of,
    net_answer_of,
    request_of,
)
from attention_patterns_service.contract.errors import error_of_call
from attention_patterns_service.contract.model_info import CONTRACT_VERSION, ModelInfo, model_info_of
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["AttentionPatternService"].full_name
_FRAME_BYTES = 256  # what a message holds besides the values and the declarations, at most
_IMAGES = 144  # images in a message: a megabyte
_SENDERS = 4  # parts of a tensor under way at a time
# Every call may be repeated: the server keeps nothing. gRPC makes at most five attempts, here over some ten seconds,
# in which a server that is restarted is back.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": _SERVICE}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.5s",
                "backoffMultiplier": 2,
                "maxBackoff": "5s",
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.per_rpc_retry_buffer_size", 1 << 30),  # a message over this size would not be sent again
    ("grpc.keepalive_time_ms", 30_000),  # a connection whose other end is gone is noticed
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]

Reduce = Literal["auto", "always", "never"]
_Answer = TypeVar("_Answer")


class Client(Classifier):
    """Classifies at a server as ``PatternClassifier`` does in-process: same arguments, results and errors.

    What travels is the maps, a large tensor in parts, or where the client reduces them first, images of 7 KB a map.
    All calls raise ServerError when the server cannot be reached, refuses, fails, or does not answer in time;
    subclasses say which. A call that finds the server unavailable is repeated for about ten seconds. A context manager;
    safe to share between threads.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        timeout: float | None = 60.0,
        reduce: Reduce = "auto",
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Connects on the first call.

        Args:
            endpoint: "host:port", or any name that gRPC resolves; calls go round all addresses of "dns:///name:port".
            timeout: seconds that each message sent may take to be answered; None waits for ever.
            reduce: whether maps are rendered and measured here and images are sent in their place: "always", "never",
                or, with "auto", where a map has more bytes than its image. The answers are equal to the last bit.
            token: shown to the server.
            credentials: for TLS, as ``grpc.ssl_channel_credentials`` makes them; without them nothing is encrypted.
        """
        super().__init__()
        self.endpoint = endpoint
        self._timeout = timeout
        self._reduce = reduce
        self._metadata = (("authorization", f"Bearer {token}"),) if token else None
        self._channel = (
            grpc.secure_channel(endpoint, credentials, options=_OPTIONS)
            if credentials
            else grpc.insecure_channel(endpoint, options=_OPTIONS)
        )
        self._classify_heads = self._method("ClassifyHeads", HEADS.write, pb.ClassifyHeadsResponse.FromString)
        self._classify_images = self._method("ClassifyImages", IMAGES.write, pb.ClassifyImagesResponse.FromString)
        self._get_model = self._method("GetModel", pb.GetModelRequest.SerializeToString, pb.GetModelResponse.FromString)
        self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="send")

    def model(self) -> ModelInfo:
        """Asks for the model that answers, and the limits of requests.

        Raises:
            VersionError: the server is of an older version than this client.
        """
        info = model_info_of(self._call(self._get_model, pb.GetModelRequest()))
        if info.contract_version < CONTRACT_VERSION:
            raise VersionError(
                f"server {self.endpoint} speaks version {info.contract_version} of the contract, this client "
                f"{CONTRACT_VERSION}: update the server"
            )
        return info

    def classify_read(
        self, maps: AttentionMaps, declaration: Declaration, oversight: Oversight = UNWATCHED
    ) -> Classification:
        """Classifies maps that were read and declared: where all doors meet."""
        try:
            return self._classify_once(maps, declaration, oversight)
        except ModelReplacedError:  # between two parts of this tensor, or since the model was asked for
            vars(self).pop("_info", None)
            return self._classify_once(maps, declaration, oversight)

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        self._channel.close()
        self._senders.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the connection."""
        self.close()

    @cached_property
    def _info(self) -> ModelInfo:
        return self.model()

    @property
    def image_size(self) -> int:
        """Pixels per side of the images that the server's net reads."""
        return self._info.image_size

    def _classify_once(self, maps: AttentionMaps, declaration: Declaration, oversight: Oversight) -> Classification:
        if self._reduces(maps):
            return super().classify_read(maps, declaration, oversight)
        return self._classify_there(maps, declaration)

    def _reduces(self, maps: AttentionMaps) -> bool:
        if self._reduce == "never":
            return False
        same = self._info.rendering_version == RENDERING_VERSION
        if self._reduce == "auto":
            return same and maps.values[0].nbytes > CHANNELS * self._info.image_size**2
        if not same:
            raise VersionError(
                f"server {self.endpoint} reads rendering {self._info.rendering_version}, this client makes "
                f'{RENDERING_VERSION}: send the maps themselves, with reduce="never"'
            )
        return True

    def classify_images(self, images: NDArray[np.uint8], oversight: Oversight = UNWATCHED) -> NetAnswer:  # noqa: ARG002  the server watches its part
        """What the server's net says of images uint8 [n, 3, size, size], as ``rendering.render`` makes them."""
        fitting = (self._info.max_message_bytes - _FRAME_BYTES) // images[0].nbytes
        if fitting < 1:
            raise MessageTooLargeError(
                f"one image has {images[0].nbytes} bytes, the server takes messages of {self._info.max_message_bytes}"
            )
        most = min(_IMAGES, self._info.max_maps, fitting)
        parts = [images[begin : begin + most] for begin in range(0, len(images), most)]
        return NetAnswer.joined(self._side_by_side(self._answer_to_images, parts))

    def _answer_to_images(self, images: NDArray[np.uint8]) -> NetAnswer:
        return net_answer_of(self._call(self._classify_images, images_request_of(images)), count=len(images))

    def _side_by_side(self, send: Callable[..., _Answer], *parts: Sequence[Any]) -> list[_Answer]:
        if len(parts[0]) == 1:
            return [send(*(part[0] for part in parts))]
        return list(self._senders.map(send, *parts))

    def _classify_there(self, maps: AttentionMaps, declaration: Declaration) -> Classification:
        """Sends the maps, a large tensor in parts side by side."""
        sent = _as_tensor(maps)
        declared = declared_request(declaration, length=maps.length)
        limit = self._info.max_message_bytes - declared.ByteSize() - _FRAME_BYTES
        parts = list(parts_of(sent, limit=limit, most=self._info.max_maps))
        split = any(part.leading[-1:] != sent.leading[-1:] for part in parts)
        found = find_causal(sent, declaration) if split else None
        begins = np.cumsum([0, *(len(part.values) for part in parts)])[:-1].tolist()

        def answered(part: AttentionMaps, begin: int) -> pb.ClassifyHeadsResponse:
            causal = None if found is None else bool(found[begin])
            response: pb.ClassifyHeadsResponse = self._call(
                self._classify_heads, request_of(part, declared, causal=causal)
            )
            return response

        try:
            answers = self._side_by_side(answered, parts, begins)
        except AttentionPatternsError as error:
            raise _renamed(error, maps) from error
        return classification_of(answers, leading=maps.leading, length=maps.length)

    def _method(self, name: str, write: Callable[..., bytes], read: Callable[..., Any]) -> Callable[..., Any]:
        method: Callable[..., Any] = self._channel.unary_unary(
            f"/{_SERVICE}/{name}", request_serializer=write, response_deserializer=read
        )
        return method

    def _call(self, method: Callable[..., Any], request: object) -> Any:
        with self._told():
            return method(request, timeout=self._timeout, metadata=self._metadata)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raises what a failed call means."""
        try:
            yield
        except grpc.RpcError as error:
            raise error_of_call(error, self.endpoint) from error


def _as_tensor(maps: AttentionMaps) -> AttentionMaps:
    """The maps as they travel: those of a list as layers of one head, since they have nothing to do with each other."""
    if maps.names != ("map",):
        return maps
    return replace(maps, names=("layer", "head"), axes=(range(len(maps.values)), range(1)))


def _renamed(error: AttentionPatternsError, maps: AttentionMaps) -> AttentionPatternsError:
    """The error with the caller's name of the map where a list of maps was sent."""
    if maps.names != ("map",):
        return error
    message = re.sub(r"^attention\[layer (\d+), head 0\]", lambda found: maps.where(int(found[1])), str(error))
    return type(error)(message)
