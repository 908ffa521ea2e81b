"""The client: the library's calls, answered by a server."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from attention_patterns.attention_map import AttentionMaps, Declaration
from attention_patterns.classification import Classification, NetAnswer
from attention_patterns.classifier import UNWATCHED, Classifier, Oversight
from attention_patterns.errors import AttentionPatternsError, MessageTooLargeError, ModelReplacedError, VersionError
from attention_patterns.per_process import PerProcess
from attention_patterns.rendering import CHANNELS, RENDERING_VERSION, find_causal
from attention_patterns_service.connection import Address, advise, open_channel
from attention_patterns_service.contract.chunks import cut_into_chunks
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
from attention_patterns_service.retries import Retries

_SERVICE = pb.DESCRIPTOR.services_by_name["AttentionPatternService"].full_name
_FRAME_BYTES = 256  # most bytes of a message besides the values and the declarations
_IMAGES = 144  # most images in a message: a megabyte
_SENDERS = 4  # most chunks of a tensor under way at a time
_METHODS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {  # how requests are written, answers read
    "ClassifyHeads": (HEADS.write, pb.ClassifyHeadsResponse.FromString),
    "ClassifyImages": (IMAGES.write, pb.ClassifyImagesResponse.FromString),
    "GetModel": (pb.GetModelRequest.SerializeToString, pb.GetModelResponse.FromString),
}

Reduce = Literal["auto", "always", "never"]
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class _Line:
    """The line of one process to the server.

    Attributes:
        channel: The channel.
        methods: The methods by their names.
        senders: Threads that send chunks side by side.
    """

    channel: grpc.Channel
    methods: Mapping[str, Callable[..., Any]]
    senders: ThreadPoolExecutor

    @classmethod
    def open(cls, endpoint: str, credentials: grpc.ChannelCredentials | None) -> "_Line":
        """Opens a line, which connects on the first call."""
        channel = open_channel(endpoint, credentials)
        methods = {
            name: channel.unary_unary(f"/{_SERVICE}/{name}", request_serializer=write, response_deserializer=read)
            for name, (write, read) in _METHODS.items()
        }
        return cls(channel, methods, ThreadPoolExecutor(_SENDERS, thread_name_prefix="send"))


class Client(Classifier):
    """A classifier whose net runs at a server: the arguments, results and errors are those of ``PatternClassifier``.

    The client sends the maps, a large tensor in chunks, or reduces them first and sends images of 7 KB per map. All
    calls raise ServerError when the server cannot be reached, refuses, fails, or does not answer in time; subclasses
    name which. A call is repeated while the server is away or busy. A context manager; safe to share between threads
    and with forked processes, which connect anew.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        timeout: float | None = 60.0,
        retry_seconds: float = 10.0,
        reduce: Reduce = "auto",
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Connects on the first call.

        Args:
            endpoint: Address "host:port", or any name that gRPC resolves; calls take turns among all addresses of
                "dns:///name:port".
            timeout: Seconds within which each message is to be answered, repetitions included; None waits for ever.
            retry_seconds: Seconds within which a call is repeated that cannot reach the server. A call that the server
                is too busy for is repeated until ``timeout``. With 0 neither is repeated.
            reduce: Whether maps are rendered and measured here and images are sent in their place: "always", "never",
                or, with "auto", where a map has more bytes than its image. The answers are equal to the last bit.
            token: Bearer token that the server knows.
            credentials: Credentials for TLS, as ``grpc.ssl_channel_credentials`` makes them; without them nothing is
                encrypted.
        """
        super().__init__()
        self.endpoint = endpoint
        self._retries = Retries(timeout=timeout, retry_seconds=retry_seconds)
        self._reduce = reduce
        self._metadata = (("authorization", f"Bearer {token}"),) if token else None
        self._line = PerProcess(lambda: _Line.open(endpoint, credentials))
        if token and not credentials and not Address.read(endpoint).is_local:
            warnings.warn(
                f"the token travels to {endpoint} without TLS, readable on the way: pass credentials", stacklevel=2
            )

    def model(self) -> ModelInfo:
        """Returns the server's model and its limits on requests.

        Raises:
            VersionError: The server is of an older version than this client.
        """
        info = model_info_of(self._call("GetModel", pb.GetModelRequest()))
        if info.contract_version < CONTRACT_VERSION:
            raise VersionError(
                f"server {self.endpoint} speaks version {info.contract_version} of the contract, this client "
                f"{CONTRACT_VERSION}: update the server"
            )
        return info

    def classify_read(
        self, maps: AttentionMaps, declaration: Declaration, oversight: Oversight = UNWATCHED
    ) -> Classification:
        """Classifies maps that were read and declared.

        Raises:
            InvalidAttentionError: A map is not a self-attention map; subclasses name why.
            ServerError: The server did not answer; subclasses name why.
        """
        try:
            return self._classify_once(maps, declaration, oversight)
        except ModelReplacedError:  # between two chunks of this tensor, or since the model was asked for
            vars(self).pop("_info", None)
            return self._classify_once(maps, declaration, oversight)

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        if line := self._line.get_made():
            line.channel.close()
            line.senders.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        """Returns the client itself."""
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
        return self._send_maps(maps, declaration)

    def _reduces(self, maps: AttentionMaps) -> bool:
        if self._reduce == "never":
            return False
        info = self._info
        same = info.rendering_version == RENDERING_VERSION
        if self._reduce == "auto":
            return same and maps.values[0].nbytes > CHANNELS * info.image_size**2
        if not same:
            raise VersionError(
                f"server {self.endpoint} reads rendering {info.rendering_version}, this client makes "
                f'{RENDERING_VERSION}: send the maps themselves, with reduce="never"'
            )
        return True

    def classify_images(self, images: NDArray[np.uint8], oversight: Oversight = UNWATCHED) -> NetAnswer:  # noqa: ARG002  the server watches its own work
        """Sends images uint8 [n, 3, size, size], as ``rendering.render`` makes them, for the server's net to read.

        Raises:
            ServerError: The server did not answer; subclasses name why.
        """
        info, size = self._info, images[0].nbytes
        fitting = (info.max_message_bytes - _FRAME_BYTES) // size
        if fitting < 1:
            raise MessageTooLargeError(
                f"one image has {size} bytes, the server takes messages of {info.max_message_bytes}",
                name="message_bytes",
                limit=info.max_message_bytes,
            )
        most = min(_IMAGES, info.max_maps, fitting)
        chunks = [images[begin : begin + most] for begin in range(0, len(images), most)]
        return NetAnswer.join(self._send_side_by_side(self._send_images, chunks))

    def _send_images(self, images: NDArray[np.uint8]) -> NetAnswer:
        return net_answer_of(self._call("ClassifyImages", images_request_of(images)), count=len(images))

    def _send_side_by_side(self, send: Callable[..., _Answer], *arguments: Sequence[Any]) -> list[_Answer]:
        """Calls ``send`` with the first of each argument, with the second, and so on; returns the answers in order."""
        if len(arguments[0]) == 1:
            return [send(*(values[0] for values in arguments))]
        return list(self._line.get().senders.map(send, *arguments))

    def _send_maps(self, maps: AttentionMaps, declaration: Declaration) -> Classification:
        """Sends the maps themselves, a large tensor in chunks side by side."""
        tensor, info = _as_tensor(maps), self._info
        declared = declared_request(declaration, length=maps.length)
        limit = info.max_message_bytes - declared.ByteSize() - _FRAME_BYTES
        chunks = list(cut_into_chunks(tensor, limit=limit, most=info.max_maps))
        # Causality is a layer's: the chunks of one layer, each alone, might find different answers.
        apart = any(chunk.leading[-1:] != tensor.leading[-1:] for chunk in chunks)
        causal = find_causal(tensor, declaration) if apart else None
        begins = np.cumsum([0, *(len(chunk.values) for chunk in chunks)])[:-1].tolist()

        def send(chunk: AttentionMaps, begin: int) -> pb.ClassifyHeadsResponse:
            request = request_of(chunk, declared, causal=None if causal is None else bool(causal[begin]))
            response: pb.ClassifyHeadsResponse = self._call("ClassifyHeads", request)
            return response

        try:
            answers = self._send_side_by_side(send, chunks, begins)
        except AttentionPatternsError as error:
            raise _rename_map(error, maps) from error
        return classification_of(answers, leading=maps.leading, length=maps.length, layers=maps.layers)

    def _call(self, name: str, request: object) -> Any:
        """Returns the answer of a method; a call that may succeed later is repeated."""
        method = self._line.get().methods[name]

        def attempt(seconds: float | None) -> Any:
            try:
                return method(request, timeout=seconds, metadata=self._metadata)
            except grpc.RpcError as error:
                raise error_of_call(error, self.endpoint, advice=advise(self.endpoint)) from error

        return self._retries.call(attempt)


def _as_tensor(maps: AttentionMaps) -> AttentionMaps:
    """Returns the maps as they travel: those of a list as layers of one head, since they are independent."""
    if maps.names != ("map",):
        return maps
    return replace(maps, names=("layer", "head"), axes=(range(len(maps.values)), range(1)))


def _rename_map(error: AttentionPatternsError, maps: AttentionMaps) -> AttentionPatternsError:
    """Returns the error with the caller's name of the map where a list of maps was sent."""
    if maps.names != ("map",):
        return error
    message = re.sub(r"^attention\[layer (\d+), head 0\]", lambda match: maps.where(int(match[1])), str(error))
    return type(error)(message)
