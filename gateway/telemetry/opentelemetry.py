"""Tracing that is on: OpenTelemetry's SDK, which exports spans by OTLP over HTTP from a thread of its own.

Spans are made by hand: instrumentation libraries for HTTP clients record URLs, and a monitor's URL is a credential.
Messages of exceptions are not recorded either. OpenTelemetry's own variables set endpoint, headers, sampler, resource
and batches.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.core.job import reference
from gateway.telemetry.tracing import Span, Tracing

CLOSE_SECONDS = 2.0
"""Longest time that the export of the last spans may add to the shutdown, even when the collector is unreachable."""
LONGEST_STATE = 512
"""Longest `tracestate` that is passed on, in characters, the least that W3C asks for. It is stored with the job."""

_CARRIED = ("traceparent", "tracestate")
_PROPAGATOR = TraceContextTextMapPropagator()  # no baggage: a caller's baggage would reach receivers of callbacks


class OpenTelemetry(Tracing):
    """`exporter` receives the spans; by default it is the OTLP exporter that the variables configure."""

    on = True

    def __init__(self, version: str, exporter: SpanExporter | None = None) -> None:
        self._provider = TracerProvider(resource=_resource(version), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("gateway", version)

    def serving(self, method: str, headers: Mapping[str, str]) -> Span:
        carrier = {name: headers[name] for name in _CARRIED if name in headers}
        span = self._tracer.start_span(
            method,
            _PROPAGATOR.extract(carrier, Context()),
            SpanKind.SERVER,
            {"http.request.method": method},
        )
        return _Open(span)

    def calling(self, method: str, what: str, *, under: str | None, server: str | None = None) -> Span:
        attributes: dict[str, str | int] = {"http.request.method": method, "url.template": what}
        if server is not None:
            parts = urlsplit(server)
            attributes |= {"url.scheme": parts.scheme, "server.address": parts.hostname or ""}
            if parts.port is not None:
                attributes["server.port"] = parts.port
        parent = _PROPAGATOR.extract(dict(zip(_CARRIED, (under or "").split(" ", 1), strict=False)), Context())
        return _Open(self._tracer.start_span(f"{method} {what}", parent, SpanKind.CLIENT, attributes))

    def close(self) -> None:
        # The SDK's own limit is 30 s, too long for the shutdown.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class _Open(Span):
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._carrier: dict[str, str] = {}
        _PROPAGATOR.inject(self._carrier, trace.set_span_in_context(span, Context()))
        if len(self._carrier.get("tracestate", "")) > LONGEST_STATE:
            del self._carrier["tracestate"]
        self.place = " ".join(self._carrier[name] for name in _CARRIED if name in self._carrier) or None
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.fail(kind.__name__)
        self._span.end()

    def name(self, name: str) -> None:
        self._span.update_name(name)
        self._span.set_attribute("http.route", name.partition(" ")[2])

    def of_job(self, job_id: str) -> None:
        self.set_attributes(job=reference(job_id))

    def set_attributes(self, **attributes: str | float | None) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(f"gateway.{name}", value)

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self.fail(str(status))

    def fail(self, why: str) -> None:
        self._span.set_attribute("error.type", why)
        self._span.set_status(StatusCode.ERROR)

    def along(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {name: value for name, value in headers.items() if name.lower() not in _CARRIED} | self._carrier


def _resource(version: str) -> Resource:
    named = Resource.create({"service.version": version})
    if str(named.attributes[SERVICE_NAME]).startswith("unknown_service"):
        named = named.merge(Resource({SERVICE_NAME: "copy-gateway"}))
    return named
