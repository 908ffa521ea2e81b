"""The server's logs: one line per call."""

import logging
from collections.abc import Callable

import grpc

from attention_patterns.programs.json_logs import json_formatter
from attention_patterns_service.contract.errors import Failure
from attention_patterns_service.server.call import Call, Caller
from attention_patterns_service.server.line_writer import take_over_standard_error

logger = logging.getLogger("attention_patterns")
_UNKNOWN = grpc.StatusCode.UNAUTHENTICATED


def log_call(call: Call, failure: Failure | None) -> None:
    """Logs a request that ended, well or with a failure."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": call.method,
        "code": failure.code.name if failure else "OK",
        "reason": failure.reason if failure else None,
        "request_id": call.request_id,
        **_fields_of(call.caller),
        "maps": call.maps,
        "received": call.received,
        "sent": call.sent,
        "ms": round(1000 * call.elapsed, 2),
        **{f"{stage}_ms": round(1000 * seconds, 2) for stage, seconds in call.stages.items()},
    }
    logger.info("call", extra={name: value for name, value in fields.items() if value not in (None, "")})


def log_stream(method: str, caller: Caller, failure: Failure | None) -> None:
    """Logs a stream that ended; its requests were logged one by one."""
    code = {"code": failure.code.name, "reason": failure.reason} if failure else {"code": "OK"}
    logger.info("stream", extra={"method": method, **code, **_fields_of(caller)})
    if failure:
        log_refusal(method, failure, peer=caller.peer)


def log_refusal(method: str, failure: Failure, *, peer: str) -> None:
    """Logs a caller whose token or certificate was refused; other refusals are counted alone, since there are many."""
    if failure.code is _UNKNOWN:
        logger.warning("caller refused", extra={"method": method, "peer": peer, "error": failure.message})


def _fields_of(caller: Caller) -> dict[str, object]:
    certificate = {"certificate": list(caller.certificate)} if caller.certificate else {}
    return {"caller": caller.name, "peer": caller.peer, **certificate}


def write_logs(*, level: str, on_drop: Callable[[], None] = lambda: None) -> None:
    """Writes the logs of this process from ``level`` on to standard error, one JSON object per line.

    No log line waits for its reader: where thousands wait to be read, further ones are dropped. ``on_drop`` is called
    for each of them.
    """
    handler = take_over_standard_error(json_formatter(), on_drop=on_drop)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
