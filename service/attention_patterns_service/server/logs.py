"""The server's logs: one line per call."""

import logging

from attention_patterns.programs.json_logs import json_handler
from attention_patterns_service.contract.errors import Failure
from attention_patterns_service.server.call import Call

logger = logging.getLogger("attention_patterns")


def log_call(call: Call, failure: Failure | None) -> None:
    """Logs a call that ended, well or with a failure."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": call.method,
        "code": failure.code.name if failure else "OK",
        "reason": failure.reason if failure else None,
        "request_id": call.request_id,
        "caller": call.caller,
        "peer": call.peer,
        "maps": call.maps,
        "received": call.received,
        "sent": call.sent,
        "ms": round(1000 * call.elapsed, 2),
        **{f"{stage}_ms": round(1000 * seconds, 2) for stage, seconds in call.stages.items()},
    }
    logger.info("call", extra={name: value for name, value in fields.items() if value not in (None, "")})


def write_logs(*, level: str) -> None:
    """Writes the logs of this process from ``level`` on to standard error, one JSON object per line."""
    logging.basicConfig(level=level.upper(), handlers=[json_handler()], force=True)
