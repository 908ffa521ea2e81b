"""The error classes of ``attention_patterns.errors`` on the wire, and back.

A failure travels as ``google.rpc.Status`` with ``ErrorInfo`` (AIP-193) or, in a stream, as ``StreamError``; its reason
names the class, so that an error of the server is raised at the client too, with the same message.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
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
        retry_after: Seconds after which the same call may succeed, sent as ``RetryInfo``; None where it will not.
    """

    code: grpc.StatusCode
    reason: str
    retry_after: float | None = None


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
    errors.ServerError: Meaning(grpc.StatusCode.UNKNOWN, "SERVER"),
    errors.UnreachableError: Meaning(grpc.StatusCode.UNAVAILABLE, "UNREACHABLE", retry_after=1.0),
    errors.AbandonedError: Meaning(grpc.StatusCode.CANCELLED, "ABANDONED"),
    errors.MessageError: Meaning(_BAD, "MESSAGE"),
    errors.LimitError: Meaning(_FULL, "LIMIT"),
    errors.MessageTooLargeError: Meaning(_FULL, "MESSAGE_TOO_LARGE"),
    errors.RequestLimitError: Meaning(_FULL, "REQUEST_LIMIT"),
    errors.OverloadedError: Meaning(_FULL, "OVERLOADED", retry_after=0.2),
    errors.RateLimitError: Meaning(_FULL, "RATE_LIMIT", retry_after=1.0),
    errors.AuthenticationError: Meaning(grpc.StatusCode.UNAUTHENTICATED, "AUTHENTICATION"),
    errors.UnknownModelError: Meaning(grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
    errors.VersionError: Meaning(_UNFIT, "VERSION"),
    errors.ModelReplacedError: Meaning(grpc.StatusCode.ABORTED, "MODEL_REPLACED"),
    errors.DeadlineError: Meaning(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE"),
}
_CLASSES = {meaning.reason: kind for kind, meaning in MEANINGS.items()}


@dataclass(frozen=True)
class Failure:
    """The failure of a call, ready for the wire.

    Attributes:
        code: Code of the gRPC status.
        reason: Reason in ``ErrorInfo``.
        message: Message of the status.
        retry_after: Seconds after which the same call may succeed; None where it will not.
        metadata: Metadata of ``ErrorInfo``: the name of the limit that was reached, and its value.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    retry_after: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def attempt(call: Callable[[], _Answer]) -> _Answer | Failure:
    """Returns the result of ``call`` or, for an error, the failure to answer with; an unforeseen error is logged."""
    try:
        return call()
    except errors.AttentionPatternsError as error:
        meaning = MEANINGS[type(error)]
        message = str(error).encode(errors="replace")[:LONGEST_MESSAGE].decode(errors="ignore")
        return Failure(meaning.code, meaning.reason, message, meaning.retry_after, _metadata_of(error))
    except Exception:  # whatever the answer took: the caller gets fixed text
        logger.exception("unforeseen error")
        return Failure(grpc.StatusCode.INTERNAL, INTERNAL_REASON, INTERNAL_MESSAGE)


def _metadata_of(error: errors.AttentionPatternsError) -> dict[str, str]:
    if not isinstance(error, errors.LimitError) or error.limit is None:
        return {}
    return {"name": error.name, "limit": f"{error.limit:.15g}"}


def status_of(failure: Failure) -> grpc.Status:
    """Returns the failure as the status to abort a call with.

    The trailer "grpc-retry-pushback-ms" says the same as ``RetryInfo`` to the retry policy of any gRPC client: when to
    call again, or never.
    """
    info = ErrorInfo(domain=DOMAIN, reason=failure.reason, metadata=failure.metadata)
    details, pushback = [_pack(info)], -1
    if failure.retry_after is not None:
        pushback = round(1000 * failure.retry_after)  # ms
        details.append(_pack(RetryInfo(retry_delay=timedelta(milliseconds=pushback))))
    code: int = failure.code.value[0]
    status = rpc_status.to_status(Status(code=code, message=failure.message, details=details))
    trailer = (*status.trailing_metadata, ("grpc-retry-pushback-ms", str(pushback)))
    whole: grpc.Status = status._replace(trailing_metadata=trailer)
    return whole


def _pack(detail: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def error_of(failure: Failure, endpoint: str) -> errors.AttentionPatternsError:
    """Returns the error that a server raised; an error that this version does not know becomes a ServerError."""
    kind = _CLASSES.get(failure.reason)
    error = kind(failure.message) if kind else errors.ServerError(f"server {endpoint} failed: {failure.message}")
    if isinstance(error, errors.ServerError):
        error.retry_after = failure.retry_after
    if isinstance(error, errors.LimitError):
        error.name = failure.metadata.get("name", "")
        with suppress(KeyError, ValueError):  # not given
            error.limit = float(failure.metadata["limit"])
    return error


def error_of_call(error: grpc.RpcError, endpoint: str, *, advice: str = "") -> errors.AttentionPatternsError:
    """Returns the error behind a failed call: the server's own, or one of the way there, which names the endpoint.

    Args:
        error: Error of the call.
        endpoint: Address that was called.
        advice: What else may be wrong where the server was not reached.
    """
    call = error if isinstance(error, grpc.Call) else None
    code = call.code() if call else grpc.StatusCode.UNKNOWN
    details = (call.details() if call else None) or str(error)
    if call and (failure := _read_failure(call)):
        return error_of(failure, endpoint)
    if code is grpc.StatusCode.UNAVAILABLE:
        unreachable = errors.UnreachableError(f"server {endpoint} cannot be reached: {details}{advice}")
        unreachable.retry_after = 0.0
        return unreachable
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.MessageTooLargeError(f"server {endpoint} refused a message: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineError(f"server {endpoint} did not answer in time: {details}{advice}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.VersionError(f"server {endpoint} does not know the method: of an older version? {details}")
    return errors.ServerError(f"server {endpoint} failed: {code.name} {details}")


def _read_failure(call: grpc.Call) -> Failure | None:
    """Returns the failure that a server of ours answered with; None where the failure is not its own."""
    status: Status | None = rpc_status.from_call(call)
    info, retry = ErrorInfo(), RetryInfo()
    for detail in status.details if status else ():
        detail.Unpack(info) or detail.Unpack(retry)
    if status is None or info.domain != DOMAIN:
        return None
    later = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    return Failure(call.code(), info.reason, status.message, later, dict(info.metadata))
