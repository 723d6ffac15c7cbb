"""The jobs that this process polls: one watch each, all in one task group.

The poller does not know the readers: the number of readers has no effect on the polls of a job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import anyio

from gateway.core.errors import StoreUnavailable
from gateway.core.job import Job
from gateway.graph import operations
from gateway.graph.client import Monitor
from gateway.jobs.host import Host
from gateway.jobs.polling import PollContext
from gateway.jobs.schedule import UNSEEN, bounds_of, next_wait
from gateway.jobs.tokens import Token
from gateway.jobs.watch import Watch

STOP_GRACE = 1.0
"""Seconds in which polls in flight may finish when the gateway stops."""


TAKEN_UP_AT_ONCE, TAKE_UP_PAUSE = 50, 0.01
"""Jobs resumed in one batch, which takes 10 ms, and the pause in seconds between batches for their work."""


class Poller:
    def __init__(self, context: PollContext) -> None:
        self._context = context
        self._tasks = context.tasks
        self._rate = context.rate
        self._hosts: dict[str, Host] = {}
        self._watches: dict[str, Watch] = {}
        self._pending: dict[str, Job] = {}
        """Jobs of this process that are still to be resumed, the newest last."""
        self._stopping = False
        self._empty = anyio.Event()
        context.metrics.watch("jobs_running", lambda: self.running)
        context.metrics.watch_hosts("jobs_throttled", self.throttled)

    @property
    def running(self) -> int:
        return len(self._watches) + len(self._pending)

    def throttled(self) -> Mapping[str, int]:
        """The number of jobs whose last answer asked for fewer requests, by class of host."""
        found: Counter[str] = Counter()
        for host in self._hosts.values():
            found[host.kind] += host.rate.throttled_jobs
        return found

    def take_up(self, unfinished: Iterable[Job]) -> None:
        """Resume the jobs of an earlier process in batches, while requests are answered: 10,000 jobs take some 4 s.

        The newest jobs come first, since their polls are due soonest.
        """
        self._pending = {job.id: job for job in sorted(unfinished, key=lambda job: job.created)}
        self._tasks.start_soon(self._take_up)

    async def _take_up(self) -> None:
        begun = anyio.current_time()
        while self._pending:
            portion = [self._pending.popitem()[1] for _ in range(min(TAKEN_UP_AT_ONCE, len(self._pending)))]
            self.resume(portion, waited=anyio.current_time() - begun)
            await anyio.sleep(TAKE_UP_PAUSE)

    def resume(self, unfinished: Iterable[Job], *, waited: float = 0.0) -> None:
        """Start polling jobs that were read from the store.

        The first poll of a job falls at random within the wait for the job's age, less the `waited` seconds, and no
        sooner than upstream asked for.
        """
        context = self._context
        for job in unfinished:
            operation = operations.of(job.target)
            wait = next_wait(
                age=job.age(context.clock()),
                progress=UNSEEN,
                now=0.0,
                failures=0,
                retry_after=None,
                bounds=bounds_of(operation, context.bounds),
                rng=context.rng,
            )
            monitor = context.upstream.monitor(job.monitor or "", operation)
            first = context.rng.uniform(0, max(wait - waited, 0.0))
            self._begin(job, monitor, _asked_wait(job, context.clock()) + first)

    def watch(self, job: Job, monitor: Monitor | None, token: Token | None = None) -> None:
        """Start polling a new job at its monitor; `token` is its caller's, for an operation that asks for one."""
        if not job.state.ended:
            self._begin(job, monitor, bounds_of(operations.of(job.target), self._context.bounds).shortest, token)

    async def hand_in(self, job_id: str, token: Token) -> Job | None:
        """Go on polling a job under this token, whichever gateway polled it before.

        A token lifts no wait that upstream asked for. Returns the job under its new epoch; None when it has ended, be
        that only known here and still to be stored, or is unknown. Raises StoreUnavailable.
        """
        watch = self._watches.get(job_id)
        if watch is not None and watch.ends_it:
            return None
        job = await self._context.store.take(job_id)
        if self._stopping:
            raise StoreUnavailable("the gateway is shutting down")
        if job is not None:
            monitor = self._context.upstream.monitor(job.monitor or "", operations.of(job.target))
            watch = self._watches.get(job_id)
            wait = _asked_wait(job, self._context.clock()) if watch is None else watch.due_in
            self._begin(job, monitor, wait, token)
        return job

    def held(self) -> set[str]:
        """The ids of the jobs that this process polls."""
        return set(self._watches)

    def drop(self, job_id: str) -> None:
        """Stop polling a job at once: another gateway has it, or the job was ended."""
        self._pending.pop(job_id, None)
        watch = self._watches.get(job_id)
        if watch is not None:
            self._leave(watch)
            watch.cancel()

    def leave_to(self, job_id: str, epoch: int) -> None:
        """Stop polling a job that another gateway polls under this epoch."""
        watch = self._watches.get(job_id)
        if watch is not None and watch.epoch < epoch:
            self.drop(job_id)

    def give_up(self, most: int) -> list[str]:
        """Stop polling up to `most` jobs and return their ids.

        Jobs with a poll in flight are kept, and jobs with a token, which no other gateway has.
        """
        idle = [job_id for job_id, watch in self._watches.items() if not watch.polling and not watch.has_token]
        for job_id in idle[:most]:
            self.drop(job_id)
        return idle[:most]

    async def stop(self) -> None:
        """Stop all watches; polls in flight get `STOP_GRACE` seconds to finish."""
        self._stopping = True
        self._pending.clear()
        for watch in list(self._watches.values()):
            watch.stop()
        if self._watches:
            with anyio.move_on_after(STOP_GRACE):
                await self._empty.wait()
        for watch in list(self._watches.values()):
            watch.cancel()

    def _begin(self, job: Job, monitor: Monitor | None, wait: float, token: Token | None = None) -> None:
        if self._stopping:
            return  # stays in the store, for the next start or another gateway
        old = self._watches.get(job.id)
        if old is not None:
            if old.epoch >= job.epoch:
                return
            self.drop(job.id)
        name = monitor.host if monitor else ""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(name, self._rate, self._context.metrics)
        host.join(job.id)
        watch = self._watches[job.id] = Watch(job, monitor, host, self._context, token)
        self._tasks.start_soon(self._run, watch, wait)

    async def _run(self, watch: Watch, wait: float) -> None:
        try:
            await watch.run(wait)
        finally:
            self._leave(watch)

    def _leave(self, watch: Watch) -> None:
        job_id = watch.job_id
        if self._watches.get(job_id) is not watch:
            return
        del self._watches[job_id]
        if watch.host.leave(job_id):
            del self._hosts[watch.host.name]
        if self._stopping and not self._watches:
            self._empty.set()


def _asked_wait(job: Job, clock: float) -> float:
    trouble = job.state.trouble
    return 0.0 if trouble is None else trouble.asked_wait(clock)
