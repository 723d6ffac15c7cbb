"""Jobs and callbacks as rows: the same columns, encodings and encryption in both engines.

Secrets are encrypted and bound to their row, so that neither a copy of the store nor a value moved to another row
discloses them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from gateway.core.callback import Callback, DeliveryProgress
from gateway.core.errors import error_text
from gateway.core.job import Job, Kind, State, Target
from gateway.store.sealing import Cipher, DecryptionFailed
from gateway.telemetry.logs import EventLog

T = TypeVar("T")
Row = TypeVar("Row", bound=Iterable[Any])

JOB = "id, created, target, monitor, state, status, seq, epoch, ended"
CALLBACK = "id, job_id, receiver, events, made, with_copy, state, settled, epoch, tries"
SEALED = (("jobs", "monitor"), ("callbacks", "receiver"))
"""The tables and columns whose values are encrypted, each for the id of its row."""

log = EventLog("gateway.store")

_read_state = msgspec.json.Decoder(State).decode
_read_target = msgspec.json.Decoder(Target).decode
_read_kinds = msgspec.json.Decoder(tuple[Kind, ...]).decode
_read_progress = msgspec.json.Decoder(DeliveryProgress).decode


class _Receiver(msgspec.Struct, frozen=True, omit_defaults=True):
    url: str
    secret: str
    own_secret: bool = False


_read_receiver = msgspec.json.Decoder(_Receiver).decode


class Rows:
    """Converts jobs and callbacks to rows and back. Reading raises DecryptionFailed for a row under another key."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher

    def of_job(self, job: Job) -> tuple[Any, ...]:
        """The values of the columns `JOB`."""
        return (
            job.id,
            job.created,
            msgspec.json.encode(job.target),
            None if job.monitor is None else self._cipher.encrypt(job.monitor.encode(), job.id),
            msgspec.json.encode(job.state),
            job.state.status,
            job.seq,
            job.epoch,
            job.ended,
        )

    def legible(self, table: str, found: Iterable[Row], read: Callable[[Row], T]) -> list[T]:
        """Those of claimed rows that can be read: one that is damaged or under another GATEWAY_SECRET_KEY must not stop
        the rest.
        """
        values = []
        failure, count = None, 0
        for row in found:
            try:
                values.append(read(row))
            except (DecryptionFailed, msgspec.DecodeError) as error:
                failure, count = error, count + 1
        if failure is not None:
            log.error("row_unreadable", table=table, count=count, error=error_text(failure))
        return values

    def job(self, row: Iterable[Any], *, with_monitor: bool = True) -> Job:
        """The job in a row of the columns `JOB`; without its monitor URL, it can be read whatever the key."""
        job_id, created, target, monitor, state, _status, seq, epoch, ended = row
        return Job(
            id=job_id,
            created=created,
            target=_read_target(target),
            monitor=None if monitor is None or not with_monitor else self._cipher.decrypt(monitor, job_id).decode(),
            state=_read_state(state),
            seq=seq,
            epoch=epoch,
            ended=ended,
        )

    def of_callback(self, callback: Callback) -> tuple[Any, ...]:
        """The values of the columns `CALLBACK`; URL and secret are encrypted together."""
        receiver = msgspec.json.encode(_Receiver(callback.url, callback.secret, callback.own_secret))
        return (
            callback.id,
            callback.job_id,
            self._cipher.encrypt(receiver, callback.id),
            msgspec.json.encode(callback.events),
            callback.created,
            callback.with_copy,
            callback.state,
            callback.finished_at,
            callback.epoch,
            msgspec.json.encode(callback.progress),
        )

    def callback(self, row: Iterable[Any]) -> Callback:
        """The callback in a row of the columns `CALLBACK`."""
        callback_id, job_id, sealed, kinds, created, with_copy, state, finished_at, epoch, progress = row
        receiver = _read_receiver(self._cipher.decrypt(sealed, callback_id))
        return Callback(
            id=callback_id,
            job_id=job_id,
            url=receiver.url,
            secret=receiver.secret,
            events=_read_kinds(kinds),
            created=created,
            with_copy=bool(with_copy),
            own_secret=receiver.own_secret,
            state=state,
            finished_at=finished_at,
            epoch=epoch,
            progress=_read_progress(progress),
        )


def place(cursor: str | None) -> tuple[float, str]:
    """The creation time and id before which a page of jobs, newest first, begins.

    Raises ValueError for an invalid cursor.
    """
    if cursor is None:
        return float("inf"), ""
    try:
        text, job_id = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ")
        created = float(text)
    except (binascii.Error, ValueError):
        raise ValueError("cursor") from None
    if "\0" in job_id:
        raise ValueError("cursor")
    return created, job_id


def page(found: list[Job], limit: int) -> tuple[list[Job], str | None]:
    """The first `limit` of up to `limit + 1` jobs, and the cursor of the next page or None."""
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], base64.urlsafe_b64encode(f"{last.created!r} {last.id}".encode()).decode()
