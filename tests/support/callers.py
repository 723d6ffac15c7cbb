"""What a caller of a gateway process asks about callbacks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio

from tests.support.harness import FOLDER, OPERATOR, TOKEN, Process


class Caller:
    """Asks one gateway, also after it was started again."""

    def __init__(self, gateway: Process, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.session = session

    async def copy(self, url: str | None = None, events: str = "completed, failed") -> dict[str, Any]:
        """Start a copy, with a callback when it has a URL; the 202's body."""
        headers = dict(TOKEN)
        if url is not None:
            headers |= {"Gateway-Callback-Url": url, "Gateway-Callback-Events": events}
        asked = self.session.post(f"{self.gateway.url}{FOLDER}/copy", json={"name": "x"}, headers=headers)
        return await _answer(asked, 202)

    async def register(self, job: dict[str, Any], **wish: Any) -> dict[str, Any]:
        """The 201's body."""
        return await _answer(self.session.post(self._callbacks(job), json=wish, headers=_key(job)), 201)

    async def callbacks(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        listed = await _answer(self.session.get(self._callbacks(job), headers=_key(job)), 200)
        value: list[dict[str, Any]] = listed["value"]
        return value

    async def failing(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job's first callback whose last attempt failed, once there is one."""
        while True:
            for callback in await self.callbacks(job):
                if "lastError" in callback:
                    return callback
            await anyio.sleep(0.02)

    async def all_settled(self) -> None:
        """No callback of the gateway has anything left to tell."""
        while True:
            async with self.session.get(f"{self.gateway.url}/metrics", headers=OPERATOR) as response:
                if "\ngateway_callbacks_active 0.0\n" in await response.text():
                    return
            await anyio.sleep(0.05)

    async def draining(self) -> None:
        """The gateway has taken in that it is to end."""
        while True:
            async with self.session.get(f"{self.gateway.url}/readyz") as response:
                if response.status == 503:
                    return

    def _callbacks(self, job: dict[str, Any]) -> str:
        return f"{self.gateway.url}/jobs/{job['jobId']}/callbacks"


@asynccontextmanager
async def calling(gateway: Process) -> AsyncIterator[Caller]:
    """The gateway, started, and a caller of it."""
    connector = aiohttp.TCPConnector(limit=32, force_close=True)
    timeout = aiohttp.ClientTimeout(total=60)
    async with gateway, aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Caller(gateway, session)


def _key(job: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {job['jobKey']}"}


async def _answer(asked: Any, status: int) -> dict[str, Any]:
    async with asked as response:
        assert response.status == status, await response.text()
        body: dict[str, Any] = await response.json()
        return body
