"""An event stream read as the WHATWG EventSource specification says: bytes in, messages out, no I/O."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

RETRY = 2.0  # seconds, until the stream names its own


@dataclass(frozen=True, slots=True)
class Message:
    event: str
    data: str
    id: str


class EventStream:
    """One reader's state. It outlives connections: `last_id` and `retry` are what the next one starts from."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry = RETRY
        self.connect()

    def connect(self) -> None:
        """A new response begins; what the old one left unfinished was never sent."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = True
        self._after_cr = False
        self._rest = ""
        self._forget()
        self._id = self.last_id

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that are whole with this chunk."""
        text = self._decoder.decode(chunk)
        if self._at_start and text:
            text, self._at_start = text.removeprefix("\ufeff"), False
        if self._after_cr and text:  # CR ended the line already; an LF behind it belongs to it
            text, self._after_cr = text.removeprefix("\n"), False
        self._after_cr = self._after_cr or text.endswith("\r")
        *lines, self._rest = (self._rest + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return [message for line in lines if (message := self._take(line)) is not None]

    def _take(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")  # a comment is a field without a name
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value.lstrip("0")[:9] or "0") / 1000
        return None

    def _dispatch(self) -> Message | None:
        self.last_id = self._id
        message = Message(self._event or "message", "\n".join(self._data), self.last_id) if self._data else None
        self._forget()
        return message

    def _forget(self) -> None:
        self._event = ""
        self._data: list[str] = []
