"""The client: the library's calls, answered by a server."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from classifier.attention_map import AttentionMaps, Declaration
from classifier.classification import Classification, Classifier
from classifier.errors import AttentionPatternsError
from classifier.outputs import Tokenizer, inputs_of
from classifier.rendering import find_causal
from service.converters import ModelInfo, classification_of, declared_request, model_info_of, request_of
from service.errors import error_of, error_of_call
from service.parts import parts_of
from service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from service.pb.attention_patterns.v1 import attention_patterns_pb2_grpc as pb_grpc

_FRAME_BYTES = 256  # what a message holds besides the values and the declarations, at most
_INDICES = 2**32  # that a message holds
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Client(Classifier):
    """Classifies at a server as ``PatternClassifier`` does in-process: same arguments, results and errors.

    A large tensor is sent in parts; MessageTooLargeError says that a single map is over the server's limit. All calls
    raise ServerError when the server cannot be reached, fails, or does not answer in time. A context manager; safe to
    share between threads.
    """

    def __init__(self, endpoint: str, *, timeout: float | None = 60.0) -> None:
        """Connects on the first call.

        Args:
            endpoint: "host:port".
            timeout: seconds that each message sent may take to be answered; None waits for ever.
        """
        self.endpoint = endpoint
        self._timeout = timeout
        self._channel = grpc.insecure_channel(endpoint, options=_UNLIMITED)
        self._stub = pb_grpc.AttentionPatternServiceStub(self._channel)  # type: ignore[no-untyped-call] # generated

    def model(self) -> ModelInfo:
        """Asks for the model that answers."""
        with self._told():
            return model_info_of(self._stub.GetModel(pb.GetModelRequest(), timeout=self._timeout))

    def classify_outputs(
        self, outputs: object, encoding: Mapping[str, Any], tokenizer: Tokenizer
    ) -> list[Classification]:
        """Classifies what a Hugging Face model returned: one result for each text of the batch.

        Args:
            outputs: of a model loaded with ``attn_implementation="eager"`` and called with ``output_attentions=True``;
                of an encoder-decoder, the encoder's self-attention is taken.
            encoding: what the tokenizer returned; it tells padding and, for pairs, segments.
            tokenizer: names the tokens.

        Raises:
            InvalidAttentionError: the outputs hold no attention, or not that of ``encoding``.
        """
        return [
            self.classify(
                one.attention, tokens=one.tokens, segments=one.segments, mask=one.mask, data_type=one.data_type
            )
            for one in inputs_of(outputs, encoding, tokenizer)
        ]

    def classify_read(self, maps: AttentionMaps, declaration: Declaration) -> Classification:
        """Classifies maps that were read and declared: where all doors meet."""
        sent = _as_tensor(maps)
        declared = declared_request(declaration, length=maps.length)
        limit = self._max_message_bytes - declared.ByteSize() - _FRAME_BYTES
        parts = list(parts_of(sent, limit=limit))
        split = any(part.leading[-1:] != sent.leading[-1:] for part in parts)
        found = find_causal(sent, declaration) if split else None
        try:
            with self._told():
                answers = self._answers(_requests(parts, declared, found), len(parts))
        except AttentionPatternsError as error:
            raise _renamed(error, maps) from error
        return classification_of(answers, leading=maps.leading, length=maps.length)

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the connection."""
        self.close()

    @cached_property
    def _max_message_bytes(self) -> int:
        return self.model().max_message_bytes

    def _answers(self, requests: Iterator[pb.StreamClassifyHeadsRequest], count: int) -> list[pb.ClassifyHeadsResponse]:
        """The answers in order: a call of its own for one request, a stream for more."""
        if count == 1:
            return [self._stub.ClassifyHeads(next(requests).request, timeout=self._timeout)]
        allowed = None if self._timeout is None else self._timeout * count
        call = self._stub.StreamClassifyHeads(requests, timeout=allowed)
        try:
            return [self._answered(answer) for answer in call]
        finally:
            call.cancel()  # of no effect on a call that is done

    def _answered(self, answer: pb.StreamClassifyHeadsResponse) -> pb.ClassifyHeadsResponse:
        if answer.HasField("error"):
            raise error_of(answer.error.reason, answer.error.message, self.endpoint)
        return answer.response

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


def _requests(
    parts: Iterable[AttentionMaps], declared: pb.ClassifyHeadsRequest, found: NDArray[np.bool_] | None
) -> Iterator[pb.StreamClassifyHeadsRequest]:
    begin = 0
    for part in parts:
        yield request_of(part, declared, causal=None if found is None else bool(found[begin]))
        begin += len(part.values)
