"""The error classes of ``attention_patterns.errors`` on the wire, and back.

A failure travels as ``google.rpc.Status`` with ``ErrorInfo`` (AIP-193) or, in a stream, as ``StreamError``; its reason
names the class, so that an error of the server is raised at the client too, with the same message.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from attention_patterns import errors

DOMAIN = "attention-patterns"
INTERNAL_REASON, INTERNAL_MESSAGE = "INTERNAL", "internal error"
# A status travels twice in the trailing metadata (text, percent-encoded, and details), of which gRPC takes 8 KiB.
LONGEST_MESSAGE = 1500  # bytes

logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Meaning:
    """The form of an error class on the wire.

    Attributes:
        code: Code of the gRPC status.
        reason: Reason in ``ErrorInfo``, unique to the class.
    """

    code: grpc.StatusCode
    reason: str


_BAD, _UNFIT = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
_FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
MEANINGS: dict[type[errors.AttentionPatternsError], Meaning] = {
    errors.InvalidAttentionError: Meaning(_BAD, "INVALID_ATTENTION"),
    errors.ShapeError: Meaning(_BAD, "SHAPE"),
    errors.DataTypeError: Meaning(_BAD, "DATA_TYPE"),
    errors.NotFiniteError: Meaning(_BAD, "NOT_FINITE"),
    errors.NegativeAttentionError: Meaning(_BAD, "NEGATIVE_ATTENTION"),
    errors.LogitsError: Meaning(_BAD, "LOGITS"),
    errors.TransposedError: Meaning(_BAD, "TRANSPOSED"),
    errors.RowSumError: Meaning(_BAD, "ROW_SUM"),
    errors.NotCausalError: Meaning(_BAD, "NOT_CAUSAL"),
    errors.InvalidDeclarationError: Meaning(_BAD, "INVALID_DECLARATION"),
    errors.TokensError: Meaning(_BAD, "TOKENS"),
    errors.TokenGroupsError: Meaning(_BAD, "TOKEN_GROUPS"),
    errors.SegmentsError: Meaning(_BAD, "SEGMENTS"),
    errors.PaddingError: Meaning(_BAD, "PADDING"),
    errors.SelectionError: Meaning(_BAD, "SELECTION"),
    errors.RequestIdError: Meaning(_BAD, "REQUEST_ID"),
    errors.BundleError: Meaning(_UNFIT, "BUNDLE"),
    errors.InvalidSettingsError: Meaning(_UNFIT, "SETTINGS"),
    errors.MissingExtraError: Meaning(_UNFIT, "MISSING_EXTRA"),
    errors.SourceError: Meaning(_UNFIT, "SOURCE"),
    errors.OutputError: Meaning(_UNFIT, "OUTPUT"),
    errors.ServerError: Meaning(grpc.StatusCode.UNAVAILABLE, "SERVER"),
    errors.AbandonedError: Meaning(grpc.StatusCode.CANCELLED, "ABANDONED"),
    errors.MessageError: Meaning(_BAD, "MESSAGE"),
    errors.MessageTooLargeError: Meaning(_FULL, "MESSAGE_TOO_LARGE"),
    errors.RequestLimitError: Meaning(_FULL, "REQUEST_LIMIT"),
    errors.OverloadedError: Meaning(_FULL, "OVERLOADED"),
    errors.RateLimitError: Meaning(_FULL, "RATE_LIMIT"),
    errors.AuthenticationError: Meaning(grpc.StatusCode.UNAUTHENTICATED, "AUTHENTICATION"),
    errors.UnknownModelError: Meaning(grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
    errors.VersionError: Meaning(_UNFIT, "VERSION"),
    errors.ModelReplacedError: Meaning(grpc.StatusCode.ABORTED, "MODEL_REPLACED"),
    errors.DeadlineError: Meaning(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE"),
}
_CLASSES = {meaning.reason: kind for kind, meaning in MEANINGS.items()}


@dataclass(frozen=True)
class Failure:
    """The failure of a call, ready for the wire."""

    code: grpc.StatusCode
    reason: str
    message: str


def attempt(call: Callable[[], _Answer]) -> _Answer | Failure:
    """Returns the result of ``call`` or, for an error, the failure to answer with; an unforeseen error is logged."""
    try:
        return call()
    except errors.AttentionPatternsError as error:
        meaning = MEANINGS[type(error)]
        message = str(error).encode(errors="replace")[:LONGEST_MESSAGE].decode(errors="ignore")
        return Failure(meaning.code, meaning.reason, message)
    except Exception:  # whatever the answer took: the caller gets fixed text
        logger.exception("unforeseen error")
        return Failure(grpc.StatusCode.INTERNAL, INTERNAL_REASON, INTERNAL_MESSAGE)


def status_of(failure: Failure) -> grpc.Status:
    """Returns the failure as the status to abort a call with."""
    info = AnyMessage()
    info.Pack(ErrorInfo(domain=DOMAIN, reason=failure.reason))
    code: int = failure.code.value[0]
    status: grpc.Status = rpc_status.to_status(Status(code=code, message=failure.message, details=[info]))
    return status


def error_of(reason: str, message: str, endpoint: str) -> errors.AttentionPatternsError:
    """Returns the error that a server raised; an error that this version does not know becomes a ServerError."""
    kind = _CLASSES.get(reason)
    return kind(message) if kind else errors.ServerError(f"server {endpoint} failed: {message}")


def error_of_call(error: grpc.RpcError, endpoint: str) -> errors.AttentionPatternsError:
    """Returns the error behind a failed call: the server's own, or one of the way there, which names the endpoint."""
    call = error if isinstance(error, grpc.Call) else None
    code = call.code() if call else grpc.StatusCode.UNKNOWN
    details = (call.details() if call else None) or str(error)
    status: Status | None = rpc_status.from_call(call) if call else None
    info = ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info) and info.domain == DOMAIN:
            return error_of(info.reason, details, endpoint)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.MessageTooLargeError(f"server {endpoint} refused a message: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineError(f"server {endpoint} did not answer in time: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.VersionError(f"server {endpoint} does not know the method: of an older version? {details}")
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.ServerError(f"server {endpoint} cannot be reached: {details}")
    return errors.ServerError(f"server {endpoint} failed: {code.name} {details}")
