"""The store's contract, the same for both engines: jobs with their event logs, idempotency keys, and callbacks.

The event log is authoritative. A job's row and its events change in one transaction, under the owner's epoch. `append`
changes nothing once the job has ended or its epoch has advanced, so the table itself guarantees exactly one terminal
event per job. A write is durable when its method returns. Every method raises StoreUnavailable when the engine fails
temporarily; nothing was changed then, except when PostgreSQL's response to a commit was lost. Ids and other strings
contain no NUL, which PostgreSQL cannot store: the routes ensure this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from gateway.core.callback import Callback
from gateway.core.job import Event, Job

CALLBACKS_PER_JOB = 16
PAST_THE_END = 1 << 53
"""An event number beyond every log: a read after it returns the head and no events."""


OnChange = Callable[[str, Sequence[Event]], None]
"""Called in the event loop with a job's id after its log has grown, and with the events that were just stored, if they
are known here. A wake-up only: it may come late, twice or never, so the log alone tells what is in it."""


def ignore_change(_job_id: str, _events: Sequence[Event]) -> None:
    """An `OnChange` before there is a reader."""


class Slice(msgspec.Struct, frozen=True):
    """Part of a log: `head` is the number of its newest event, `ended` whether that event is the terminal one."""

    head: int
    ended: bool
    events: Sequence[Event]


class Reservation(msgspec.Struct, frozen=True):
    """An idempotency key that was used before; `fingerprint` is that of the first request."""

    fingerprint: bytes
    outcome: Literal["inFlight", "job", "unknown"]
    job_id: str | None = None
    elsewhere: bool = False
    """Whether another gateway reserved the key. A key in flight at a dead gateway becomes `unknown`."""


class ClusterView(msgspec.Struct, frozen=True):
    """The number of gateways that share the work of a store, and the totals of running jobs and active callbacks.

    The totals include rows without an owner.
    """

    members: int
    jobs: int
    callbacks: int
    silent: int = 0
    """Gateways whose lease has expired and which are not considered dead yet."""


class Store(Protocol):
    """What both engines implement. Times are in seconds since 1970."""

    secret: bytes
    """Generated with the store; job keys and the hashes of callers are derived from it."""

    @property
    def failing(self) -> bool:
        """Whether the newest write failed; with PostgreSQL, the newest statement.

        If so, call `ping` before starting work whose result must be stored.
        """

    @property
    def failures(self) -> int:
        """The number of failures since the start."""

    on_change: OnChange

    async def create(
        self, job: Job, events: Sequence[Event], key: bytes | None, callback: Callback | None = None
    ) -> None:
        """Store a new job with its first events; `key` is the idempotency key of its request.

        A repetition of the call, after a lost response, changes nothing.
        """

    async def append(self, job: Job, events: Sequence[Event]) -> bool:
        """Store a job's next state and its events; False when the job has ended or its epoch has advanced."""

    async def stop(self, job_id: str, now: float) -> Job | None:
        """End a job as `watchStopped` under a new epoch, unless it has ended.

        Returns the resulting job, or None for an unknown id.
        """

    async def take(self, job_id: str) -> Job | None:
        """Take over one job, under a new epoch, whoever owns it; None for one that has ended, and for an unknown id."""

    async def get(self, job_id: str) -> Job | None: ...

    async def read(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Slice | None]:
        """For each pair of job id and event number, the events after it: oldest first, at most `limit`.

        The entry of an unknown job is None.
        """

    async def heads(self, job_ids: Sequence[str]) -> list[Slice | None]:
        """The slice without events of each job: its head, and whether it has ended; None for an unknown job."""

    async def page(self, *, limit: int, status: str | None, before: str | None) -> tuple[list[Job], str | None]:
        """Up to `limit` jobs without their monitor URLs, newest first, and the cursor of the next page or None.

        `status` filters, and `before` is a cursor. Raises ValueError for an invalid cursor.
        """

    async def claim(self) -> list[Job]:
        """Claim the running jobs that no live gateway owns, under a new epoch."""

    async def reserve(self, key: bytes, fingerprint: bytes, now: float) -> Reservation | None:
        """Store an idempotency key as in flight since `now`. Returns its earlier reservation when there is one."""

    async def release_key(self, key: bytes, created: float) -> None:
        """Delete a key that this process reserved at `created`, since its request had no effect."""

    async def mark_unknown(self, key: bytes, created: float) -> None:
        """Record that the outcome of a key's request is unknown; `created` is when the key was reserved."""

    async def delete_expired(self, before: float) -> int:
        """Delete jobs that ended before `before`, and keys of unknown outcome that were reserved before it.

        A job is kept while one of its callbacks is active, or was exhausted at `before` or later. Returns the number of
        jobs deleted, which is limited: call again until it is 0.
        """

    async def add_callback(self, callback: Callback) -> Literal["added", "unknownJob", "tooMany"]:
        """Store a new callback of a job. A job may have `CALLBACKS_PER_JOB` callbacks."""

    async def callbacks(self, job_id: str) -> list[Callback]:
        """A job's callbacks, oldest first."""

    async def save_callback(self, callback: Callback) -> bool:
        """Store a callback's state and progress; False when it was removed or its epoch has advanced."""

    async def revive_callback(self, job_id: str, callback_id: str) -> Callback | None:
        """Make a callback due now, with all its attempts, under a new epoch.

        Returns the resulting callback, unchanged when it was delivered; None for an unknown id.
        """

    async def remove_callback(self, job_id: str, callback_id: str) -> bool: ...

    async def claim_callbacks(self) -> list[Callback]:
        """Claim the active callbacks that no live gateway owns, under a new epoch."""

    async def ping(self) -> None:
        """Test that the store accepts writes. Raises StoreUnavailable."""


