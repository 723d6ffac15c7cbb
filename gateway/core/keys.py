"""Ids, keys and signatures: how they are created, derived and compared.

A callback is signed as the Standard Webhooks specification defines (symmetric, `v1`): HMAC-SHA256 over
`id.timestamp.body` under a shared secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from itertools import pairwise

SHORTEST_KEY = 16
"""Characters that a key of the settings has at least."""
PLACEHOLDERS = ("CHANGE-ME-CHANGE-ME",)
"""The keys that deploy/ shows in the place of real ones. Everybody knows them."""
_WHSEC = "whsec_"
_SHORTEST_SECRET, _LONGEST_SECRET = 24, 64  # bytes


def key_list(setting: str | None) -> tuple[str, ...]:
    """The keys of a setting: one, or several with a comma between them while it is changed; none without a value.

    Raises ValueError for a key that is empty or has a space at a comma.
    """
    if setting is None:
        return ()
    keys = tuple(setting.split(","))
    if not all(keys) or any(one[-1].isspace() or other[0].isspace() for one, other in pairwise(keys)):
        raise ValueError("must be one key, or several with nothing but a comma between them, such as new,old")
    return keys


def is_weak(key: str) -> bool:
    """Whether a key of the settings is easily guessed: too short, or a placeholder."""
    return len(key) < SHORTEST_KEY or key.strip().upper() in PLACEHOLDERS


def new_job_id() -> str:
    """144 random bits, URL-safe. The id is a capability: it grants reading the job and cannot be guessed."""
    return _new_id()


def new_callback_id() -> str:
    return _new_id()


def job_key(secret: bytes, job_id: str) -> str:
    """The key that changes to a job require. It is derived from the store's secret and need not be stored."""
    return base64.urlsafe_b64encode(_mac(secret, b"jobKey", job_id.encode())).rstrip(b"=").decode()


def idempotency_id(secret: bytes, authorization: str, key: str) -> bytes:
    """The stored form of an idempotency key: bound to its caller, and not revealing the caller's token."""
    return _mac(secret, b"idempotency", authorization.encode(), key.encode())


def host_mark(secret: bytes, host: str) -> str:
    """How the store tells the monitors of one host from others, without its name."""
    return _mac(secret, b"host", host.encode()).hex()[:16]


def fingerprint(*parts: bytes) -> bytes:
    """SHA-256 of the parts of a request, to tell requests apart."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def bearer(authorization: str | None) -> str | None:
    """The token of a `Bearer` Authorization header, None for any other header."""
    scheme, _, value = (authorization or "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


def hashed(key: str) -> bytes:
    """The stored form of a key with full entropy that only has to be recognised."""
    return hashlib.sha256(key.encode()).digest()


def recognised(given: str | None, *wanted: bytes | None) -> bool:
    """Whether a key has one of the `wanted` hashes, compared in constant time."""
    digest = hashed(given or "")
    matches = False
    for hash_ in wanted:
        matches |= given is not None and hmac.compare_digest(digest, hash_ or b"")
    return matches


def new_webhook_secret() -> str:
    return _WHSEC + base64.b64encode(secrets.token_bytes(32)).decode()


def is_webhook_secret(text: str) -> bool:
    """Whether a string is `whsec_` and 24 to 64 bytes in base64."""
    if not text.startswith(_WHSEC) or not text.isascii():
        return False
    try:
        return _SHORTEST_SECRET <= len(_signing_key(text)) <= _LONGEST_SECRET
    except binascii.Error:
        return False


def webhook_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three Standard Webhooks headers of one attempt; `timestamp` is in seconds since 1970."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": webhook_signature(secret, message_id, str(timestamp), body),
    }


def webhook_signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    signed = b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), body)
    return "v1," + base64.b64encode(hmac.digest(_signing_key(secret), signed, "sha256")).decode()


def _new_id() -> str:
    """A random id. It begins with a letter or a digit: commands take what begins with a dash for an option."""
    while not (found := secrets.token_urlsafe(18))[0].isalnum():
        pass
    return found


def _mac(secret: bytes, *parts: bytes) -> bytes:
    return hmac.digest(secret, b"".join(len(part).to_bytes(8, "big") + part for part in parts), "sha256")


def _signing_key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_WHSEC), validate=True)
