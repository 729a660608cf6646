"""Traces: attempts are linked to the request of their job, and spans reach the collector."""

import os
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from service.infrastructure.tracing import ENDPOINTS, attempt_span, configure, request_span, stage_span, traceparent
from tests.support.webhook_receiver import receiving

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EXPORTING = """
from service.infrastructure import tracing
tracing.configure("worker")
with tracing.attempt_span("job-1", 2, None), tracing.stage_span("attribute"):
    pass
tracing.flush()
"""


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """The tracer provider, which a process can set only once, so all tests of this module share it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


def test_attempt_is_linked_to_the_request_of_its_job(spans: InMemorySpanExporter) -> None:
    with request_span("POST", {"traceparent": CLIENT}):
        producer = traceparent()
    with attempt_span("job-1", 1, producer), stage_span("attribute"):
        pass
    request, stage, attempt = spans.get_finished_spans()
    assert request.parent is not None
    assert f"{request.parent.trace_id:032x}" == CLIENT.split("-")[1]
    assert [link.context.span_id for link in attempt.links] == [request.context.span_id]
    assert attempt.context.trace_id != request.context.trace_id
    assert stage.parent == attempt.context
    assert (request.kind, attempt.kind, stage.name) == (SpanKind.SERVER, SpanKind.CONSUMER, "attribute")


@pytest.mark.parametrize("producer", [None, "", "nonsense"])
def test_attempt_without_a_request_has_no_link(spans: InMemorySpanExporter, producer: str | None) -> None:
    with attempt_span("job-1", 1, producer):
        pass
    (attempt,) = spans.get_finished_spans()
    assert not attempt.links


def test_spans_reach_the_collector_that_the_environment_names() -> None:
    with receiving() as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}"}
        subprocess.run([sys.executable, "-c", EXPORTING], check=True, env=os.environ | endpoint)
    spans = [
        span.name
        for call in collector.calls
        for resource in ExportTraceServiceRequest.FromString(call.body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert sorted(spans) == ["attribute", "run_job"]


def test_empty_variable_names_no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `tracing` the exporter cannot be imported: nothing may try."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    for name in ENDPOINTS:
        monkeypatch.setenv(name, "")
    configure("api")
    monkeypatch.setenv(ENDPOINTS[0], "http://127.0.0.1:9")
    with pytest.raises(ImportError):
        configure("api")
