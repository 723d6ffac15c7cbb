"""Bodies that are compressed though nobody asked for it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from gateway.outbound.decoding import Undecodable, decoded

zipped = partial(gzip.compress, mtime=0)
"""Without the time of day, which would differ between the processes that collect the tests."""

TEXT = b'{"status":"completed","resourceId":"01"}'
LIMIT = 1 << 20


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ([], TEXT),
        (["identity"], TEXT),
        (["gzip"], zipped(TEXT)),
        (["x-gzip"], zipped(TEXT)),
        ([" GZip "], zipped(TEXT)),
        (["identity, gzip"], zipped(TEXT)),
        (["gzip", "identity"], zipped(TEXT)),
        (["gzip"], TEXT),
        (["gzip"], zipped(TEXT) + bytes(512)),
        (["gzip,"], zipped(TEXT)),
        (["gzip"], zipped(TEXT[:10]) + zipped(TEXT[10:])),
        (["gzip"], zipped(TEXT) + zipped(b"")),
        (["deflate"], zlib.compress(TEXT)),
        (["Deflate"], zlib.compress(TEXT, 9)),
        (["deflate"], raw_deflate(TEXT)),
    ],
)
def test_what_is_read(lines: Sequence[str], body: bytes) -> None:
    """gzip, and deflate with and without zlib's head, however the header is written."""
    assert decoded(body, lines, LIMIT) == TEXT


@pytest.mark.parametrize("lines", [["gzip"], ["deflate"], ["br"], ["gzip, gzip"]])
def test_no_body(lines: Sequence[str]) -> None:
    """Nothing is nothing, whatever it is compressed with."""
    assert decoded(b"", lines, LIMIT) == b""


@pytest.mark.parametrize(
    ("lines", "body", "why"),
    [
        (["br"], b"\x0b\x02\x80", "a way that is not read"),
        (["zstd"], b"(\xb5/\xfd", "a way that is not read"),
        (["compress"], b"\x1f\x9d", "a way that is not read"),
        (["gzip, gzip"], zipped(zipped(TEXT)), "a way that is not read"),
        (["gzip", "gzip"], zipped(zipped(TEXT)), "a way that is not read"),
        (["deflate, gzip"], zipped(zlib.compress(TEXT)), "a way that is not read"),
        (["gzip"], zipped(TEXT)[:-1], "broken"),
        (["gzip"], zipped(TEXT)[:-8] + bytes(8), "broken"),
        (["gzip"], zipped(TEXT) + b"more", "broken"),
        (["gzip"], b"\x1f\x8b", "broken"),
        (["deflate"], TEXT, "broken"),
        (["deflate"], zlib.compress(TEXT)[:-1], "broken"),
        (["deflate"], zlib.compress(TEXT) + b"more", "broken"),
        (["deflate"], raw_deflate(TEXT)[:-1], "broken"),
        (["deflate"], zipped(TEXT), "broken"),
    ],
)
def test_what_is_not_read(lines: Sequence[str], body: bytes, why: str) -> None:
    """Other codings, several of them, and streams that break off, are damaged or have something behind them."""
    with pytest.raises(Undecodable, match=why):
        decoded(body, lines, LIMIT)


@pytest.mark.parametrize("compress", [zipped, zlib.compress, raw_deflate])
def test_the_limit(compress: Callable[[bytes], bytes]) -> None:
    """It counts what comes out: a bomb is left as soon as it is over, whatever it is made of."""
    coding = "gzip" if compress is zipped else "deflate"
    assert decoded(compress(bytes(LIMIT)), [coding], LIMIT) == bytes(LIMIT)
    for bomb in (bytes(LIMIT + 1), bytes(64 << 20)):
        with pytest.raises(Undecodable, match="too long"):
            decoded(compress(bomb), [coding], LIMIT)


def test_a_bomb_of_many_members() -> None:
    """Each within the limit."""
    with pytest.raises(Undecodable, match="too long"):
        decoded(zipped(bytes(LIMIT // 2)) * 10, ["gzip"], LIMIT)


def test_many_members_of_nothing() -> None:
    """Few are read, since each costs a copy of the rest."""
    assert decoded(zipped(b"") * 16, ["gzip"], LIMIT) == b""
    with pytest.raises(Undecodable, match="broken"):
        decoded(zipped(b"") * 17, ["gzip"], LIMIT)
