"""What the jobs of one host share: its rate limit and its health.

A host that lies for a while lies to all of its jobs. So what most of them hear is the host's trouble, not theirs.
"""

from __future__ import annotations

import math
from itertools import islice

from gateway.core.addresses import host_class
from gateway.core.job import Answer
from gateway.graph.dialects import Lost, Observation
from gateway.jobs.pacing import AdaptiveRate, StartQueue
from gateway.telemetry.logs import EventLog
from gateway.telemetry.metrics import POLL_OUTCOMES, Metrics

MINUTE = 60.0
"""Seconds for which a host is held to have told a job that its monitor is lost."""
MOST_AT_LEAST = 3
"""Fewest jobs that can be most of a host's."""
ASK_AGAIN = 5.0
"""Seconds between polls of a job whose verdict waits only for what the other jobs of its host hear."""

log = EventLog("gateway.watch")


def few(jobs: int) -> int:
    """The largest number of a host's jobs that is not most of them."""
    return max(jobs // 2, MOST_AT_LEAST - 1)


def well_elsewhere_at(jobs: int, troubled: int, since: float, now: float) -> float:
    """The time from when a host may count as well whose `jobs` other gateways poll, for a job that has heard since
    `since` that its monitor is lost; `now` if the host is well.

    `troubled` of the jobs are in trouble, this one included. Trouble is stored with the second such answer, so the
    others are waited for, for a minute.
    """
    if troubled > few(jobs):
        return now + ASK_AGAIN
    return max(now, since + MINUTE) if jobs >= MOST_AT_LEAST else now


class HostHealth:
    """What the running jobs of one host last heard."""

    def __init__(self) -> None:
        self._heard: dict[str, float] = {}
        """When each running job last heard anything, also that there is no answer; minus infinity before."""
        self._bad: set[str] = set()
        """The jobs whose last answer was not good."""
        self._lost: dict[str, float] = {}
        """When a job last heard that its monitor is lost, within the minute; the longest ago first."""

    def join(self, job_id: str) -> None:
        self._heard.setdefault(job_id, -math.inf)

    def leave(self, job_id: str) -> bool:
        """Remove a job; True if it was the host's last."""
        self._heard.pop(job_id, None)
        self._bad.discard(job_id)
        self._lost.pop(job_id, None)
        return not self._heard

    def heard(self, job_id: str, observed: Observation, now: float) -> None:
        """Record an answer of a running job, or that there was none."""
        if job_id not in self._heard:
            return
        self._heard[job_id] = now
        if isinstance(observed, Answer):
            self._bad.discard(job_id)
            return
        self._bad.add(job_id)
        if isinstance(observed, Lost):
            self._lost.pop(job_id, None)
            self._lost[job_id] = now

    @property
    def jobs(self) -> int:
        return len(self._heard)

    def losing(self, now: float) -> int:
        """The number of running jobs that have heard in the last minute that their monitor is lost."""
        while self._lost:
            job_id, at = next(iter(self._lost.items()))
            if at > now - MINUTE:
                break
            del self._lost[job_id]
        return len(self._lost)

    def well_at(self, since: float, now: float) -> float:
        """The time from when the host may count as well, for a job that has heard since `since` that its monitor is
        lost; not later than `now` if the host is well.

        Jobs whose last answer is not good count against their host too, however long ago that was. A job whose answers
        are good but that was not asked since `since` may still hear the same; it is waited for, for a minute at most.
        """
        most_not, losing = few(len(self._heard)), self.losing(now)
        if losing > most_not:
            return next(islice(self._lost.values(), losing - most_not - 1, None)) + MINUTE
        against = self._bad | self._lost.keys()
        if len(against) > most_not:
            return now + MINUTE
        unasked = sum(at < since and job_id not in against for job_id, at in self._heard.items())
        if len(against) + unasked > most_not and now < since + MINUTE:
            return min(now + ASK_AGAIN, since + MINUTE)
        return now


class Host:
    """What the jobs of one host share: its rate limit, `rate` polls a second at most, and its health.

    The host's counters are looked up once, not for each poll.
    """

    def __init__(self, name: str, rate: float, metrics: Metrics) -> None:
        self.name = name
        self.kind = kind = host_class(name)
        self.rate = AdaptiveRate(rate)
        self.start_queue = StartQueue(self.rate)
        self.health = HostHealth()
        self._doubted = False
        self.polls = {outcome: metrics.polls.labels(outcome, kind) for outcome in POLL_OUTCOMES}
        self.poll_duration = metrics.poll_duration.labels(kind)

    def join(self, job_id: str) -> None:
        self.rate.join(job_id)
        self.health.join(job_id)
        self.start_queue.look()

    def leave(self, job_id: str) -> bool:
        """Remove a job; True if it was the host's last."""
        self.rate.leave(job_id)
        return self.health.leave(job_id)

    def heard(self, job_id: str, observed: Observation, now: float) -> None:
        """Record an answer, or that there was none; log when most jobs begin to hear that they are lost, and when none
        does any more.
        """
        self.health.heard(job_id, observed, now)
        if not self._doubted and not isinstance(observed, Lost):
            return
        jobs, losing = self.health.jobs, self.health.losing(now)
        if not self._doubted and losing > few(jobs):
            self._doubted = True
            log.warning("host_doubted", host=self.kind, jobs=jobs, losing=losing)
        elif self._doubted and not losing:
            self._doubted = False
            log.info("host_trusted", host=self.kind, jobs=jobs)
