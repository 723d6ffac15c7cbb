"""Signatures as Standard Webhooks say: HMAC-SHA256 over `id.timestamp.body`, under a secret that both ends know.

Source: the Standard Webhooks specification, symmetric signatures (`v1`).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes of a secret."""


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def is_secret(text: str) -> bool:
    """Whether it is `whsec_` and 24 to 64 bytes in base64."""
    if not text.startswith(PREFIX) or not text.isascii():
        return False
    try:
        return SHORTEST <= len(_key(text)) <= LONGEST
    except binascii.Error:
        return False


def headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt; `timestamp` is in seconds since 1970."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, message_id, str(timestamp), body),
    }


def signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    signed = b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), body)
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, "sha256")).decode()


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
