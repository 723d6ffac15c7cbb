"""Metrics by name. Labels are few, and all their values exist from the start, at 0; no label carries a job, a host or
a path. Units are base units and part of the name.

A gauge is read at each scrape; the owner of its number registers a callable with `watch`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, product
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.core.errors import KINDS, LOSSES
from gateway.core.job import Job, reference
from gateway.telemetry.logs import EventLog

HOST_CLASSES = ("graph", "sharepoint", "onedrive", "other")
COPY_OUTCOMES = (
    "started",
    "repeated",
    "refused",
    "answered",
    *sorted({kind.code for kind in KINDS if kind.ends_copy}),
    "failed",
)
_UNKNOWN = [kind.code for kind in KINDS if kind.ends_copy and kind.may_run]
POLL_OUTCOMES = ("answered", "throttled", "lost", "timed_out", "no_answer")
STREAM_ENDS = ("ended", "left", "stalled", "expired", "drained", "failed")
REFUSALS = ("full", "draining", "store")
ATTEMPTS = ("delivered", "failed", "gone")
TABLES = ("jobs", "callbacks")
CODES = ("2xx", "3xx", "4xx", "5xx")
GAUGES = {
    "jobs_running": "Jobs this gateway polls.",
    "jobs_limit": "Jobs beyond which it takes no more copies.",
    "streams_open": "Open event streams.",
    "streams_limit": "Streams beyond which it takes no more.",
    "callbacks_active": "Callbacks that still have something to tell.",
    "store_up": "Whether the newest write to the store was done.",
    "lease_held": "Whether this gateway may act for the jobs it has.",
    "members": "Gateways that live, as this one sees it.",
    "draining": "Whether it is shutting down.",
    "drain_elapsed_seconds": "How long it has been shutting down.",
    "drain_limit_seconds": "How long that may take.",
}
HOST_GAUGES = {"jobs_throttled": "Jobs whose last poll was throttled."}
Write = Literal["create", "append", "callback"]

log = EventLog("gateway.watch")
_WRITES: tuple[Write, ...] = ("create", "append", "callback")
_NETWORK = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_STORE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_PUSH = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_LAG = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ATTEMPT = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)
_COPY = (1, 5, 15, 60, 300, 900, 3600, 14400, 43200, 86400)

disable_created_metrics()  # type: ignore[no-untyped-call]  # else each counter and histogram has a second series, which nobody queries


class Sent:
    """Totals sent to streams. Plain numbers: a counter's lock would be noticeable for every stream and event."""

    __slots__ = ("bytes", "events")

    def __init__(self) -> None:
        self.events = self.bytes = 0


class Counts(Collector):
    """A counter with labels or without, of a name without `_total`. It takes no lock: all is counted in the event loop.

    A gateway has hundreds, and those of prometheus_client take ten times as long to make at each start.
    """

    def __init__(self, name: str, help_: str, labels: Sequence[str], values: Iterable[tuple[str, ...]]) -> None:
        self._name = name
        self._help = help_
        self._labels = labels
        self._counts = {one: Count() for one in values}

    def labels(self, *values: str) -> Count:
        """The count of a combination of labels, made at 0 when it is first asked for."""
        found = self._counts.get(values)
        if found is None:
            found = self._counts[values] = Count()
        return found

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, one in self._counts.items():
            family.add_metric(values, one.value)
        yield family


class Count:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Times(Collector):
    """A histogram of seconds, with labels or without. Its observations take no lock: all come in the event loop.

    `bounds` are the upper bounds of its buckets, besides infinity.
    """

    def __init__(
        self, name: str, help_: str, bounds: Sequence[float], labels: Sequence[str], values: Iterable[tuple[str, ...]]
    ) -> None:
        self._name = name
        self._help = help_
        self._labels = labels
        self._bounds = [*map(floatToGoString, (*bounds, math.inf))]
        self._series = {one: Series(bounds) for one in values}

    def labels(self, *values: str) -> Series:
        return self._series[values]

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, one in self._series.items():
            family.add_metric(values, [*zip(self._bounds, accumulate(one.counts), strict=True)], one.sum)
        yield family