class SharedStore(Store, Protocol):
    """A store that several gateways share. Each owns jobs and callbacks for as long as it renews its lease."""

    lease: float
    """Seconds after which other gateways own the rows of a silent one."""
    term: float
    """Seconds after a renewal during which no other gateway can claim this gateway's rows."""

    on_stop: Callable[[str], None]
    """Called in the event loop with a job's id when another gateway has ended it."""
    on_take: Callable[[str, int], None]
    """Called in the event loop with a job's id and its new epoch when another gateway has taken it over."""
    on_callback_remove: Callable[[str], None]
    """Called in the event loop with a callback's id when another gateway has removed it."""
    on_callback_take: Callable[[str, int], None]
    """Called in the event loop with a callback's id and its new epoch when another gateway has revived it."""

    def clock(self) -> float:
        """Seconds since 1970, by a clock that all gateways share."""

    async def join(self) -> None:
        """Register this gateway. A gateway that was considered dead joins again, and then owns nothing."""

    async def renew(self, jobs: int, callbacks: int, *, patience: float) -> ClusterView | None:
        """Renew the lease, and report how many jobs and callbacks this gateway owns.

        Returns None when this gateway was considered dead. `patience` is the timeout in seconds.
        """

    async def expire_members(self) -> list[str]:
        """Consider gateways with an expired lease dead, and return their ids.

        The rows of dead gateways are released, and their keys in flight become `unknown`.
        """

    async def claim(self, most: int = ...) -> list[Job]:
        """Claim up to `most` running jobs without an owner, under a new epoch.

        Jobs are claimed in portions, so fewer may be returned although more are free. None are returned when none is
        free, or when this gateway was considered dead.
        """

    async def claim_callbacks(self, most: int = ...) -> list[Callback]:
        """Claim up to `most` active callbacks without an owner, as `claim` does jobs."""

    async def release(self, table: Literal["jobs", "callbacks"], ids: Sequence[str]) -> None:
        """Release a portion of rows so that other gateways may claim them; those that are being taken now are kept.

        One release at a time.
        """

    async def holdings(self, table: Literal["jobs", "callbacks"]) -> set[str]:
        """The ids of the running jobs or active callbacks that this gateway owns, according to the store."""

    async def epochs(self, table: Literal["jobs", "callbacks"], ids: Sequence[str]) -> dict[str, int]:
        """The epochs of those of these rows that are stored, whoever owns them."""

    async def troubled(self, host: str) -> tuple[int, int]:
        """The number of running jobs of a host, named by its mark, and of those in trouble, whichever gateway polls
        them.
        """

    async def release_all(self) -> None:
        """Release all rows and take no share of the work any more, but stay registered: keys in flight stay so."""

    async def leave(self) -> None:
        """Deregister this gateway and release all its rows, at shutdown. Its keys in flight become `unknown`."""
