"""Ids and words that no store can hold are unknown, whatever the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.support.fake_upstream import faking
from tests.support.harness import OPERATOR, Running, events, serving

NUL = "a%00b"


async def answer(gateway: Running, method: str, path: str) -> tuple[int, Any]:
    url = URL(gateway.url + path, encoded=True)
    async with gateway.session.request(method, url, headers=OPERATOR) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_a_nul_is_in_no_id(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """PostgreSQL takes none in a text; neither the routes of jobs nor those of callbacks ask it for one."""
    values = {"store_url": request.getfixturevalue("database_url")} if store == "postgresql" else {}
    async with faking() as upstream, serving(upstream.url, tmp_path, **values) as gateway:
        job = (await gateway.copy())["jobId"]
        for method, path in (
            ("GET", f"/jobs/{NUL}"),
            ("GET", f"/jobs/{NUL}/events"),
            ("GET", f"/events?job={NUL}"),
            ("DELETE", f"/jobs/{NUL}"),
            ("GET", f"/jobs/{NUL}/callbacks"),
        ):
            status, body = await answer(gateway, method, path)
            assert (status, body["error"]["code"]) == (404, "jobNotFound"), path
        for method, path in (("DELETE", NUL), ("POST", f"{NUL}/retry")):
            status, body = await answer(gateway, method, f"/jobs/{job}/callbacks/{path}")
            assert (status, body["error"]["code"]) == (404, "callbackNotFound"), path
        assert await answer(gateway, "GET", f"/jobs?status={NUL}") == (200, {"value": []})
        url = URL(f"{gateway.url}/events?job={job}&job={NUL}", encoded=True)
        async with gateway.session.get(url, timeout=aiohttp.ClientTimeout(total=10)) as response:
            assert response.status == 200
            async for event in events(response):
                assert event.name == "gone"
                assert event.data == {"jobId": "a\0b"}
                break
