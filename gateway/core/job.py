"""The state machine of a job: the state of one watched copy and its transitions.

Two rules. Every change of a job's state is in this file. A terminal state absorbs: no event follows it.

    RUNNING, any unknown value  -> progress
    COMPLETED                   -> completed; after one of PARTIAL the state also says what was left out
    FAILED                      -> failed

Source of the status values: Graph's asyncJobStatus (beta reference), OneDrive's AsyncJobStatus, and the statuses of
Graph's other long-running operations.
"""

from __future__ import annotations

import hashlib
import math
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal
from urllib.parse import quote

import msgspec

from gateway.core.errors import LOSSES, LostCode

RUNNING = (
    *("notStarted", "inProgress", "waiting", "updating", "deletePending", "cancelPending"),
    *("running", "accepted", "active", "draft", "activating", "unspecified", "unknown", "unknownFutureValue"),
)
PARTIAL = ("partiallySucceeded", "completedWithError", "completedWithErrors")
COMPLETED = ("completed", *PARTIAL)
FAILED = ("failed", "deleteFailed", "cancelled", "canceled", "submissionFailed", "invalid")
STATUSES = (*RUNNING, *COMPLETED, *FAILED)

_VERSION = re.compile(r"^/(v1\.0|beta)(?=/)")
_SPELLINGS = {word.lower(): word for word in STATUSES} | {"succeeded": "completed"}

Kind = Literal["progress", "completed", "failed"]
_KINDS: dict[str, Kind] = {**dict.fromkeys(COMPLETED, "completed"), **dict.fromkeys(FAILED, "failed")}
Origin = Literal["upstream", "gateway"]
TroubleCode = Literal["throttled", "unreachable", "doubted", "tokenRequired"]


class Event(msgspec.Struct, frozen=True):
    """One entry of a log. `data` is the whole state as JSON; `status_changed` is False for mere progress."""

    seq: int
    kind: Kind
    status_changed: bool
    data: bytes

    @property
    def terminal(self) -> bool:
        return self.kind != "progress"

    def body(self) -> bytes:
        """The SSE frame without its id line, shared by all streams that carry the event."""
        return b"event: %b\ndata: %b\n\n" % (self.kind.encode(), self.data)


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    code: str | None = None
    message: str | None = None
    target: str | None = None


class JobError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a job failed, or what a job that completed in part left out.

    `origin` is `upstream` if the copy failed, `gateway` if the gateway lost track of the copy.
    """

    code: str
    message: str
    origin: Origin
    details: tuple[ErrorDetail, ...] = ()


class Trouble(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Why nothing moves: the monitor is `throttled`, `unreachable`, or `doubted` to know the job still, or it is not
    asked until somebody hands in a token (`tokenRequired`).

    `since` is when the first such answer in a row came, `retryAt` from when upstream lets it be asked again; both in
    ISO 8601, UTC, as they were known when the trouble came.
    """

    code: TroubleCode
    since: str
    retry_at: str | None = None

    def asked_wait(self, clock: float) -> float:
        """Seconds for which upstream still asks not to be asked, `clock` in seconds since 1970; no longer than it asked
        for, whatever became of the clock.
        """
        if self.retry_at is None:
            return 0.0
        until, since = (datetime.fromisoformat(at).timestamp() for at in (self.retry_at, self.since))
        return max(0.0, until - max(clock, since))


class State(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Graph's asyncJobStatus plus `jobId`, `at` (ISO 8601, UTC, the time of this state's event), `label`, the name for
    people, and `trouble`.
    """

    job_id: str
    operation: str
    status: str
    percentage_complete: float
    label: str | None = None
    status_description: str | None = None
    resource_id: str | None = None
    resource: str | None = None
    error: JobError | None = None
    trouble: Trouble | None = None
    at: str

    @property
    def kind(self) -> Kind:
        return kind_of(self.status)

    @property
    def ended(self) -> bool:
        return self.kind != "progress"


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job was started by, and where its result can be read.

    `action` is that of the request in the table of operations, None for a monitor URL that the caller had. `version` is
    the API version of the request. `drive_id` is the target drive, None if unknown. `prefix` is the
    path of the source drive in the request. `trace` is the trace context of the request, None without tracing.
    `item_id` is the item of the request when the job changes that item itself, so that it is the result of a job whose
    monitor names none. `host` is the mark of the monitor's host, see `core.keys.host_mark`.
    """

    version: str = "v1.0"
    drive_id: str | None = None
    prefix: str | None = None
    trace: str | None = None
    item_id: str | None = None
    host: str | None = None
    action: str | None = None

    def resource(self, item_id: str, drive_id: str | None) -> str | None:
        """The path of an item, in `drive_id` if that is known; None when neither a drive nor the prefix is known."""
        drive = drive_id or self.drive_id
        if drive is not None:
            return f"/{self.version}/drives/{_segment(drive)}/items/{_segment(item_id)}"
        if self.prefix is not None:
            return f"/{self.version}/{self.prefix}/items/{_segment(item_id)}"
        return None

    def located(self, path: str) -> str:
        """The path of a result as upstream gave it, under the request's own version."""
        return f"/{self.version}{_VERSION.sub('', path)}"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor's answer in the gateway's terms; None marks a missing member.

    `percentage` is from 0 to 100, `retry_after` in seconds. `location` is the path of a result that is no item of a
    drive.
    """

    status: str | None
    percentage: float | None = None
    operation: str | None = None
    description: str | None = None
    resource_id: str | None = None
    drive_id: str | None = None
    location: str | None = None
    error: JobError | None = None
    retry_after: float | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One watched copy. Times are in seconds since 1970; `seq` is the number of the newest event."""

    id: str
    created: float
    target: Target
    monitor: str | None
    state: State
    seq: int
    epoch: int = 1
    ended: float | None = None

    def age(self, now: float) -> float:
        """Seconds since the job was created, 0 if the clock says that this is yet to come."""
        return max(0.0, now - self.created)


