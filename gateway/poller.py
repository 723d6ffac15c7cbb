"""Which jobs this process polls: one watch each, all in one task group.

The poller knows nobody who reads. However many do, a job is polled alike.
"""

from __future__ import annotations

from collections.abc import Iterable

import anyio
from anyio.abc import TaskGroup

from gateway.jobs import Job
from gateway.schedule import next_wait
from gateway.watch import Host, Means, Watch

STOP_GRACE = 1.0
"""Seconds that polls in flight get to finish when the gateway stops."""


class Poller:
    """`rate` is the most polls a second of the whole process."""

    def __init__(self, means: Means, tasks: TaskGroup, *, rate: float) -> None:
        self._means = means
        self._tasks = tasks
        self._rate = rate
        self._hosts: dict[str, Host] = {}
        self._watches: dict[str, Watch] = {}
        self._stopping = False
        self._empty = anyio.Event()

    @property
    def running(self) -> int:
        return len(self._watches)

    def resume(self, unfinished: Iterable[Job]) -> None:
        """Take up jobs from the store, their polls spread over the wait that each one's age calls for."""
        means = self._means
        for job in unfinished:
            wait = next_wait(
                age=means.clock() - job.created,
                remaining=None,
                failures=0,
                retry_after=None,
                bounds=means.bounds,
                rng=means.rng,
            )
            self._begin(job, means.rng.uniform(0, wait))

    def watch(self, job: Job) -> None:
        """Poll a new job from now on. Once stopping, it is left in the store for the next start."""
        if not self._stopping and not job.state.ended:
            self._begin(job, self._means.bounds.shortest)

    def drop(self, job_id: str) -> None:
        """Poll a job no more: somebody else has ended it."""
        watch = self._watches.get(job_id)
        if watch is not None:
            watch.scope.cancel()

    async def stop(self) -> None:
        """Stop between polls; those in flight get a second to finish."""
        self._stopping = True
        for watch in list(self._watches.values()):
            watch.stop()
        if self._watches:
            with anyio.move_on_after(STOP_GRACE):
                await self._empty.wait()
        for watch in list(self._watches.values()):
            watch.scope.cancel()

    def _begin(self, job: Job, wait: float) -> None:
        if job.id in self._watches:
            return
        monitor = self._means.upstream.monitor(job.monitor or "")
        place = monitor.host if monitor else ""
        host = self._hosts.get(place)
        if host is None:
            host = self._hosts[place] = Host(self._rate)
        host.rate.join(job.id)
        host.turns.look()
        watch = self._watches[job.id] = Watch(job, monitor, host, self._means)
        self._means.metrics.jobs_running.set(len(self._watches))
        self._tasks.start_soon(self._run, job.id, watch, place, wait)

    async def _run(self, job_id: str, watch: Watch, place: str, wait: float) -> None:
        try:
            await watch.run(wait)
        finally:
            del self._watches[job_id]
            self._means.metrics.jobs_running.set(len(self._watches))
            if self._hosts[place].rate.leave(job_id):
                del self._hosts[place]
            if self._stopping and not self._watches:
                self._empty.set()
