"""The task of one job: wait, poll, interpret, advance and append until the job has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec

from gateway.core.errors import StoreUnavailable, error_text
from gateway.core.job import Answer, Event, Job, Trouble, advance, iso, kind_of, lose_track, reference, troubled
from gateway.graph import operations
from gateway.graph.client import Monitor
from gateway.graph.dialects import Lost, NoAnswer, Observation, Throttled, TokenRefused
from gateway.jobs.host import ASK_AGAIN, MOST_AT_LEAST, Host, well_elsewhere_at
from gateway.jobs.identity import AGAIN
from gateway.jobs.loss import (
    UNSEEN_MONITOR,
    WELL,
    judge,
    trouble_told,
    update,
    with_requested_wait,
)
from gateway.jobs.pacing import TICK
from gateway.jobs.polling import PollContext, poll
from gateway.jobs.schedule import Progress, bounds_of, next_wait
from gateway.jobs.tokens import Credentials, Token
from gateway.store.availability import hold
from gateway.telemetry.logs import EventLog

TOGETHER = 0.005
"""Seconds: the polls that fall due within them are sent in one turn of the event loop, at their end. A change costs 9 %
less than with a turn for each, at 1,000 a second."""
SECOND_LOOK = 2.0
"""Seconds in which the item's id may still come when a completion names none."""
FREE_RETRIES = 2
"""Polls in a row that may time out before a job needs a place in the lane of those."""

log = EventLog("gateway.watch")