class Series:
    """The observations of one combination of labels: their sum, and the number in each bucket."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds


class Metrics:
    """One registry per app, so that two apps in a process do not share their metrics."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.build = Info("gateway_build", "Which gateway this is.", registry=registry)
        self._gauges = {name: Gauge(f"gateway_{name}", help_, registry=registry) for name, help_ in GAUGES.items()}
        self._by_host = {
            name: Gauge(f"gateway_{name}", help_, ["host_class"], registry=registry)
            for name, help_ in HOST_GAUGES.items()
        }
        self._store_failures = _StoreFailures()
        registry.register(self._store_failures)

        self.requests = self._counts("requests", "Answered requests by route and class of status.", ["route", "code"])
        self.copies = self._counts(
            "copies", "Requests that may start a job, by outcome.", ["outcome", "operation"], COPY_OUTCOMES, ("copy",)
        )
        self.jobs_ended = self._counts("jobs_ended", "Jobs by how they ended.", ["kind", "origin"])
        for kind, origin in (("completed", "upstream"), ("failed", "upstream"), ("failed", "gateway")):
            self.jobs_ended.labels(kind, origin)
        self.jobs_lost = self._counts("jobs_lost", "Jobs the gateway lost track of, by why.", ["reason"], tuple(LOSSES))
        self.job_duration = self._histogram("job_duration", "From a job's start to its end.", _COPY)

        hosts, by_host = HOST_CLASSES, ["host_class"]
        self.polls = self._counts("polls", "Polls by what came back.", ["outcome", *by_host], POLL_OUTCOMES, hosts)
        self.poll_duration = self._histograms("poll_duration", "From a poll to its answer.", _NETWORK, by_host, hosts)
        self.poll_lag = self._histogram("poll_lag", "How much later than due a poll was sent.", _LAG)
        self.throttled_seconds = self._counts(
            "throttled_seconds", "Waits that jobs were told to make by throttled answers.", by_host, hosts
        )
        self.verdicts_held = Gauge(
            "gateway_verdicts_held", "Changes seen upstream that the store would not take yet.", registry=registry
        )

        self.streams_ended = self._counts("streams_ended", "Event streams by why they ended.", ["reason"], STREAM_ENDS)
        self.streams_refused = self._counts(
            "streams_refused", "Streams refused, or told to come back, by why.", ["reason"], REFUSALS
        )
        self.push_latency = self._histogram(
            "push_latency", "From word of new events to their send on every caught-up stream.", _PUSH
        )
        self.sent = Sent()
        registry.register(_SentCollector(self.sent))

        self.callback_attempts = self._counts("callback_attempts", "Attempts by how they went.", ["outcome"], ATTEMPTS)
        self.callback_duration = self._histogram("callback_attempt_duration", "Length of an attempt.", _ATTEMPT)
        self.callbacks_exhausted = self._count("callbacks_exhausted", "Callbacks given up after the last attempt.")

        self.store_writes = self._histograms(
            "store_write_duration", "Writes to the store, as long as they were waited for.", _STORE, ["write"], _WRITES
        )
        self.taken_over = self._counts("taken_over", "Jobs and callbacks taken from others.", ["table"], TABLES)
        self.handed_on = self._counts("handed_on", "Jobs and callbacks left to others.", ["table"], TABLES)
        self.leases_lost = self._count("leases_lost", "Times this gateway was considered dead.")

    def know_routes(self, routes: Iterable[str]) -> None:
        """Create the request counters of all routes, at 0, from the names of the routes."""
        for route, code in product(routes, CODES):
            self.requests.labels(route, code)

    def know_operations(self, actions: Iterable[str]) -> None:
        """Create the counters of the outcomes that are alerted on, at 0, for the names of operations in the table."""
        for outcome, action in product(_UNKNOWN, actions):
            self.copies.labels(outcome, action)

    def watch(self, name: str, ask: Callable[[], float]) -> None:
        """Read the gauge `name`, one of `GAUGES`, from `ask` at each scrape."""
        self._gauges[name].set_function(ask)

    def watch_hosts(self, name: str, ask: Callable[[], Mapping[str, float]]) -> None:
        """As `watch`, for one of `HOST_GAUGES`: `ask` returns numbers by host class; a missing class is 0."""
        for host in HOST_CLASSES:
            self._by_host[name].labels(host).set_function(lambda host=host: ask().get(host, 0))  # type: ignore[misc]

    def watch_failures(self, ask: Callable[[], float]) -> None:
        """As `watch`, for the counter of the store's failures."""
        self._store_failures.ask = ask

    def report_end(self, job: Job) -> None:
        """Count and log a job whose end is stored."""
        state, error = job.state, job.state.error
        origin = "upstream" if error is None else error.origin
        code = None if error is None else error.code
        seconds = (job.ended or job.created) - job.created
        self.jobs_ended.labels(state.kind, origin).inc()
        if origin == "gateway" and code is not None:
            self.jobs_lost.labels(code).inc()
        self.job_duration.observe(max(0.0, seconds))
        log.info(
            "job_ended",
            job=reference(job.id),
            status=state.status,
            error=code,
            origin=origin,
            seconds=round(seconds, 1),
        )

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that an `Accept` header asks for, and the content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _count(self, name: str, help_: str) -> Count:
        return self._counts(name, help_, (), ()).labels()

    def _counts(self, name: str, help_: str, labels: Sequence[str], *values: Sequence[str]) -> Counts:
        counts = Counts(f"gateway_{name}", help_, labels, product(*values) if values else ())
        self._registry.register(counts)
        return counts

    def _histogram(self, name: str, help_: str, bounds: Sequence[float]) -> Series:
        return self._histograms(name, help_, bounds, ()).labels()

    def _histograms(
        self, name: str, help_: str, bounds: Sequence[float], labels: Sequence[str], *values: Sequence[str]
    ) -> Times:
        times = Times(f"gateway_{name}_seconds", help_, bounds, labels, product(*values))
        self._registry.register(times)
        return times


class _SentCollector(Collector):
    def __init__(self, sent: Sent) -> None:
        self._sent = sent

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("gateway_events_sent", "Events sent to streams.", self._sent.events)
        yield CounterMetricFamily("gateway_sent_bytes", "Bytes sent to streams, frames included.", self._sent.bytes)


class _StoreFailures(Collector):
    def __init__(self) -> None:
        self.ask: Callable[[], float] = lambda: 0

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("gateway_store_failures", "What the store was asked and could not do.", self.ask())