def kind_of(status: str) -> Kind:
    return _KINDS.get(status, "progress")


def known_status(word: str) -> str | None:
    """A status in Graph's own spelling, whatever its case; `succeeded` is `completed`. None for an unknown one."""
    return _SPELLINGS.get(word.strip().lower())


def accepted(
    job_id: str,
    *,
    monitor: str | None,
    target: Target,
    now: float,
    operation: str = "ItemCopy",
    label: str | None = None,
) -> tuple[Job, list[Event]]:
    """A new job and its first event, number 1."""
    state = State(job_id=job_id, operation=operation, status="notStarted", percentage_complete=0.0, label=label, at="")
    job = Job(id=job_id, created=now, target=target, monitor=monitor, state=state, seq=0)
    return _moved(job, state, now)


def advance(job: Job, answer: Answer, now: float) -> tuple[Job, list[Event]]:
    """The job after a monitor's answer, and the events to append: one if any field but `at` changed, else none."""
    old = job.state
    if old.ended:
        return job, []
    status = answer.status or old.status
    kind = kind_of(status)
    percentage = 100.0 if kind == "completed" else max(old.percentage_complete, answer.percentage or 0.0)
    resource_id = answer.resource_id or old.resource_id or (job.target.item_id if kind == "completed" else None)
    resource = old.resource  # the drive of an earlier answer stays valid when a later answer omits it
    if resource_id and (resource_id != old.resource_id or answer.drive_id):
        resource = job.target.resource(resource_id, answer.drive_id)
    if resource is None and answer.location is not None and kind == "completed":  # some name it from the start
        resource = job.target.located(answer.location)
    new = State(
        job_id=old.job_id,
        operation=answer.operation or old.operation,
        status=status,
        percentage_complete=percentage,
        label=old.label,
        status_description=answer.description,
        resource_id=resource_id,
        resource=resource,
        error=_upstream_error(status, answer.error) if kind == "failed" or status in PARTIAL else None,
        at=old.at,
    )
    if new == old:
        return job, []
    return _moved(job, new, now)


def lose_track(job: Job, code: LostCode, now: float) -> tuple[Job, list[Event]]:
    """The job after the gateway stopped watching it without a final status, and the event to append."""
    if job.state.ended:
        return job, []
    error = JobError(code=code, message=LOSSES[code].message, origin="gateway")
    return _moved(job, msgspec.structs.replace(job.state, status="failed", error=error, trouble=None), now)


def troubled(job: Job, trouble: Trouble | None, now: float) -> tuple[Job, list[Event]]:
    """The job while its monitor is in this trouble, and the events to append: one if the trouble is news, else none.

    The next answer of the monitor ends the trouble, see `advance`.
    """
    if job.state.ended or job.state.trouble == trouble:
        return job, []
    return _moved(job, msgspec.structs.replace(job.state, trouble=trouble), now)


def reference(job_id: str) -> str:
    """How logs name a job: by a short hash, since the id itself grants access to the job."""
    return hashlib.sha256(job_id.encode()).hexdigest()[:8]


def iso(now: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    fraction, second = math.modf(now)
    micros = round(fraction * 1e6)
    if not 0 <= micros < 1_000_000:
        second, micros = second + micros // 1_000_000, micros % 1_000_000
    return f"{_second(second)}.{micros // 1000:03d}Z"


@lru_cache(maxsize=4)
def _second(second: float) -> str:
    """Events come many a second: the date of each costs twice its encoding."""
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


def frame(event_id: bytes, body: bytes) -> bytes:
    """A whole SSE frame."""
    return b"id: %b\n%b" % (event_id, body)


def chunk(data: bytes) -> bytes:
    """One chunk of an HTTP/1.1 body in chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


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


def _upstream_error(status: str, error: JobError | None) -> JobError:
    return error or JobError(code=status, message=f"Upstream ended the job as {status}.", origin="upstream")


def _segment(value: str) -> str:
    """An id as one path segment; `!` and `,` stay unescaped, as Graph writes them."""
    return quote(value, safe="!,$:'()*;=@&+~")
