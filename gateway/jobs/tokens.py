"""The tokens under which operations are asked for their status: in memory only, each for one job."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

import msgspec

from gateway.core.errors import invalid

UNTOLD = 3600.0
"""Seconds for which a token is kept that does not say when it ends; those of Graph last for 60 to 90 minutes."""
LONGEST = 64 << 10
"""Most characters of a token that is handed in."""
_TOKEN = re.compile(r"[!-~]+")


class _Claims(msgspec.Struct, frozen=True):
    exp: float | None = None


_read_claims = msgspec.json.Decoder(_Claims).decode


class Token:
    """A caller's `Authorization`, for one job. It is not shown when it is printed."""

    __slots__ = ("_ends", "authorization")

    def __init__(self, authorization: str, seconds: float) -> None:
        """It lasts for `seconds` from now on."""
        self.authorization = authorization
        self._ends = asyncio.get_running_loop().time() + seconds

    @property
    def lasts(self) -> bool:
        return asyncio.get_running_loop().time() < self._ends


def token_of(authorization: str, now: float) -> Token | None:
    """The token in the `Authorization` of a start; None without one. `now` in seconds since 1970."""
    return Token(authorization, seconds_left(authorization, now)) if authorization else None


def handed_in(body: dict[str, Any], now: float) -> Token:
    """The token that a caller hands in, with or without its scheme. Raises GatewayError, which does not hold it."""
    given = body.get("token")
    token = given.removeprefix("Bearer ").strip() if isinstance(given, str) else ""
    if len(token) > LONGEST or not _TOKEN.fullmatch(token):
        raise invalid(f"token must be a text of 1 to {LONGEST} visible ASCII characters: an access token for upstream.")
    seconds = seconds_left(token, now)
    if seconds <= 0:
        raise invalid("token has ended: its exp is in the past. Get a fresh one.")
    return Token(f"Bearer {token}", seconds)


def seconds_left(authorization: str, now: float) -> float:
    """Seconds until a token ends, by the `exp` of a JWT; `UNTOLD` for one that does not say."""
    parts = authorization.rpartition(" ")[2].split(".")
    if len(parts) != 3:
        return UNTOLD
    try:
        ends = _read_claims(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))).exp
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return UNTOLD
    return UNTOLD if ends is None else ends - now
