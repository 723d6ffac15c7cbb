"""A checked request that may start a job: what goes upstream, what its job is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.callback import CallbackRequest
from gateway.core.job import Target
from gateway.core.keys import fingerprint
from gateway.graph.dialects import drive_of_path
from gateway.graph.operations import COPY, GraphRequest

LONGEST_LABEL = 128
"""Most characters of a job's label."""


def is_label(text: str) -> bool:
    """Whether a text may be a job's label: 1 to 128 printable characters."""
    return 0 < len(text) <= LONGEST_LABEL and text.isprintable()


class CopyRequest(msgspec.Struct, frozen=True):
    """A checked request that may start a job.

    `asked` is the parsed request, `path` the raw path to send, with its query. `body` goes upstream as it is, and may
    be None; `content` is the JSON object in it. `headers` go upstream unchanged, except for the trace context. `label`
    is the value of `Gateway-Label`. `trace` is the trace context of the request itself; None while tracing is off.
    """

    method: str
    asked: GraphRequest
    path: str
    body: bytes | None
    content: Mapping[str, Any]
    headers: Mapping[str, str]
    idempotency_key: str | None = None
    callback: CallbackRequest | None = None
    label: str | None = None
    trace: str | None = None

    def mark(self) -> bytes:
        """The fingerprint that tells this request from another one under the same idempotency key.

        A plain POST has no part for its method or label, so that a key which an earlier version stored stays good.
        """
        callback = self.callback
        also = [] if callback is None else [callback.url, ",".join(callback.events)]
        if callback is not None and callback.own_secret:
            also.append(f"Gateway-Callback-Secret: {callback.secret}")
        if self.method != "POST":
            also.append(f"method {self.method}")
        if self.label is not None:
            also.append(f"label {self.label}")
        return fingerprint(self.path.encode(), self.body or b"", *(part.encode() for part in also))

    def shown_label(self) -> str | None:
        """The job's label: the caller's, else the new item's name as far as it is printable."""
        if self.label is not None:
            return self.label
        name = self.content.get(self.asked.operation.label)
        cut = name[:LONGEST_LABEL] if isinstance(name, str) else ""
        return cut if is_label(cut) else None

    def target(self) -> Target:
        """What is started, and the place of the result: for a copy the drive that the body names, else the drive of the
        request.
        """
        asked, drive = self.asked, None
        operation = asked.operation
        if operation is COPY:
            parent = self.content.get("parentReference")
            named = parent if isinstance(parent, dict) else {}
            drive = named.get("driveId")
            if not isinstance(drive, str) or not drive:
                drive = drive_of_path(named.get("path"))
        return Target(
            version=asked.version,
            drive_id=drive,
            prefix=None if operation.asks_for_token else asked.prefix,
            trace=self.trace,
            item_id=asked.item_id if operation.changes_item else None,
            action=operation.action,
        )
