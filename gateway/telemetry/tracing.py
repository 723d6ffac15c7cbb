"""Spans of the work for a copy: its request, the copy upstream, each poll, each attempt of a callback.

The classes here are those of tracing that is off, the default: nothing is recorded, and a caller's `traceparent` goes
upstream unchanged. `gateway.telemetry.opentelemetry` has tracing that is on. All spans of a copy are then one trace,
the caller's if the request named one: the job stores the `traceparent` of its request, so that polls and callbacks join
the trace, whichever gateway makes them. A span never records a URL; at most it records the scheme and host of upstream
or of a callback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self


class Span:
    """A span that records nothing; used as a context manager around the work."""

    place: str | None = None
    """The span's position in its trace, for later child spans: its `traceparent`, a space, its `tracestate`."""
    trace_id: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass

    def name(self, name: str) -> None:
        """Rename the span to the method and the route, separated by a space."""

    def of_job(self, job_id: str) -> None:
        """Record the job's short reference."""

    def set_attributes(self, **attributes: str | float | None) -> None:
        """Record attributes, each with the prefix `gateway.`; those of value None are skipped."""

    def answered(self, status: int) -> None:
        """Record the HTTP status of the response; the span fails from 500 on."""

    def fail(self, why: str) -> None:
        """Mark the span as failed. `why` is one of few fixed values, the type of the error."""

    def along(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers to send: `headers`, with the span's own `traceparent` and `tracestate` when tracing is on."""
        return headers


class Tracing:
    """Tracing that is off. `gateway.telemetry.opentelemetry.OpenTelemetry` is tracing that is on."""

    on = False

    def serving(self, method: str, headers: Mapping[str, str]) -> Span:  # noqa: ARG002 - used when tracing is on
        """A span for a request that is served, the child of the span named by its headers."""
        return _NO_SPAN

    def calling(self, method: str, what: str, *, under: str | None, server: str | None = None) -> Span:  # noqa: ARG002 - as above
        """A span for a request to template `what`; `under` is the parent's `place`, `server` its scheme and host."""
        return _NO_SPAN

    def close(self) -> None:
        """Export the remaining spans, for a short time at most."""


_NO_SPAN = Span()
OFF = Tracing()
