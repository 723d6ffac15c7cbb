"""What is wrong with a setting's value, and what would be right, in words that give no secret away."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, get_origin
from urllib.parse import parse_qs, urlsplit

from pydantic.fields import FieldInfo

from gateway.core.addresses import split

POSTGRES = ("postgresql://", "postgres://")
UNIT = "of seconds"
"""Marks, in a field's metadata, a number that has it."""
MAKE_A_KEY = "at least 16 characters, such as openssl rand -hex 16 makes"

_HIDDEN = "<not shown: it may hold a secret>"
_LONGEST_SHOWN = 100
_SECRET = re.compile(r"@|passw|secret|token|key=", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_DATABASE_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(:(?P<port>[0-9]*))?")
_DATABASE_URL = (
    "postgresql://user:password@host:5432/database; in a password, / is %2F, # is %23, ? is %3F and % is %25"
)
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def told(problem: Mapping[str, Any], field: FieldInfo) -> str:
    """One of pydantic's errors: what would be right, and what is there."""
    message = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else f"must be {_wanted(field)}"
    if get_origin(field.annotation) is tuple or message.endswith(MAKE_A_KEY):  # its wrong parts are named; it is secret
        return message
    return f"{message} (it is {shown(problem['input'])})"


def shown(value: object) -> str:
    """A value as it was given, unless it may hold a secret: a URL with user info holds a password."""
    text = str(value)
    if _SECRET.search(text):
        return _HIDDEN
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")


def each(values: tuple[str, ...], parse: Callable[[str], object], wanted: str) -> tuple[str, ...]:
    """The values, all of which can be parsed. Raises ValueError that names those which cannot."""
    wrong = [shown(value) for value in values if not _parses(value, parse)]
    if wrong:
        raise ValueError(f"each must be {wanted}; what is not: {', '.join(wrong)}")
    return values


def origin(text: str) -> str:
    """An origin of browsers, or `*`. Raises ValueError."""
    parts = split(text)
    if text != "*" and (parts is None or text != f"{parts.scheme}://{parts.netloc}" or parts.username is not None):
        raise ValueError
    return text


def place_to_listen(host: str) -> str:
    """An address or a host's name. Raises ValueError."""
    if not _HOST.fullmatch(host) and not _parses(host, ip_address):
        raise ValueError(
            "must be an address or a name of this machine, without a scheme or a port: 127.0.0.1, for example, or "
            "0.0.0.0 for every address"
        )
    return host


def database_url(url: str) -> str:
    """A PostgreSQL URL that can be read. Raises ValueError."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"cannot be read; write {_DATABASE_URL}") from None
    hosts = [_DATABASE_HOST.fullmatch(host) for host in parts.netloc.rpartition("@")[2].split(",")]
    readable = all(host and (not host["port"] or 0 < int(host["port"]) < 65536) for host in hosts)
    if not readable or parts.fragment:
        raise ValueError(f"names no host and port; write {_DATABASE_URL}")
    if not {*parse_qs(parts.query).get("sslmode", [])} <= {*_SSL_MODES}:
        raise ValueError(f"has an sslmode that is none of {', '.join(_SSL_MODES)}")
    return url


def _parses(value: str, parse: Callable[[str], object]) -> bool:
    try:
        parse(value)
    except ValueError:
        return False
    return True


def _wanted(field: FieldInfo) -> str:
    """What a setting with bounds takes."""
    bounds = {kind: getattr(one, kind) for one in field.metadata for kind in ("gt", "ge", "le") if hasattr(one, kind)}
    if not bounds:
        return MAKE_A_KEY
    number = "a whole number" if field.annotation is int else "a number"
    unit = f" {UNIT}" if UNIT in field.metadata else ""
    above = "gt" in bounds
    lowest = f"above {bounds['gt']}" if above else f"from {bounds['ge']}"
    highest = (" and up to " if above else " to ") + str(bounds["le"]) if "le" in bounds else " upwards"
    return f"{number}{unit} {lowest}{highest}, such as {field.default}"
