"""What the simulator says, as data: an answer, the way it reaches the wire, and Graph's shape of an error."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

JSON = "application/json"
HTML = "text/html; charset=utf-8"
TEXT = "text/plain"


class Delivery(enum.Enum):
    """How an answer travels. Everything but `WHOLE` is an accident that a client must survive."""

    WHOLE = "whole"
    HANG = "not a byte comes"
    HANG_BODY = "the head comes, the body never does"
    DRIP = "the body comes a byte at a time"
    TRUNCATE = "half of the announced length, then an orderly end"
    RESET = "the connection is reset before a byte has come"
    RESET_BODY = "the connection is reset in the middle of the body"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    content_type: str | None = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = Delivery.WHOLE


def document(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with `value` as compact JSON; NaN is written as the bare word, as sloppy servers do."""
    return Answer(status, encoded(value), headers=headers or {})


def encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class GraphError(Exception):
    """A refusal in Graph's shape. Raised, nothing was started; returned, it is merely what the caller hears."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        inner: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner
        self.headers = headers or {}

    def answer(self, now: datetime, request_id: str, client_request_id: str) -> Answer:
        nested: dict[str, Any] = {}
        for code in reversed(self.inner):
            nested = {"code": code, "innerError": nested} if nested else {"code": code}
        stamp = {
            "date": now.strftime("%Y-%m-%dT%H:%M:%S"),
            "request-id": request_id,
            "client-request-id": client_request_id,
        }
        error = {"code": self.code, "message": self.message, "innerError": nested | stamp}
        return document(self.status, {"error": error}, self.headers)
