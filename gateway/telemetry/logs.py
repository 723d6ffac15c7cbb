"""Log events: one event per line, with a name and fields.

`log.warning("poll_failing", job=reference(job.id), troubles=4)`. Names are snake_case; deploy/WATCHING.md lists them
with the actions to take. Lines are JSON, except on a terminal, where they are plain text. A job is named by its short
reference, never by its id, which is a capability.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

import msgspec

A_MINUTE = 60
"""Most lines of one warning per minute; the first line of a later minute reports how many were suppressed."""
NEVER_SUPPRESSED = ("copy_unknown", "copy_not_stored")
LIBRARIES = ("aiohttp", "asyncio", "opentelemetry", "py.warnings", "urllib3", "uvicorn")
"""Loggers of which only warnings and errors are written."""

SHORTENED = ("request_id", "trace_id")
"""Fields that the text format cuts to 8 characters, which are enough to tell lines apart."""

context: ContextVar[Mapping[str, object]] = ContextVar("context", default=MappingProxyType({}))
"""Fields of every line written in the current context, such as a request's id. Tasks inherit them from the context that
starts them: a job's lines name the request that started the job."""

_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/@\"'<>]*@)?([^\s/?#\"'<>)\]}]*)[^\s\"'<>)\]}]*", re.IGNORECASE)
_KEY = re.compile(
    r"(?i)(\b(?:bearer|basic)\s+|whsec_"
    r"|\b(?:tempauth|sig|job|[\w-]*(?:key|token|secret|authorization))\s*[=:]\s*(?:(?:bearer|basic)\s+)?)"
    r"[^\s\"'&<>]+|(/jobs/)[^\s\"'<>/?]+"
)
_BARE = re.compile(r"[\w.:/@+-]+")


class EventLog:
    """A logger whose message is the name of an event and whose keyword arguments are its fields.

    It makes the record itself: an adapter of logging costs as much as a line's format.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the exception that is being handled."""
        self._log(logging.ERROR, event, fields, sys.exc_info())

    def _log(self, level: int, event: str, fields: Mapping[str, Any], error: Any = None) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            record = logging.LogRecord(logger.name, level, "", 0, event, None, error)
            record.fields = {**fields, **context.get()}
            logger.handle(record)


class JSONFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, event, the event's fields, and `exception` if there is one."""

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
    """Plain text for a terminal: local time, level, event, and its fields as `name=value`."""

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
    """A rate limit of `most` lines per minute for each warning: a thousand jobs may have the same trouble at once.

    Errors, and warnings about copies that nobody watches, are never suppressed: each is reported once.
    """

    def __init__(self, most: int = A_MINUTE) -> None:
        super().__init__()
        self._most = most
        self._counts: dict[str, tuple[int, int]] = {}
        """By event: the minute, and the number of its lines in that minute."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING or record.msg in NEVER_SUPPRESSED:
            return True
        event = str(record.msg) if hasattr(record, "fields") else record.name
        now = int(record.created // 60)
        minute, count = self._counts.get(event, (now, 0))
        suppressed = 0
        if minute != now:
            suppressed, count = max(0, count - self._most), 0
        self._counts[event] = (now, count + 1)
        if count >= self._most:
            return False
        if suppressed:
            record.left_out = suppressed
        return True


def record_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The event and its fields. A library's message is a field of the event `library`, without secrets."""
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
    """A text of a library without secrets: URLs are cut to scheme and host; tokens and job ids are removed."""
    return _KEY.sub(r"\1\2…", _URL.sub(r"\1\2/…", text))


def set_level(name: str) -> None:
    """Write lines of this level and above: debug, info, warning or error."""
    logging.getLogger().setLevel(name.upper())


def begin(stream: TextIO | None = None) -> None:
    """Write all log lines of this process to a stream, stderr by default."""
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
    # No line shows its caller, thread or process, so logging need not determine them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - documented by logging, under Optimization