class Watch:
    """The watch of one job. `cancel` ends it at once, `stop` after the poll in flight."""

    __slots__ = (
        "_awaiting",
        "_born",
        "_bounds",
        "_cancelled",
        "_context",
        "_credentials",
        "_due",
        "_ends",
        "_hangs",
        "_job",
        "_loss",
        "_monitor",
        "_now",
        "_operation",
        "_overdue",
        "_progress",
        "_scope",
        "_stopping",
        "_troubles",
        "_verdict",
        "ends_it",
        "host",
        "polling",
    )

    def __init__(
        self, job: Job, monitor: Monitor | None, host: Host, context: PollContext, token: Token | None = None
    ) -> None:
        self._scope = anyio.CancelScope()
        self.polling = False
        self.ends_it = False
        """Whether the job has ended for this watch, which may still have to store it."""
        self._stopping = False
        self._awaiting = False
        self._overdue = False
        self._cancelled = False
        self._now = asyncio.get_running_loop().time
        self._job = job
        self._monitor = monitor
        self.host = host
        self._context = context
        self._operation = operation = operations.of(job.target)
        self._bounds = bounds_of(operation, context.bounds)
        self._credentials = Credentials(token, context.identity)
        done = job.state.percentage_complete
        self._loss = WELL if done > 0 or job.state.status != "notStarted" else UNSEEN_MONITOR
        self._hangs = 0
        self._troubles = 0
        self._verdict: Answer | None = None
        """A completion without an item's id, while one more look is taken."""
        now = self._now()
        self._due = now
        self._progress = Progress(now, done)
        # From here on the age is monotonic: a wall clock that is set must neither end a job nor poll it more often.
        self._born = now - job.age(context.clock())
        self._ends = self._born + context.deadline

    @property
    def job_id(self) -> str:
        return self._job.id

    @property
    def epoch(self) -> int:
        """The epoch under which this process polls the job."""
        return self._job.epoch

    @property
    def has_token(self) -> bool:
        """Whether somebody's token is kept for the job, which ends with this watch."""
        return self._credentials.has_token

    @property
    def due_in(self) -> float:
        """Seconds until the next poll; while the polls rest for want of a token, for which upstream asks to wait."""
        trouble = self._job.state.trouble
        if trouble is not None and trouble.code == "tokenRequired":
            return trouble.asked_wait(self._context.clock())
        return max(0.0, self._due - self._now())

    def stop(self) -> None:
        self._stopping = True
        if not self.polling or self._verdict is not None:
            self._scope.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        self._scope.cancel()

    async def run(self, wait: float) -> None:
        """Watch until the job has ended or belongs to another gateway. The first poll is after `wait` seconds.

        An operation whose token is missing is not polled, which is told at once.
        """
        if self._operation.asks_for_token and not self.has_token and self._context.identity is None:
            wait = 0.0
        # One timer for the whole watch: a scope with a deadline around each poll would cost 15 us a poll.
        deadline = asyncio.get_running_loop().call_at(self._ends, self._break_off)
        try:
            with self._scope:
                await self._poll_until_end(wait)
        finally:
            deadline.cancel()
        if not self._cancelled and (self._overdue or self._verdict is not None):
            self._scope = anyio.CancelScope()
            with self._scope:
                await self._conclude()

    def _break_off(self) -> None:
        """Cancel the poll in flight at the job's deadline: its answer would be too late."""
        if self._awaiting:
            self._overdue = True
            self._scope.cancel()

    async def _conclude(self) -> None:
        """End the job with the verdict at hand, else because of its deadline."""
        await self._context.lease.held()
        verdict, self._verdict = self._verdict, None
        clock = self._context.clock()
        await self._append(
            *(
                lose_track(self._job, "deadlineExceeded", clock)
                if verdict is None
                else advance(self._job, verdict, clock)
            )
        )

    async def _poll_until_end(self, wait: float) -> None:
        lease = self._context.lease
        while not self._stopping:
            self._due = -(-(self._now() + wait) // TOGETHER) * TOGETHER
            await asyncio.sleep(min(self._due, self._ends) - self._now())
            if not lease.holds:
                await lease.held()
            if self._now() + TICK >= self._ends:  # a timer may fire early by that much
                await self._conclude()
                return
            self._awaiting = True
            authorization = None
            if self._operation.asks_for_token and (authorization := await self._credentials.authorization()) is None:
                self._awaiting = False
                if self._overdue or not await self._require_token():
                    return
                wait = self._ends - self._now() if self._context.identity is None else AGAIN
                continue
            polled = await self._poll_in_turn(authorization)
            self._awaiting, self.polling = False, True
            if self._overdue:
                return  # the answer came in the same moment as the deadline, which wins
            next_wait_ = await self._apply(*polled)
            if next_wait_ is None:
                return
            wait = next_wait_
            self.polling = False

    async def _require_token(self) -> bool:
        """Tell that the polls rest until somebody hands in a token, for which another watch begins; False when the job
        has ended or belongs to another epoch.
        """
        clock = self._context.clock()
        told = self._job.state.trouble
        if told is None or told.code != "tokenRequired":
            log.info("token_required", job=self._reference)
            retry_at = told.retry_at if told is not None and told.asked_wait(clock) else None
            told = Trouble(code="tokenRequired", since=iso(clock), retry_at=retry_at)
        job, events = troubled(self._job, told, clock)
        return not events or await self._append(job, events)

    async def _poll_in_turn(self, authorization: str | None) -> tuple[float, Observation]:
        """Poll once; the time of sending and the observation."""
        context = self._context
        if self._monitor is None:
            return self._now(), NoAnswer("its host is not allowed")
        for queue in (self.host.start_queue, context.start_queue):
            if not queue.take_now(self._now()):
                await queue.take()
        if self._hangs <= FREE_RETRIES:
            return await self._poll(self._monitor, authorization)
        await context.hung_lane.enter(self._hangs)  # last, so that no place is held while others may start
        try:
            return await self._poll(self._monitor, authorization)
        finally:
            context.hung_lane.leave()

    async def _poll(self, monitor: Monitor, authorization: str | None = None) -> tuple[float, Observation]:
        context = self._context
        if not context.lease.holds:  # the lease may have ended in the queue
            await context.lease.held()
        self.polling = True
        sent = self._now()
        context.metrics.poll_lag.observe(max(0.0, sent - self._due))
        observed = await poll(self._job, monitor, self.host, context, authorization)
        if isinstance(observed, TokenRefused) and authorization is not None:
            self._credentials.refused(authorization)
        return sent, observed

    async def _apply(self, sent: float, heard: Observation) -> float | None:
        """Store the consequences of an observation; the seconds until the next poll, None if there is none."""
        context, now = self._context, self._now()
        if isinstance(heard, TokenRefused):
            self.host.rate.answered(self._job.id, now)
            self.host.start_queue.look()
            return 0.0
        self._hangs = self._hangs + 1 if isinstance(heard, NoAnswer) and heard.hung else 0
        self._loss = update(self._loss, heard, sent, now)
        self.host.heard(self._job.id, heard, now)
        lost, due = judge(self._loss, sent, now, context.patience, self._host_well_at)
        if lost is not None and isinstance(heard, Lost) and (wait := await self._wait_for_others(now)):
            lost, due = None, wait
        clock = context.clock()
        if isinstance(heard, Answer):
            if self._lacks_id(heard):
                heard = await self._with_id(heard)
            job, events = advance(self._job, heard, clock)
            self._progress = self._progress.seen(job.state.percentage_complete, now)
        elif lost is not None:
            job, events = lose_track(self._job, lost, clock)
        else:
            told = self._job.state.trouble
            told = None if told is not None and told.code == "tokenRequired" else told  # one was at hand for this poll
            told = trouble_told(told, self._loss, heard.retry_after, now, clock)
            job, events = troubled(self._job, told, clock)
        wait = self._wait_after(heard, due, now)
        self._log_trouble(heard, wait)
        if events and not await self._append(job, events):
            return None
        return None if job.state.ended else wait

    def _host_well_at(self, since: float) -> float:
        return self.host.health.well_at(since, self._now())

    async def _wait_for_others(self, now: float) -> float:
        """Seconds for which a verdict still waits for what the jobs of the host hear that other gateways poll."""
        host, troubled = self._job.target.host, self._context.troubled
        if troubled is None or host is None or self.host.health.jobs >= MOST_AT_LEAST:
            return 0.0  # there are no others, or the own jobs tell enough
        if now - self._loss.lost_since >= self._context.patience.doubtful:
            return 0.0
        try:
            jobs, in_trouble = await troubled(host)
        except StoreUnavailable:
            return ASK_AGAIN
        return well_elsewhere_at(jobs, in_trouble, self._loss.lost_since, now) - now

    def _lacks_id(self, answer: Answer) -> bool:
        """Whether an answer is a completion of which no item's id is known."""
        job = self._job
        if self._operation.asks_for_token:
            return False  # its result may be anything
        known = answer.resource_id or job.state.resource_id or job.target.item_id
        return not known and kind_of(answer.status or "") == "completed"

    async def _with_id(self, answer: Answer) -> Answer:
        """A completion without an item's id, with the id that one more look finds.

        The look waits for no turn, and can take nothing back.
        """
        monitor = self._monitor
        if monitor is None:
            return answer
        self._verdict = answer
        with anyio.move_on_after(SECOND_LOOK):
            wait = min(self._bounds.shortest, SECOND_LOOK / 2)
            self._due = self._now() + wait
            await asyncio.sleep(wait)
            _, second = await self._poll(monitor)
            if isinstance(second, Answer) and kind_of(second.status or "") == "completed":
                answer = msgspec.structs.replace(answer, resource_id=second.resource_id, drive_id=second.drive_id)
        self._verdict = None
        return answer

    def _wait_after(self, observed: Observation, due: float, now: float) -> float:
        context = self._context
        wait = next_wait(
            age=now - self._born,
            progress=self._progress,
            now=now,
            failures=self._loss.failures,
            hung=self._hangs > 0,
            retry_after=observed.retry_after,
            bounds=self._bounds,
            rng=context.rng,
        )
        if isinstance(observed, Throttled):
            self.host.rate.throttled(self._job.id, now, wait)
            context.metrics.throttled_seconds.labels(self.host.kind).inc(wait)
        elif not self._hangs:
            self.host.rate.answered(self._job.id, now)
        self.host.start_queue.look()
        if observed.retry_after is None:
            return max(self._bounds.shortest, min(wait, due))
        self._loss = with_requested_wait(self._loss, wait)
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
        self.ends_it = job.state.ended

        def failed(error: Exception, attempts: int) -> None:
            nonlocal failures
            failures = attempts
            if attempts == 1:
                metrics.verdicts_held.inc()
                log.warning("change_held", job=self._reference, status=job.state.status, error=error_text(error))

        try:
            mine = await hold(
                lambda: self._context.store.append(job, events),
                metrics.store_writes.labels("append").observe,
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
