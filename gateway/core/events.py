"""An event of a job's log and its frame on the wire."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["progress", "completed", "failed"]


class Event(msgspec.Struct, frozen=True):
    """One entry of a log. `data` is the whole state as JSON; `turned` tells a change of status from mere progress."""

    seq: int
    kind: Kind
    turned: bool
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
