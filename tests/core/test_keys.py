"""Ids and keys."""

from __future__ import annotations

import re

import pytest

from gateway.core.keys import bearer, fingerprint, hashed, idempotency_id, job_key, new_job_id, recognised

SECRET = b"s" * 32


def test_job_ids_are_url_safe_and_long_enough() -> None:
    """At least 128 random bits."""
    ids = {new_job_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{21,}", job_id) for job_id in ids)


def test_a_job_key_belongs_to_one_job_and_one_store() -> None:
    """It can be derived again, and differs by job and by store."""
    assert job_key(SECRET, "a") == job_key(SECRET, "a")
    assert len({job_key(SECRET, "a"), job_key(SECRET, "b"), job_key(b"t" * 32, "a")}) == 3


def test_an_idempotency_key_belongs_to_its_caller() -> None:
    """The same key under another token is another key, and boundaries cannot be moved."""
    assert idempotency_id(SECRET, "Bearer a", "k") != idempotency_id(SECRET, "Bearer b", "k")
    assert idempotency_id(SECRET, "Bearer a", "bk") != idempotency_id(SECRET, "Bearer ab", "k")
    assert fingerprint(b"a", b"bc") != fingerprint(b"ab", b"c")


@pytest.mark.parametrize(
    ("header", "value"),
    [("Bearer x", "x"), ("bearer  x ", "x"), ("Basic x", None), ("Bearer ", None), ("", None), (None, None)],
)
def test_bearer(header: str | None, value: str | None) -> None:
    """Only the Bearer scheme counts, in any case."""
    assert bearer(header) == value


def test_recognising_a_key() -> None:
    """One of the hashes must be the key's; none set opens nothing."""
    assert recognised("k", None, hashed("k"))
    assert not recognised("k", hashed("x"), None)
    assert not recognised(None, hashed(""))
    assert not recognised("", None)
