"""Spans of what is done for a copy: its request, the copy upstream, each poll, each attempt of a callback.

Here they are off, as by default: nothing is made, and a caller's `traceparent` goes upstream as it came. What is on is
in `tracing_otel`. All of a copy is then one trace, the caller's if it named one: the job keeps the `traceparent` of its
request, so that polls and callbacks belong to it, whichever gateway makes them. A span never tells a URL, but for a
callback's scheme and host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self


class Span:
    """One that nobody sees. Enter it for the time of what it stands for."""

    place: str | None = None
    """Where in a trace it is, for whoever is to work under it later: its `traceparent`, a blank, its `tracestate`."""
    trace_id: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass

    def name(self, name: str) -> None:
        """Call it something else than at its start."""

    def of_job(self, job_id: str) -> None:
        """Which job it is for; what is told is its short reference."""

    def set_attributes(self, **attributes: str | float | None) -> None:
        """Attributes, under `gateway.`; None says nothing."""

    def answered(self, status: int) -> None:
        """The HTTP status that was answered."""

    def fail(self, why: str) -> None:
        """It came to nothing, for a reason in few fixed words."""

    def along(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers to send with a request that the span stands for."""
        return headers


class Tracing:
    """Off. What is on is in `tracing_otel`."""

    on = False

    def serving(self, method: str, headers: Mapping[str, str]) -> Span:  # noqa: ARG002 - what is on needs them
        """A request that is served, under the span that its headers name."""
        return _NOBODY

    def calling(self, method: str, what: str, *, under: str | None, server: str | None = None) -> Span:  # noqa: ARG002 - as above
        """A request to `what`, under the span at a place; `server` is its scheme and host."""
        return _NOBODY

    def close(self) -> None:
        """Send what is left, and no longer than a moment."""


_NOBODY = Span()
OFF = Tracing()
