"""The tokens under which operations are asked for their status: in memory only, each for one job."""

from __future__ import annotations

import asyncio
import base64
import re
from contextlib import suppress
from typing import Any

import msgspec

from gateway.core.errors import invalid
from gateway.jobs.identity import Identity, NoToken

UNTOLD = 3600.0
"""Seconds for which a token is kept that does not say when it ends; those of Graph last for 60 to 90 minutes."""
LONGEST = 64 << 10
"""Most characters of a token that is handed in."""
_TOKEN = re.compile(r"[!-~]+")
_SCHEME = re.compile(r"^Bearer ", re.IGNORECASE)


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


class Credentials:
    """What one job's status is asked for under: its own token while that lasts, then the gateway's identity, if any."""

    __slots__ = ("_identity", "_refused", "_token")

    def __init__(self, token: Token | None, identity: Identity | None) -> None:
        self._token = token
        self._identity = identity
        self._refused: str | None = None
        """That of the identity which upstream refused for this job just now."""

    @property
    def has_token(self) -> bool:
        return self._token is not None and self._token.lasts

    async def authorization(self) -> str | None:
        """The value of `Authorization`; None without a token, and once for one of the identity's that was refused."""
        if self._token is not None and self._token.lasts:
            return self._token.authorization
        self._token = None
        refused, self._refused = self._refused, None
        if self._identity is not None:
            with suppress(NoToken):
                authorization = await self._identity.authorization()
                return None if authorization == refused else authorization
        return None

    def refused(self, authorization: str) -> None:
        """Upstream answered 401 under this one."""
        if self._token is None and self._identity is not None:
            self._refused = authorization
            self._identity.refused(authorization)
        self._token = None


def token_of(authorization: str, now: float) -> Token | None:
    """The token in the `Authorization` of a start; None without one. `now` in seconds since 1970."""
    return Token(authorization, seconds_left(authorization, now)) if authorization else None


def handed_in(body: dict[str, Any], now: float) -> Token:
    """The token that a caller hands in, with or without its scheme. Raises GatewayError, which does not hold it."""
    given = body.get("token")
    token = _SCHEME.sub("", given).strip() if isinstance(given, str) else ""
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
