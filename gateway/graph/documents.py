"""Upstream's bodies as JSON objects, and the texts in them as they may be shown.

A body is UTF-8 as RFC 8259 demands, else UTF-16 or UTF-32, else what its `Content-Type` names, else UTF-8 with the
broken bytes replaced: they cost a text, not the whole response. Texts are truncated, their control characters, also
those of direction, are replaced, and a text that would disclose the monitor URL is dropped.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from gateway.outbound.reply import Reply

TEXT_LIMIT = 1024
WORD_LIMIT = 64

LARGEST_CODE = 10**WORD_LIMIT

Urls = Sequence[str]
"""The URLs of a job's monitor: its own first, then those that its redirects led to. All are credentials."""

BROKEN = "\ufffd"
"""Stands for a character that cannot be read or shown."""
_CONTROLS = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Controls of the direction of text: they turn the words around them, so that `.exe` reads as `.jpg`."""

_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([\w.:+-]+)""", re.IGNORECASE | re.ASCII)
# Python's other codecs are no character sets (unicode_escape), or take quadratic time (idna).
_CODEC = re.compile(r"utf-\d+(-[bl]e)?|iso8859-\d+|cp\d+|koi8-[rtu]|big5|gb\w+|euc_\w+|shift_jis|ascii")


def document(reply: Reply) -> dict[str, Any]:
    """The JSON object in a body; an empty one when there is none."""
    try:
        found = msgspec.json.decode(reply.body.removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = _lenient(_characters(reply))
    return found if isinstance(found, dict) else {}


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text holds; None for any other text."""
    found = _lenient(text) if text.lstrip().startswith("{") else None
    return found if isinstance(found, dict) else None


def text(value: object, limit: int, urls: Urls) -> str | None:
    """A string as it may be shown; None for an empty one, for one that discloses a URL, and for other types."""
    if not isinstance(value, str) or not value:
        return None
    # Unquoting a megabyte takes a second. Of what is cut off, as much is unquoted as a URL needs that begins before:
    # escaped twice, it has 9 times its length.
    unquoted = value if len(value) <= limit else value[: limit + 9 * max(map(len, urls))]
    if _discloses(value, unquoted, urls):
        return None
    cut = value[:limit]
    if cut.isascii() and cut.isprintable():
        return cut
    shown = "".join(BROKEN if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in cut)
    return _CONTROLS.sub(BROKEN, shown)


def word(value: object, urls: Urls) -> str | None:
    """As `text`, for a code, which may be a number; at most `WORD_LIMIT` characters."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_CODE:
        value = str(int(value) if value == int(value) else value)
    return text(value, WORD_LIMIT, urls)


def identity(value: object, urls: Urls) -> str | None:
    """As `text`, for an id; one that is percent-encoded is decoded, since paths encode it again."""
    if isinstance(value, str) and "%" in value:
        with suppress(UnicodeDecodeError):
            value = unquote(value[: 3 * TEXT_LIMIT], errors="strict")
    return text(value, TEXT_LIMIT, urls)


def _lenient(characters: str) -> object:
    """The JSON in a text; None when there is none.

    The standard library's parser accepts NaN, which msgspec rejects and some serialisers write, and raw control
    characters in a string. With it, each costs one member and not the whole response.
    """
    try:
        return json.loads(characters, strict=False)
    except (ValueError, RecursionError):
        return None


def _characters(reply: Reply) -> str:
    encoding = json.detect_encoding(reply.body)
    if not encoding.startswith("utf-8"):
        return reply.body.decode(encoding, "replace")
    named = _CHARSET.search(reply.headers.get("Content-Type", ""))
    try:
        codec = codecs.lookup(named[1]).name if named else encoding
    except LookupError:
        codec = encoding
    if _CODEC.fullmatch(codec) is None or codec.startswith(("utf-16", "utf-32")):
        codec = encoding
    return reply.body.decode(codec, "replace")


def _discloses(shown: str, unquoted: str, urls: Urls) -> bool:
    if not ("/" in shown or "=" in shown or "%" in shown):
        return False
    forms = [shown.lower()]
    if "%" in unquoted:
        once = unquote(unquoted)
        forms += [once.lower(), unquote(once).lower()]
    return any("tempauth=" in form or "sig=" in form for form in forms) or any(
        secret in form for secret in _secrets(urls) for form in forms
    )


def _secrets(urls: Urls) -> list[str]:
    """The parts of a monitor's URLs that no text may hold, in lower case, as they are and unquoted."""
    secrets = []
    for url in urls:
        parts = urlsplit(url)
        tail = parts.path + (f"?{parts.query}" if parts.query else "")
        secrets.append(parts.netloc + parts.path)
        if len(tail) >= 16:  # a short path such as /m/1 is no secret, and many strings contain it
            secrets.append(tail)
    return [form.lower() for secret in secrets for form in ({secret, unquote(secret)} if "%" in secret else (secret,))]
