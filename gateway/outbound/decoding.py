"""Bodies that are compressed though `identity` was asked for."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

_GZIP, _ZLIB, _RAW = 31, zlib.MAX_WBITS, -zlib.MAX_WBITS
"""The formats, as zlib's window bits: gzip's, zlib's, and deflate without either's head, which some servers send."""
_MAGIC = b"\x1f\x8b"
"""How every gzip file begins; some servers name the coding without applying it."""
_MOST_MEMBERS = 16
"""Each costs a copy of the bytes after it: the 50,000 that fit into 1 MiB took 0.9 s."""


class Undecodable(Exception):
    """The body cannot be decoded; the text says why."""


def decoded(body: bytes, content_encoding: Sequence[str], limit: int) -> bytes:
    """A body as its `Content-Encoding` lines say: gzip, deflate, or as it is. At most `limit` bytes of it are produced.

    Raises Undecodable: another coding or several, a broken stream, or more than `limit` bytes.
    """
    codings = [name for line in content_encoding for part in line.split(",") if (name := part.strip().lower())]
    codings = [name for name in codings if name != "identity"]
    if not codings or not body:
        return body
    try:
        if codings in (["gzip"], ["x-gzip"]):
            return _members(body, limit) if body.startswith(_MAGIC) else body
        if codings == ["deflate"]:
            has_head = len(body) > 1 and body[0] & 15 == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0
            found, rest = _inflated(body, _ZLIB if has_head else _RAW, limit)
            return _alone(found, rest)
    except zlib.error:
        raise Undecodable("its compressed body is broken") from None
    raise Undecodable("compressed in a way that is not read")


def _members(body: bytes, limit: int) -> bytes:
    """All members of a gzip file, of which there is usually one."""
    found = b""
    for _ in range(_MOST_MEMBERS):
        member, body = _inflated(body, _GZIP, limit - len(found))
        found += member
        body = body.lstrip(b"\0")  # padding, which gzip ignores
        if not body:
            break
    return _alone(found, body)


def _inflated(body: bytes, wbits: int, limit: int) -> tuple[bytes, bytes]:
    """One compressed stream, and the bytes after it."""
    stream = zlib.decompressobj(wbits)
    found = stream.decompress(body, limit + 1)
    if len(found) > limit:
        raise Undecodable("too long once decompressed")
    if not stream.eof:
        raise Undecodable("its compressed body is broken")
    return found, stream.unused_data


def _alone(found: bytes, rest: bytes) -> bytes:
    if rest:
        raise Undecodable("its compressed body is broken")
    return found
