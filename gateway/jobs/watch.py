"""The task of one job: wait, poll, interpret, advance and append until the job has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio

from gateway.core.addresses import host_class
from gateway.core.errors import error_text
from gateway.core.job import Answer, Event, Job, advance, lose_track, reference
from gateway.graph.client import Monitor, Upstream
from gateway.graph.dialects import Lost, NoAnswer, Observation, Throttled, interpret
from gateway.jobs.pacing import TICK, AdaptiveRate, StartQueue
from gateway.jobs.schedule import (
    INITIAL,
    TWICE_APART,
    Bounds,
    Progress,
    next_wait,
    patience_left,
    update,
    with_requested_wait,
)
from gateway.membership import Runtime
from gateway.outbound.reply import Reply
from gateway.store import Store
from gateway.store.availability import hold
from gateway.telemetry.logs import EventLog
from gateway.telemetry.metrics import POLL_OUTCOMES, Metrics

_OUTCOMES: dict[type[Observation], str] = {
    Answer: "answered",
    Lost: "lost",
    Throttled: "throttled",
    NoAnswer: "no_answer",
}

HUNG_AT_ONCE = 32
"""Most polls in flight for jobs whose last poll ran into its time limit."""

log = EventLog("gateway.watch")


class Host:
    """The rate limit shared by the jobs of one host; `rate` is its maximum in polls a second.

    The host's counters are looked up once, not for each poll.
    """

    def __init__(self, name: str, rate: float, metrics: Metrics) -> None:
        self.name = name
        self.kind = kind = host_class(name)
        self.rate = AdaptiveRate(rate)
        self.start_queue = StartQueue(self.rate)
        self.polls = {outcome: metrics.polls.labels(outcome, kind) for outcome in POLL_OUTCOMES}
        self.poll_duration = metrics.poll_duration.labels(kind)


class PollContext(Runtime, frozen=True, kw_only=True):
    """The runtime, and the rest of the context that all watches of a process share.

    `give_up_after` is the patience with a silent monitor and `deadline` the longest life of a job, both in seconds;
    `rate` is the limit in polls a second, of the process and of each host.
    """

    store: Store
    upstream: Upstream
    bounds: Bounds
    give_up_after: float
    deadline: float
    rate: float
    start_queue: StartQueue
    hung_limit: anyio.Semaphore


class Watch:
    """The watch of one job. `cancel` ends it at once, `stop` after the poll in flight."""

    __slots__ = (
        "_awaiting",
        "_cancelled",
        "_context",
        "_due",
        "_ends",
        "_hung",
        "_job",
        "_loss",
        "_monitor",
        "_now",
        "_overdue",
        "_progress",
        "_scope",
        "_stopping",
        "_troubles",
        "host",
        "polling",
    )

    def __init__(self, job: Job, monitor: Monitor | None, host: Host, context: PollContext) -> None:
        self._scope = anyio.CancelScope()
        self.polling = False
        self._stopping = False
        self._awaiting = False
        self._overdue = False
        self._cancelled = False
        self._now = asyncio.get_running_loop().time
        self._job = job
        self._monitor = monitor
        self.host = host
        self._context = context
        self._loss = INITIAL
        self._hung = False
        self._troubles = 0
        now = self._now()
        self._due = now
        done = job.state.percentage_complete
        self._progress = Progress(now, done)
        self._ends = now + job.created + context.deadline - context.clock()

    @property
    def job_id(self) -> str:
        return self._job.id

    @property
    def epoch(self) -> int:
        """The epoch under which this process polls the job."""
        return self._job.epoch

    def stop(self) -> None:
        self._stopping = True
        if not self.polling:
            self.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        self._scope.cancel()

    async def run(self, wait: float) -> None:
        """Watch until the job has ended or belongs to another gateway. The first poll is after `wait` seconds."""
        # One timer for the whole watch: a scope with a deadline around each poll would cost 15 us a poll.
        deadline = asyncio.get_running_loop().call_at(self._ends, self._break_off)
        try:
            with self._scope:
                await self._poll_until_end(wait)
        finally:
            deadline.cancel()
        if self._overdue and not self._cancelled:
            self._scope = anyio.CancelScope()
            with self._scope:
                await self._give_up()

    def _break_off(self) -> None:
        """Cancel the poll in flight at the job's deadline: its answer would be too late."""
        if self._awaiting:
            self._overdue = True
            self._scope.cancel()

    async def _give_up(self) -> None:
        await self._context.lease.held()
        await self._append(*lose_track(self._job, "deadlineExceeded", self._context.clock()))

    async def _poll_until_end(self, wait: float) -> None:
        lease = self._context.lease
        while not self._stopping:
            self._due = self._now() + wait
            await asyncio.sleep(min(wait, self._ends - self._now()))
            if not lease.holds:
                await lease.held()
            if self._now() + TICK >= self._ends:  # a timer may fire early by that much
                await self._give_up()
                return
            self.polling = self._awaiting = True
            polled = await self._poll_in_turn()
            self._awaiting = False
            if self._overdue:
                return  # the answer came in the same moment as the deadline, which wins
            next_wait_ = await self._apply(*polled)
            if next_wait_ is None:
                return
            wait = next_wait_
            self.polling = False

    async def _poll_in_turn(self) -> tuple[float, Observation]:
        """Poll once; the time of sending and the observation.

        Jobs whose last poll hung share `HUNG_AT_ONCE` places, so that hanging polls do not pile up.
        """
        if not self._hung:
            return await self._poll()
        async with self._context.hung_limit:
            return await self._poll()

    async def _poll(self) -> tuple[float, Observation]:
        if self._monitor is None:
            return self._now(), NoAnswer("its host is not allowed")
        context, host = self._context, self.host
        await host.start_queue.take()
        await context.start_queue.take()
        if not context.lease.holds:  # the lease may have ended in the queue
            await context.lease.held()
        sent = self._now()
        context.metrics.poll_lag.observe(max(0.0, sent - self._due))
        with context.tracing.calling("GET", "{monitor}", under=self._job.target.trace) as span:
            reply = await context.upstream.poll(self._monitor, span.along({}))
            observed = reply if isinstance(reply, NoAnswer) else self._interpreted(reply, self._monitor.url)
            outcome = _outcome(observed)
            span.of_job(self._job.id)
            span.set_attributes(host=host.kind, outcome=outcome)
            if isinstance(reply, NoAnswer):
                span.fail(outcome)
            else:
                span.answered(reply.code)
        host.poll_duration.observe(self._now() - sent)
        host.polls[outcome].inc()
        return sent, observed

    def _interpreted(self, reply: Reply, url: str) -> Observation:
        try:
            return interpret(reply, url, self._context.clock())
        except Exception as error:  # noqa: BLE001 - the answer to one job must not end the process
            # Without a traceback, which may contain the monitor URL.
            log.error("answer_unreadable", job=self._reference, status=reply.code, error=type(error).__name__)  # noqa: TRY400
            return NoAnswer("it cannot be read")

    async def _apply(self, sent: float, observed: Observation) -> float | None:
        """Store the consequences of an observation; the seconds until the next poll, None if there is none."""
        now = self._now()
        self._hung = isinstance(observed, NoAnswer) and observed.hung
        self._loss, lost = update(self._loss, observed, sent, now)
        left = patience_left(self._loss, now, self._context.give_up_after)
        if lost is None and left is not None and left <= 0 and not isinstance(observed, Lost):
            lost = "monitorUnreachable"  # a Lost gets its second answer first, since its reason says more
        if isinstance(observed, Answer):
            job, events = advance(self._job, observed, self._context.clock())
            self._progress = self._progress.seen(job.state.percentage_complete, now)
        elif lost is not None:
            job, events = lose_track(self._job, lost, self._context.clock())
        else:
            job, events = self._job, []
        wait = self._wait_after(observed, left, now)
        self._log_trouble(observed, wait)
        if events and not await self._append(job, events):
            return None
        return None if job.state.ended else wait

    def _wait_after(self, observed: Observation, left: float | None, now: float) -> float:
        context = self._context
        wait = next_wait(
            age=context.clock() - self._job.created,
            progress=self._progress,
            now=now,
            failures=self._loss.failures,
            retry_after=observed.retry_after,
            bounds=context.bounds,
            rng=context.rng,
        )
        if isinstance(observed, Throttled):
            self.host.rate.throttled(self._job.id, now, wait)
            context.metrics.throttled_seconds.labels(self.host.kind).inc(wait)
        elif not self._hung:
            self.host.rate.answered(self._job.id, now)
        self.host.start_queue.look()
        if observed.retry_after is not None:
            if left is not None:
                self._loss = with_requested_wait(self._loss, wait)
        elif isinstance(observed, Lost):
            until_second = self._loss.lost_since + TWICE_APART - now
            wait = max(context.bounds.shortest, min(until_second, context.bounds.longest))
        elif left is not None:
            wait = max(context.bounds.shortest, min(wait, left))
        return wait

    def _log_trouble(self, observed: Observation, wait: float) -> None:
        """Log the first, second, fourth, eighth … trouble in a row, and the recovery."""
        if isinstance(observed, Answer):
            if self._troubles:
                log.info("poll_recovered", job=self._reference, host=self.host.kind, troubles=self._troubles)
            self._troubles = 0
            return
        self._troubles += 1
        if self._troubles & (self._troubles - 1):
            return
        fields: dict[str, Any] = {"job": self._reference, "host": self.host.kind, "troubles": self._troubles}
        fields["next_in"] = round(wait, 1)
        match observed:
            case Throttled(retry_after=requested):
                log.warning("poll_throttled", retry_after=requested, **fields)
            case Lost(code=code):
                log.warning("poll_failing", reason=code, **fields)
            case NoAnswer(reason=reason):
                log.warning("poll_failing", reason=reason, **fields)

    @property
    def _reference(self) -> str:
        return reference(self._job.id)

    async def _append(self, job: Job, events: Sequence[Event]) -> bool:
        """Store a change, however long that takes; False when the job has ended or belongs to another epoch."""
        metrics, failures = self._context.metrics, 0

        def failed(error: Exception, attempts: int) -> None:
            nonlocal failures
            failures = attempts
            if attempts == 1:
                metrics.verdicts_held.inc()
                log.warning("change_held", job=self._reference, status=job.state.status, error=error_text(error))

        try:
            mine = await hold(
                lambda: self._context.store.append(job, events),
                metrics.store_writes.labels("append").time,
                failed,
                errors=Exception,  # an unexpected error with one job must not end all watches
            )
        finally:
            if failures:
                metrics.verdicts_held.dec()
        if failures:
            log.info("change_kept", job=self._reference, tries=failures + 1)
        if mine:
            self._job = job
            if job.state.ended:
                metrics.report_end(job)
        return mine


def _outcome(observed: Observation) -> str:
    if isinstance(observed, NoAnswer) and observed.hung:
        return "timed_out"
    return _OUTCOMES[type(observed)]
