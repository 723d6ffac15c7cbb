"""Clients that leave in the middle of a request's body."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.fake_upstream import faking
from tests.support.harness import COPY_BODY, OPERATOR, TOKEN, Running, serving
from tests.support.scraping import scraped, series

BODY = json.dumps(COPY_BODY).encode()
WATCH = json.dumps({"monitorUrl": "https://contoso.sharepoint.com/_api/v2.0/operations/1"}).encode()
COPY, MOVE = "POST /v1.0/me/drive/items/1/copy", "PATCH /beta/me/drive/root"
CALLBACK = "POST /jobs/any/callbacks"
REQUESTS = {
    COPY: BODY,
    MOVE: BODY,
    "POST /v1.0/me/drive/root/archive": BODY,
    "POST /jobs": WATCH,
    CALLBACK: b'{"url":"https://example.com/"}',
}
FRAMINGS: dict[str, Callable[[bytes, int], tuple[str, bytes]]] = {
    "length": lambda body, sent: (f"Content-Length: {len(body)}", body[:sent]),
    "chunks": lambda body, sent: ("Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (sent, body[:sent]) if sent else b""),
    "a chunk": lambda body, sent: ("Transfer-Encoding: chunked", b"%x\r\n%b" % (len(body), body[:sent])),
    "expecting": lambda body, sent: (f"Content-Length: {len(body)}\r\nExpect: 100-continue", body[:sent]),
}
"""The line of the head that says how long the body is, and as much of the body as is sent."""


async def leave(gateway: Running, head: str, body: bytes, *, reset: bool) -> None:
    """Send this, wait until the gateway waits for more, and close."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + b"\r\n\r\n" + body)
    connections: set[Any] = gateway.server.server_state.connections
    with anyio.fail_after(20):
        while not any(one._started and not one._started.response_complete for one in connections):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        while gateway.server.server_state.tasks:  # noqa: ASYNC110 - the server has no event for it
            await anyio.sleep(0.01)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("asked", REQUESTS)
async def test_it_is_no_fault_of_the_gateway(
    asked: str, framing: str, *, reset: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its requests are lines of the log and 4xx of the metrics, nothing is started, and a key is not taken."""
    caplog.set_level(logging.INFO)
    body = REQUESTS[asked]
    keys = OPERATOR if asked.startswith("POST /jobs") else TOKEN
    lines = [f"{asked} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in keys.items())]
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        caplog.clear()
        for sent in (0, 1, len(body) - 1):
            length, part = FRAMINGS[framing](body, sent)
            await leave(gateway, "\r\n".join([*lines, "Idempotency-Key: k", length]), part, reset=reset)
        async with gateway.session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
            assert await response.json() == {"value": []}
        assert upstream.asked == []
        counted = series(await scraped(gateway))
        codes = {dict(labels)["code"] for (name, labels), value in counted.items() if "_requests_" in name and value}
        assert codes == {"2xx", "4xx"}
        assert {(record.name, record.levelno) for record in caplog.records} == {("gateway.requests", logging.INFO)}
        if asked == COPY:
            again = await gateway.copy("/v1.0/me/drive/items/1", headers={**TOKEN, "Idempotency-Key": "k"})
            assert again["status"] == "notStarted"
            assert upstream.copies() == 1
