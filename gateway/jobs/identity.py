"""The gateway's own identity at upstream: app-only tokens of azure-identity, from the extra `identity`.

The credential is the one that the environment has, in azure-identity's own order: a service principal's, a workload's,
a managed identity. Those of a developer's machine are left out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from gateway.telemetry.logs import EventLog

EARLY = 300.0
"""Seconds before its end from which a token is renewed; while that fails, it is used until its end."""
AGAIN = 30.0
"""Seconds between attempts to get a token."""
PATIENCE = 20.0
"""Seconds that one attempt may take: some credentials are found to be absent only by waiting."""
_OF_DEVELOPERS = ("cli", "developer_cli", "powershell", "shared_token_cache", "visual_studio_code")

log = EventLog("gateway.identity")


class NoToken(Exception):
    """The identity has no token now."""


class Identity:
    """One token for all jobs. `credential` is azure-identity's."""

    def __init__(self, credential: Any, scope: str) -> None:
        self._credential = credential
        self._scope = scope
        self._now = asyncio.get_running_loop().time  # a wall clock that is set must not make a token last
        self._lock = anyio.Lock()
        self._token = ""
        self._refused = ""
        """The token that upstream refused: for one job, which is no reason to keep it from the others."""
        self._ends = 0.0
        self._next = 0.0
        """From when another token may be asked for."""

    @classmethod
    @asynccontextmanager
    async def open(cls, origin: str) -> AsyncIterator[Identity]:
        """For the upstream of an origin."""
        from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - an extra that need not be installed

        left_out = {f"exclude_{name}_credential": True for name in _OF_DEVELOPERS}
        async with DefaultAzureCredential(**left_out) as credential:
            yield cls(credential, f"{origin}/.default")

    async def authorization(self) -> str:
        """The value of `Authorization`, which may have been refused. Raises NoToken."""
        if self._is_due() or (self._lock.locked() and not self._lasts):
            async with self._lock:  # all jobs wait for one attempt
                if self._is_due():
                    await self._renew()
        if not self._lasts:
            raise NoToken
        return f"Bearer {self._token}"

    def refused(self, authorization: str) -> None:
        """Upstream took this one for no token: another is asked for, at most one every `AGAIN` seconds."""
        self._refused = authorization.removeprefix("Bearer ")

    @property
    def _lasts(self) -> bool:
        return self._now() < self._ends

    def _is_due(self) -> bool:
        now = self._now()
        return now >= self._next and (now >= self._ends - EARLY or self._token == self._refused)

    async def _renew(self) -> None:
        self._next = self._now() + AGAIN
        try:
            with anyio.fail_after(PATIENCE):
                found = await self._credential.get_token(self._scope)
        except Exception as error:  # noqa: BLE001 - of many libraries; its text may hold what is secret
            log.warning("identity_failed", error=type(error).__name__)
            return
        except asyncio.CancelledError:  # the job for which it was asked has ended: the next one asks
            self._next = 0.0
            raise
        seconds = found.expires_on - time.time()
        self._token, self._ends = found.token, self._now() + seconds
        log.info("identity_renewed", seconds=round(seconds))
