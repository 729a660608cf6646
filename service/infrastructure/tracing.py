"""Traces of requests, attempts and stages by OpenTelemetry.

Without the extra `tracing` the API of OpenTelemetry does nothing. With it, and with OTEL_EXPORTER_OTLP_ENDPOINT set,
spans are exported; the other OTEL_ variables apply too. A job may wait in the queue for long, so an attempt is a trace
of its own, linked to the span of the request.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Link, Span, SpanKind

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
TRACEPARENT = "traceparent"


def configure(process: str) -> None:
    """Export the spans of this process if the environment names a collector. An empty variable names none.

    Raises ImportError without the extra `tracing`.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"taskslim-{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Export the spans that are left, before the process ends."""
    force = getattr(trace.get_tracer_provider(), "force_flush", None)
    if force is not None:
        force()


def traceparent() -> str | None:
    """The present span as a `traceparent` of W3C Trace Context; None without one."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get(TRACEPARENT)


@contextmanager
def request_span(method: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of one HTTP request, in the trace of the client where it sends a `traceparent`."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # no exporter: save the work
        yield trace.INVALID_SPAN
        return
    tracer = trace.get_tracer("taskslim")
    with tracer.start_as_current_span(method, extract(headers), SpanKind.SERVER) as span:
        span.set_attribute("http.request.method", method)
        yield span


@contextmanager
def attempt_span(job_id: str, attempt: int, producer: str | None) -> Iterator[None]:
    """The span of one attempt of a job. `producer` is the traceparent of the request that created the job."""
    linked = trace.get_current_span(extract({TRACEPARENT: producer or ""})).get_span_context()
    links = [Link(linked)] if linked.is_valid else []
    attributes: dict[str, str | int] = {
        "taskslim.job.id": job_id,
        "taskslim.job.attempt": attempt,
        "messaging.system": "rq",
    }
    tracer = trace.get_tracer("taskslim")
    with tracer.start_as_current_span("run_job", kind=SpanKind.CONSUMER, links=links, attributes=attributes):
        yield


@contextmanager
def stage_span(stage: str) -> Iterator[None]:
    """The span of one stage of an attempt."""
    with trace.get_tracer("taskslim").start_as_current_span(stage):
        yield
