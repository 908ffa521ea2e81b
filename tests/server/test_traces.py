"""OpenTelemetry traces of a server process, sent to a collector in this process."""

from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from tests.helpers.servers import serving

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it receives."""

    def __init__(self):
        self.spans = Queue()

    def Export(self, request, context):  # noqa: ARG002, N802
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.put(span)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector():
    server, collector = grpc.server(ThreadPoolExecutor(1)), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(None).wait()


def test_a_call_is_a_span_of_the_caller_s_trace(collector):
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[9, 9], data=(np.ones((9, 9), np.float32) / 9).tobytes())
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with serving(environment=environment) as (_, endpoint), grpc.insecure_channel(endpoint) as channel:
        stub = AttentionPatternServiceStub(channel)
        stub.ClassifyHeads(
            pb.ClassifyHeadsRequest(request_id="a text", attention=tensor), metadata=[("traceparent", PARENT)]
        )
        with pytest.raises(grpc.RpcError):
            stub.ClassifyHeads(pb.ClassifyHeadsRequest())
        answered, failed = collector.spans.get(timeout=300), collector.spans.get(timeout=300)
    assert answered.name == "ClassifyHeads"
    assert f"00-{answered.trace_id.hex()}-{answered.parent_span_id.hex()}-01" == PARENT
    attributes = {attribute.key: attribute.value for attribute in answered.attributes}
    assert attributes["attention.request_id"].string_value == "a text"
    assert attributes["attention.maps"].int_value == 1
    assert 0 < attributes["attention.classify_ms"].double_value * 1e6 < answered.end_time_unix_nano
    assert failed.status.message == "DATA_TYPE"
