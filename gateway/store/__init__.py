"""The log and the jobs: what a store promises, whatever engine keeps it.

The log is the truth. A job's row and its events change in one transaction, under the owner's epoch, so that a job has
exactly one terminal event as a property of the table: `append` changes nothing once a job has ended or its epoch has
moved on. All that was answered is durable. Any method raises StoreUnavailable when the engine cannot do it now; it has
then done nothing. Ids and other texts hold no NUL, which PostgreSQL cannot store: the routes see to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from gateway.core.callback import Callback
from gateway.core.job import Event, Job

CALLBACKS_PER_JOB = 16
PAST_THE_END = 1 << 53
"""A number beyond every log: a read after it gives the head and no events."""


class Slice(msgspec.Struct, frozen=True):
    """Part of a log: `head` is the newest event's number, `ended` whether that is the terminal one."""

    head: int
    ended: bool
    events: Sequence[Event]


class Reservation(msgspec.Struct, frozen=True):
    """What is known of an idempotency key that was used before."""

    fingerprint: bytes
    outcome: Literal["inFlight", "job", "unknown"]
    job_id: str | None = None
    elsewhere: bool = False
    """Whether another gateway, which lives, took the request."""


class ClusterView(msgspec.Struct, frozen=True):
    """How things are among the gateways of a store: how many live, and how many running jobs and active callbacks there
    are in all.
    """

    members: int
    jobs: int
    callbacks: int
    silent: int = 0
    """Gateways that have not renewed in time, and were not given up yet."""


class Store(Protocol):
    secret: bytes
    """Made with the store; keys of jobs and the hashes of callers are derived from it."""

    @property
    def failing(self) -> bool:
        """Whether the newest write failed. Then `ping` before something is begun that must be stored afterwards."""

    @property
    def failures(self) -> int:
        """How many pieces of work could not be done, since the start."""

    on_change: Callable[[str], None]
    """Called in the event loop with a job's id after its log has grown. Only a wake-up: it may come late or twice."""

    async def create(
        self, job: Job, events: Sequence[Event], key: bytes | None, callback: Callback | None = None
    ) -> None:
        """Keep a new job with its first events; `key` is the idempotency key it was started under.

        The same once more, after an answer that was lost, changes nothing.
        """

    async def append(self, job: Job, events: Sequence[Event]) -> bool:
        """Keep a job's next state with its events; False when it has ended or belongs to another epoch."""

    async def stop(self, job_id: str, now: float) -> Job | None:
        """End a job as `watchStopped` under a new epoch; the job as it then is, None when nobody knows it."""

    async def get(self, job_id: str) -> Job | None: ...

    async def read(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Slice | None]:
        """For each job id and number the events after it, oldest first, `limit` at most; None for an unknown job."""

    async def heads(self, job_ids: Sequence[str]) -> list[Slice | None]:
        """Each log's newest number and whether it has ended, without events; None for an unknown job."""

    async def page(self, *, limit: int, status: str | None, before: str | None) -> tuple[list[Job], str | None]:
        """Jobs, newest first, and the cursor of the next page if there is one. Raises ValueError for a bad cursor."""

    async def claim(self) -> list[Job]:
        """The jobs that have not ended and that no living gateway has, under a new epoch."""

    async def reserve(self, key: bytes, fingerprint: bytes, now: float) -> Reservation | None:
        """Keep an idempotency key as in flight since `now`; what is known of it when it was used before."""

    async def release_key(self, key: bytes, created: float) -> None:
        """Forget a key that was reserved then, and whose request had no effect."""

    async def mark_unknown(self, key: bytes, created: float) -> None:
        """Keep that nobody knows what became of the request of a key that was reserved then."""

    async def delete_expired(self, before: float) -> int:
        """Remove jobs that ended, and keys without a job that were kept, before then; how many jobs.

        A job is spared while a callback of it is active, or was exhausted after then.
        """

    async def add_callback(self, callback: Callback) -> Literal["added", "unknownJob", "tooMany"]:
        """Keep a job's new callback."""

    async def callbacks(self, job_id: str) -> list[Callback]:
        """A job's callbacks, oldest first."""

    async def save_callback(self, callback: Callback) -> bool:
        """Keep how far a callback is; False when it was removed or belongs to another epoch."""

    async def revive_callback(self, job_id: str, callback_id: str) -> Callback | None:
        """Make a callback due now, with all its tries, under a new epoch; None when nobody knows it."""

    async def remove_callback(self, job_id: str, callback_id: str) -> bool: ...

    async def claim_callbacks(self) -> list[Callback]:
        """The active callbacks that no living gateway has, under a new epoch."""

    async def ping(self) -> None:
        """Write something, to see whether that can be done."""


class SharedStore(Store, Protocol):
    """A store that many gateways share. Each has jobs and callbacks of its own, as long as it renews its lease."""

    lease: float
    """Seconds after which all that a silent gateway has is with others."""
    term: float
    """Seconds from a renewal in which nobody else can take anything of this gateway."""

    on_stop: Callable[[str], None]
    """Called in the event loop with a job's id when another gateway has ended it."""
    on_callback_change: Callable[[str], None]
    """Called in the event loop with a callback's id when another gateway has removed it or taken it over."""

    def clock(self) -> float:
        """Seconds since 1970, the same for all gateways."""

    async def join(self) -> None:
        """Be one of the gateways from now on; anew for one that was given up for dead, which then has nothing."""

    async def renew(self, jobs: int, callbacks: int, *, patience: float) -> ClusterView | None:
        """Renew the lease, saying how many of each this gateway has; None when it was given up for dead.

        `patience` is the seconds that this may take.
        """

    async def expire_members(self) -> list[str]:
        """Give up for dead whoever has not renewed in time: what it has becomes free; their names."""

    async def claim(self, most: int = ...) -> list[Job]:
        """As many jobs that have no owner, or fewer: they come in portions, and none when there are none left."""

    async def claim_callbacks(self, most: int = ...) -> list[Callback]: ...

    async def release(self, table: Literal["jobs", "callbacks"], ids: Sequence[str]) -> None:
        """Let others have these."""

    async def holdings(self, table: Literal["jobs", "callbacks"]) -> set[str]:
        """The ids of what this gateway has, as the store sees it."""

    async def leave(self) -> None:
        """Let others have everything, at the end."""
