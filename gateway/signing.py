"""Signatures as Standard Webhooks define them: HMAC-SHA256 over `id.timestamp.body`, under a secret `whsec_…`.

Source: the Standard Webhooks specification, symmetric signatures (`v1`).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes a secret may have."""


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def key_of(secret: str) -> bytes:
    """The bytes of a secret. Raises ValueError when it is not one."""
    if not secret.startswith(PREFIX):
        raise ValueError(f"it must begin with {PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"what follows {PREFIX} must be base64") from None
    if not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"it must hold {SHORTEST} to {LONGEST} bytes, and holds {len(key)}")
    return key


def headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of an attempt made at `timestamp`, in whole seconds since 1970."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digest = hmac.digest(key_of(secret), signed, "sha256")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }
