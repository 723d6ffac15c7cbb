"""Which jobs this process polls: one watch each, all in one task group.

The poller knows nobody who reads. However many do, a job is polled alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import anyio

from gateway.core.job import Job
from gateway.jobs.schedule import UNSEEN, next_wait
from gateway.jobs.watch import Host, PollContext, Watch

STOP_GRACE = 1.0
"""Seconds that polls in flight get to finish when the gateway stops."""


TAKEN_UP_AT_ONCE, TAKE_UP_PAUSE = 50, 0.01
"""Jobs of an earlier life that are taken up in one go, which takes 10 ms, and seconds between for what they do."""


class Poller:
    def __init__(self, context: PollContext) -> None:
        self._context = context
        self._tasks = context.tasks
        self._rate = context.rate
        self._hosts: dict[str, Host] = {}
        self._watches: dict[str, Watch] = {}
        self._to_come: dict[str, Job] = {}
        """Jobs that are this process's and are still to be taken up, the newest last."""
        self._stopping = False
        self._empty = anyio.Event()
        context.metrics.watch("jobs_running", lambda: self.running)
        context.metrics.watch_hosts("jobs_throttled", self.throttled)

    @property
    def running(self) -> int:
        return len(self._watches) + len(self._to_come)

    def throttled(self) -> Mapping[str, int]:
        """How many jobs' last answer asked for fewer requests, by class of host."""
        found: Counter[str] = Counter()
        for host in self._hosts.values():
            found[host.kind] += host.rate.throttled_jobs
        return found

    def take_up(self, unfinished: Iterable[Job]) -> None:
        """Go on with the jobs of an earlier life, while requests are answered already: 10,000 take some 4 s. The newest
        come first, since their polls are due soonest.
        """
        self._to_come = {job.id: job for job in sorted(unfinished, key=lambda job: job.created)}
        self._tasks.start_soon(self._take_up)

    async def _take_up(self) -> None:
        begun = anyio.current_time()
        while self._to_come:
            portion = [self._to_come.popitem()[1] for _ in range(min(TAKEN_UP_AT_ONCE, len(self._to_come)))]
            self.resume(portion, waited=anyio.current_time() - begun)
            await anyio.sleep(TAKE_UP_PAUSE)

    def resume(self, unfinished: Iterable[Job], *, waited: float = 0.0) -> None:
        """Take up jobs from the store, their polls spread over the wait that each one's age calls for, of which so many
        seconds are over.
        """
        context = self._context
        for job in unfinished:
            wait = next_wait(
                age=context.clock() - job.created,
                progress=UNSEEN,
                now=0.0,
                failures=0,
                retry_after=None,
                bounds=context.bounds,
                rng=context.rng,
            )
            self._begin(job, context.rng.uniform(0, max(wait - waited, 0.0)))

    def watch(self, job: Job) -> None:
        """Poll a new job from now on."""
        if not job.state.ended:
            self._begin(job, self._context.bounds.shortest)

    def held(self) -> set[str]:
        """The ids of the jobs that are polled here."""
        return set(self._watches)

    def drop(self, job_id: str) -> None:
        """Poll a job no more: somebody else has it, or has ended it."""
        self._to_come.pop(job_id, None)
        watch = self._watches.get(job_id)
        if watch is not None:
            self._leave(watch)
            watch.cancel()

    def give_up(self, most: int) -> list[str]:
        """Poll as many jobs no more, and which; none whose poll is in flight."""
        between = [job_id for job_id, watch in self._watches.items() if not watch.polling]
        for job_id in between[:most]:
            self.drop(job_id)
        return between[:most]

    async def stop(self) -> None:
        """Stop between polls; those in flight get a second to finish."""
        self._stopping = True
        self._to_come.clear()
        for watch in list(self._watches.values()):
            watch.stop()
        if self._watches:
            with anyio.move_on_after(STOP_GRACE):
                await self._empty.wait()
        for watch in list(self._watches.values()):
            watch.cancel()

    def _begin(self, job: Job, wait: float) -> None:
        if self._stopping:
            return  # left in the store, for the next start or for another gateway
        old = self._watches.get(job.id)
        if old is not None:
            if old.epoch >= job.epoch:
                return
            self.drop(job.id)
        monitor = self._context.upstream.monitor(job.monitor or "")
        place = monitor.host if monitor else ""
        host = self._hosts.get(place)
        if host is None:
            host = self._hosts[place] = Host(place, self._rate, self._context.metrics)
        host.rate.join(job.id)
        host.start_queue.look()
        watch = self._watches[job.id] = Watch(job, monitor, host, self._context)
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
        if watch.host.rate.leave(job_id):
            del self._hosts[watch.host.name]
        if self._stopping and not self._watches:
            self._empty.set()
