"""The job machine: what is known of one watched copy, and how an answer of its monitor changes that.

Two rules. Everything that changes a job's state is in this file. A terminal state absorbs: nothing follows it.

    notStarted, inProgress, waiting, updating, deletePending, cancelPending, any word nobody knows  -> running
    completed                                                                                       -> succeeded
    failed, deleteFailed, cancelled                                                                 -> failed

Source of the words: Graph's asyncJobStatus (beta reference) and OneDrive's AsyncJobStatus.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

import msgspec

from gateway.core.errors import LOSSES, LostCode

RUNNING = ("notStarted", "inProgress", "waiting", "updating", "deletePending", "cancelPending")
FAILED = ("failed", "deleteFailed", "cancelled")
STATUSES = (*RUNNING, "completed", *FAILED)

Origin = Literal["upstream", "gateway"]


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    code: str | None = None
    message: str | None = None
    target: str | None = None


class JobError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a job failed. `origin` is upstream when the copy failed, gateway when the gateway lost sight of it."""

    code: str
    message: str
    origin: Origin
    details: tuple[ErrorDetail, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Graph's asyncJobStatus plus `jobId` and `at` (ISO 8601, UTC, when this state was seen)."""

    job_id: str
    operation: str
    status: str
    percentage_complete: float
    status_description: str | None = None
    resource_id: str | None = None
    resource: str | None = None
    error: JobError | None = None
    at: str

    @property
    def kind(self) -> Kind:
        return kind_of(self.status)

    @property
    def ended(self) -> bool:
        return self.kind != "progress"


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the result of a copy can be read: the request's version, the target drive if known, its own prefix.

    `trace` is the place in a trace that the job came of, while traces are made.
    """

    version: str = "v1.0"
    drive_id: str | None = None
    prefix: str | None = None
    trace: str | None = None

    def resource(self, item_id: str, drive_id: str | None) -> str | None:
        drive = drive_id or self.drive_id
        if drive is not None:
            return f"/{self.version}/drives/{_segment(drive)}/items/{_segment(item_id)}"
        if self.prefix is not None:
            return f"/{self.version}/{self.prefix}/items/{_segment(item_id)}"
        return None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a monitor said, in the gateway's words; None stands for what it did not say."""

    status: str | None
    percentage: float | None = None
    operation: str | None = None
    description: str | None = None
    resource_id: str | None = None
    drive_id: str | None = None
    error: JobError | None = None
    retry_after: float | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One watched action. Times are seconds since 1970; `seq` is the newest event's number."""

    id: str
    created: float
    target: Target
    monitor: str | None
    state: State
    seq: int
    epoch: int = 1
    ended: float | None = None


def kind_of(status: str) -> Kind:
    if status == "completed":
        return "completed"
    return "failed" if status in FAILED else "progress"


def accepted(
    job_id: str, *, monitor: str | None, target: Target, now: float, operation: str = "ItemCopy"
) -> tuple[Job, list[Event]]:
    """A job as it begins, with event 1."""
    state = State(job_id=job_id, operation=operation, status="notStarted", percentage_complete=0.0, at="")
    job = Job(id=job_id, created=now, target=target, monitor=monitor, state=state, seq=0)
    return _moved(job, state, now)


def advance(job: Job, answer: Answer, now: float) -> tuple[Job, list[Event]]:
    """The job after an answer, and the events to append: one if any field but `at` changed, else none."""
    old = job.state
    if old.ended:
        return job, []
    status = answer.status or old.status
    kind = kind_of(status)
    percentage = 100.0 if kind == "completed" else max(old.percentage_complete, answer.percentage or 0.0)
    resource_id = answer.resource_id or old.resource_id
    resource = old.resource  # a drive that was named once still holds when a later answer leaves it out
    if resource_id and (resource_id != old.resource_id or answer.drive_id):
        resource = job.target.resource(resource_id, answer.drive_id)
    new = State(
        job_id=old.job_id,
        operation=answer.operation or old.operation,
        status=status,
        percentage_complete=percentage,
        status_description=answer.description,
        resource_id=resource_id,
        resource=resource,
        error=_verdict(status, answer.error) if kind == "failed" else None,
        at=old.at,
    )
    if new == old:
        return job, []
    return _moved(job, new, now)


def lose_track(job: Job, code: LostCode, now: float) -> tuple[Job, list[Event]]:
    """The job after the gateway gave up watching it."""
    if job.state.ended:
        return job, []
    error = JobError(code=code, message=LOSSES[code].message, origin="gateway")
    return _moved(job, msgspec.structs.replace(job.state, status="failed", error=error), now)


def reference(job_id: str) -> str:
    """How logs name a job: short, and not the capability that its id is."""
    return hashlib.sha256(job_id.encode()).hexdigest()[:8]


def iso(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moved(job: Job, state: State, now: float) -> tuple[Job, list[Event]]:
    state = msgspec.structs.replace(state, at=iso(now))
    seq = job.seq + 1
    event = Event(
        seq=seq,
        kind=state.kind,
        status_changed=seq == 1 or state.status != job.state.status,
        data=msgspec.json.encode(state),
    )
    if state.ended:
        return msgspec.structs.replace(job, state=state, seq=seq, monitor=None, ended=now), [event]
    return msgspec.structs.replace(job, state=state, seq=seq), [event]


def _verdict(status: str, error: JobError | None) -> JobError:
    return error or JobError(code=status, message=f"Upstream ended the copy as {status}.", origin="upstream")


def _segment(value: str) -> str:
    """An id as one path segment; `!` and `,` stay, as Graph writes them."""
    return quote(value, safe="!,$:'()*;=@&+~")


Kind = Literal["progress", "completed", "failed"]


class Event(msgspec.Struct, frozen=True):
    """One entry of a log. `data` is the whole state as JSON; `turned` tells a change of status from mere progress."""

    seq: int
    kind: Kind
    status_changed: bool
    data: bytes

    @property
    def terminal(self) -> bool:
        return self.kind != "progress"

    def body(self) -> bytes:
        """The frame without its id: what every stream that carries the event shares."""
        return b"event: %b\ndata: %b\n\n" % (self.kind.encode(), self.data)


def frame(event_id: bytes, body: bytes) -> bytes:
    return b"id: %b\n%b" % (event_id, body)


def chunk(data: bytes) -> bytes:
    """As HTTP/1.1 sends a piece of a body whose length nobody knows."""
    return b"%x\r\n%b\r\n" % (len(data), data)
