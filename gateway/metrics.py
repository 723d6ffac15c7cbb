"""What is counted, by names and nothing else. Labels are few and fixed; none carries a job, a host or a path."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One registry an app, so that two apps in a process do not share their figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.copies = Counter("gateway_copies_total", "Copy requests by outcome.", ["outcome"], registry=self._registry)
        self.jobs_running = Gauge("gateway_jobs_running", "Jobs this process polls.", registry=self._registry)
        self.jobs_ended = Counter(
            "gateway_jobs_ended_total", "Jobs by how they ended.", ["kind", "origin"], registry=self._registry
        )
        self.polls = Counter("gateway_polls_total", "Polls by what came back.", ["outcome"], registry=self._registry)
        self.verdicts_held = Gauge(
            "gateway_verdicts_held", "Changes seen upstream that the store would not take yet.", registry=self._registry
        )
        self.streams_open = Gauge("gateway_streams_open", "Open event streams.", registry=self._registry)
        self.streams_ended = Counter(
            "gateway_streams_ended_total", "Event streams by why they ended.", ["reason"], registry=self._registry
        )
        self.events_sent = Counter("gateway_events_sent_total", "Events sent to streams.", registry=self._registry)
        self.callbacks_active = Gauge(
            "gateway_callbacks_active", "Callbacks that still have something to tell.", registry=self._registry
        )
        self.callback_attempts = Counter(
            "gateway_callback_attempts_total", "Attempts by how they went.", ["outcome"], registry=self._registry
        )
        self.callbacks_exhausted = Counter(
            "gateway_callbacks_exhausted_total", "Callbacks given up after the last attempt.", registry=self._registry
        )
        self.taken_over = Counter(
            "gateway_taken_over_total", "Jobs and callbacks taken from others.", ["table"], registry=self._registry
        )
        self.handed_on = Counter(
            "gateway_handed_on_total", "Jobs and callbacks left to others.", ["table"], registry=self._registry
        )
        self.leases_lost = Counter(
            "gateway_leases_lost_total", "Times this gateway was given up for dead.", registry=self._registry
        )

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
