"""Upstream's bodies in the character sets that they come in."""

from __future__ import annotations

import codecs
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.graph.documents import document
from gateway.outbound.reply import Reply

TEXT = '{"status":"failed","statusDescription":"Größe überschritten"}'
READ = {"status": "failed", "statusDescription": "Größe überschritten"}
LOST = {"status": "failed", "statusDescription": "Gr\ufffd\ufffde \ufffdberschritten"}


def read(body: bytes, content_type: str | None) -> dict[str, Any]:
    return document(Reply(200, CIMultiDict({} if content_type is None else {"Content-Type": content_type}), body))


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "text/plain",
        'application/json;odata=verbose;charset="utf-8"',
        "application/json; charset=nonsense",
        "application/json; charset=iso-8859-1",
        "application/json; charset=utf-16",
        "application/json; charset=",
        "application/json; charset=idna",
    ],
)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_utf_8_is_read_whatever_is_named(content_type: str | None, mark: bytes) -> None:
    """JSON is UTF-8; a body that is valid as such is not anything else by chance."""
    assert read(mark + TEXT.encode(), content_type) == READ


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("named", [None, "application/json; charset=utf-16", "application/json; charset=utf-8"])
def test_wide_characters_are_known_by_their_bytes(encoding: str, named: str | None) -> None:
    """With and without a byte order mark, named and not."""
    assert read(TEXT.encode(encoding), named) == READ


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("latin-1", "application/json; charset=ISO-8859-1"),
        ("latin-1", "application/json; charset='latin1'"),
        ("latin-1", 'application/json;CHARSET="iso-8859-1"; x=y'),
        ("cp1252", "text/json;charset=windows-1252"),
        ("cp850", "text/json;charset=cp850"),
    ],
)
def test_another_charset_is_read_when_it_is_named(encoding: str, named: str) -> None:
    """In any spelling of its name and of the parameter."""
    assert read(TEXT.encode(encoding), named) == READ


@pytest.mark.parametrize(
    "named",
    [
        None,
        "application/json",
        "application/json; charset=utf-8",
        "application/json; charset=nonsense",
        "application/json; charset=unicode_escape",
        "application/json; charset=idna",
        "application/json; charset=utf-16",
        "application/json; charset=rot13",
    ],
)
def test_broken_bytes_cost_their_text_alone(named: str | None) -> None:
    """What is no UTF-8 and in no charset that is named is replaced, and the status is read all the same."""
    assert read(TEXT.encode("latin-1"), named) == LOST


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        codecs.BOM_UTF8,
        b"\x00" * 8,
        TEXT.encode("utf-16")[:31],
        b'{"status":"failed',
        b"[" * 100_000,
        b"[1]",
        b"\xff" * 9,
    ],
)
def test_what_is_no_object_is_an_empty_one(body: bytes) -> None:
    """Empty, cut, too deep, a list, no text at all."""
    for named in (None, "a/b; charset=utf-16", "a/b; charset=latin-1"):
        assert read(body, named) == {}


def test_a_string_may_hold_raw_control_characters() -> None:
    """Serialisers that forget to escape them cost nothing but themselves."""
    assert read(b'{"status":"failed","statusDescription":"a\nb\x01"}', None)["status"] == "failed"
