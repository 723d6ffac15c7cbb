"""What the gateway says while it works: one event a line, by name, with its fields.

`log.warning("poll_failing", job=reference(job.id), troubles=4)`. Names are snake_case and are listed, with what to do,
in deploy/WATCHING.md. Lines are JSON, but on a terminal, where a person reads them. A job stands there by its short
reference, never by its id, which is a capability.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

import msgspec

A_MINUTE = 60
"""Lines of one warning that are written in a minute; the next one tells how many were left out."""
NEVER_LEFT_OUT = ("copy_unknown", "copy_not_stored")
LIBRARIES = ("aiohttp", "asyncio", "opentelemetry", "py.warnings", "urllib3", "uvicorn")
"""Told of from warnings on."""

SHORTENED = ("request_id", "trace_id")
"""Fields of which a person needs only so much as tells one line's from another's."""

context: ContextVar[Mapping[str, object]] = ContextVar("about", default=MappingProxyType({}))
"""Fields of every line that comes of what is being done, such as a request's id. What it sets going takes them along: a
job's lines name the request that started it."""

_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/@\"'<>]*@)?([^\s/?#\"'<>)\]}]*)[^\s\"'<>)\]}]*", re.IGNORECASE)
_KEY = re.compile(
    r"(?i)(\b(?:bearer|basic)\s+|whsec_"
    r"|\b(?:tempauth|sig|job|[\w-]*(?:key|token|secret|authorization))\s*[=:]\s*(?:(?:bearer|basic)\s+)?)"
    r"[^\s\"'&<>]+|(/jobs/)[^\s\"'<>/?]+"
)
_BARE = re.compile(r"[\w.:/@+-]+")


class EventLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose message is the name of an event and whose further arguments are fields."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        passed: dict[str, Any] = {"exc_info": kwargs.pop("exc_info")} if "exc_info" in kwargs else {}
        return msg, {**passed, "extra": {"fields": {**kwargs, **context.get()}}}


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, its fields, and an exception as one of them."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **record_fields(record),
        }
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """The same for a person's eyes: local time, the event, and its fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        line = record_fields(record)
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        parts = [when, f"{record.levelname.lower():<7}", str(line.pop("event"))]
        exception = line.pop("exception", None)
        for name, value in line.items():
            text = f"{value:g}" if isinstance(value, float) else str(value)
            if name in SHORTENED:
                text = text[:8]
            parts.append(f"{name}={text if _BARE.fullmatch(text) else msgspec.json.encode(text).decode()}")
        return " ".join(parts) + (f"\n{exception}" if exception is not None else "")


class RateLimitFilter(logging.Filter):
    """Lets so many lines of each warning through in a minute: a thousand jobs may have the same trouble at once.

    What is told once and of nothing else is never left out: errors, and copies that nobody watches.
    """

    def __init__(self, most: int = A_MINUTE) -> None:
        super().__init__()
        self._most = most
        self._told: dict[str, tuple[int, int]] = {}
        """By event: the minute, and how many there were in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING or record.msg in NEVER_LEFT_OUT:
            return True
        event = str(record.msg) if hasattr(record, "fields") else record.name
        now = int(record.created // 60)
        minute, count = self._told.get(event, (now, 0))
        left_out = 0
        if minute != now:
            left_out, count = max(0, count - self._most), 0
        self._told[event] = (now, count + 1)
        if count >= self._most:
            return False
        if left_out:
            record.left_out = left_out
        return True


def record_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The event and its fields. A library's own words are a field of the event `library`, URLs cut to their host."""
    fields = getattr(record, "fields", None)
    if fields is None:
        line = {"event": "library", "message": without_secrets(record.getMessage())}
    else:
        line = {"event": record.msg, **{name: value for name, value in fields.items() if value is not None}}
    if hasattr(record, "left_out"):
        line["left_out"] = record.left_out
    if record.exc_info and record.exc_info[0] is not None:
        line["exception"] = without_secrets(logging.Formatter().formatException(record.exc_info))
    return line


def without_secrets(text: str) -> str:
    """Words that nobody here chose, without what may open something: all of a URL but its host, tokens, job ids."""
    return _KEY.sub(r"\1\2…", _URL.sub(r"\1\2/…", text))


def begin(stream: TextIO | None = None) -> None:
    """Write everything that is logged in this process to a stream, stderr by default."""
    chosen = stream or sys.stderr
    handler = logging.StreamHandler(chosen)
    handler.setFormatter(TextFormatter() if chosen.isatty() else JSONFormatter())
    handler.addFilter(RateLimitFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    # What no line shows need not be found out for each: who logged it, on which thread, in which process.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - as logging's own documentation has it, under Optimization
