"""OpenTelemetry traces, sent to the collector that the environment names (OTEL_EXPORTER_OTLP_ENDPOINT).

A call is one span, a child of the caller's where its metadata carries one; attributes hold the time of each stage.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from attention_patterns.programs.extras import name_missing_extra
from attention_patterns.programs.foreign_text import visible
from attention_patterns_service.contract.errors import Failure
from attention_patterns_service.server.call import Call

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
Trace = Callable[[Call, Failure | None, Iterable[tuple[str, Any]]], None]


def load_tracing() -> Trace | None:
    """Returns a function that writes the span of a call that ended; None where traces are not asked for.

    Raises:
        MissingExtraError: Traces are asked for and the extra ``traces`` is not installed.
    """
    if ENDPOINT not in os.environ:
        return None
    with name_missing_extra("traces", needed_by=ENDPOINT):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": "attention-serve"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer, propagator = provider.get_tracer("attention_patterns"), TraceContextTextMapPropagator()

    def trace(call: Call, failure: Failure | None, metadata: Iterable[tuple[str, Any]]) -> None:
        end = time.time_ns()
        span = tracer.start_span(
            call.method,
            context=propagator.extract(dict(metadata)),
            kind=SpanKind.SERVER,
            start_time=end - int(1e9 * call.elapsed),
            attributes={
                "rpc.system": "grpc",
                "rpc.method": call.method,
                "attention.request_id": visible(call.request_id),
                "attention.maps": call.maps,
                **{f"attention.{stage}_ms": 1000 * seconds for stage, seconds in call.stages.items()},
            },
        )
        if failure:
            span.set_status(StatusCode.ERROR, failure.reason)  # the message may quote tokens
        span.end(end)

    return trace
