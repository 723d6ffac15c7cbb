"""Ids and keys that open something: made, derived and compared here."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets


def new_job_id() -> str:
    """144 random bits, URL-safe: whoever holds it may follow the job, nobody can guess it."""
    return secrets.token_urlsafe(18)


def new_callback_id() -> str:
    return secrets.token_urlsafe(18)


def job_key(secret: bytes, job_id: str) -> str:
    """What changing a job takes. Derived from the store's secret: it can be shown again and need not be kept."""
    return base64.urlsafe_b64encode(_mac(secret, b"jobKey", job_id.encode())).rstrip(b"=").decode()


def idempotency_id(secret: bytes, authorization: str, key: str) -> bytes:
    """Under what an idempotency key is kept: it belongs to its caller, and no token can be read from it."""
    return _mac(secret, b"idempotency", authorization.encode(), key.encode())


def fingerprint(*parts: bytes) -> bytes:
    """Tells one request from another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def bearer(authorization: str | None) -> str | None:
    scheme, _, value = (authorization or "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


def hashed(key: str) -> bytes:
    """How a key of full strength is kept when it only has to be recognised."""
    return hashlib.sha256(key.encode()).digest()


def recognised(given: str | None, *wanted: bytes | None) -> bool:
    """Whether a key has one of the hashes, compared in constant time."""
    mark = hashed(given or "")
    opened = False
    for hash_ in wanted:
        opened |= given is not None and hmac.compare_digest(mark, hash_ or b"")
    return opened


def _mac(secret: bytes, *parts: bytes) -> bytes:
    return hmac.digest(secret, b"".join(len(part).to_bytes(8, "big") + part for part in parts), "sha256")
