"""The self-test at the start, with connections of a uvicorn that does not fit."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.server.connection import Connection
from gateway.server.responses import Owner
from gateway.server.selftest import UnfitUvicorn, prove_hijack
from tests.support.harness import free_port

pytestmark = pytest.mark.virtual_time


class HookRenamed(Connection):
    """uvicorn starts requests by another method."""

    _start_asgi_task = HttpToolsProtocol._start_asgi_task


class NothingStarted(Connection):
    """Requests are parsed, and their tasks are started elsewhere."""

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Never reached."""


class ScopeMadeElsewhere(Connection):
    """The scope is not made where a message begins."""

    on_message_begin = HttpToolsProtocol.on_message_begin


class DisconnectedIgnored(Connection):
    """An unfinished response is closed at the end of its task, whatever its flag says."""

    def hijack(self, owner: Owner) -> None:
        started = self._started
        super().hijack(owner)
        assert started is not None
        started.disconnected = False


class ClosedAtTheEnd(Connection):
    """The connection does not outlive its response."""

    def on_response_complete(self) -> None:
        self.transport.close()


class LengthWanted(Connection):
    """A response has no chunks."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.server_state.default_headers = [(b"content-length", b"5")]


def other_parameters(config: Any, state: Any) -> Connection:
    return Connection(config, state, {})


BROKEN: dict[Callable[..., Any], str] = {
    HookRenamed: "the stream lost the connection at once",
    NothingStarted: "a request was not answered",
    ScopeMadeElsewhere: "the response began with b'HTTP/1.1 500 Internal",
    DisconnectedIgnored: "the stream lost the connection at once",
    ClosedAtTheEnd: "the connection was closed too early",
    LengthWanted: "the response began with b'HTTP/1.1 200 OK",
    other_parameters: "TypeError was raised: other_parameters() got an unexpected keyword argument",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
async def test_a_uvicorn_that_does_not_fit(broken: Callable[..., Any]) -> None:
    """Which package, which version, why, and what to do."""
    with pytest.raises(UnfitUvicorn) as refused:
        await prove_hijack(broken)
    said = str(refused.value)
    assert said.startswith(f"uvicorn {version('uvicorn')} with httptools {version('httptools')} does not fit")
    assert f", since {BROKEN[broken]}" in said
    assert said.endswith("pip install --constraint deploy/constraints.txt .")


async def test_the_installed_uvicorn_fits() -> None:
    """Without waiting, and nothing is left open."""
    loop = asyncio.get_running_loop()
    connections = []

    def connection(**given: Any) -> Connection:
        connections.append(Connection(**given))
        return connections[-1]

    begun, tasks = loop.time(), asyncio.all_tasks()
    await prove_hijack(connection)
    assert loop.time() == begun
    await asyncio.sleep(0)
    assert connections[0].transport.is_closing()
    assert not connections[0].server_state.connections
    assert asyncio.all_tasks() == tasks


def test_the_process_says_so_and_ends(tmp_path: Path) -> None:
    """Exit status 1, and the sentence last on stderr."""
    program = """
import sys
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from gateway.server.connection import Connection
from gateway.server.server import run

Connection._start_asgi_task = HttpToolsProtocol._start_asgi_task
sys.exit(run("gateway"))
"""
    settings = {"UPSTREAM_URL": "http://127.0.0.1:9", "STORE_URL": f"sqlite:///{tmp_path}/g.db", "PORT": free_port()}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **{f"GATEWAY_{name}": str(value) for name, value in settings.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    *_, last = ended.stderr.splitlines()
    assert last.startswith("uvicorn ")
    assert "deploy/constraints.txt" in last
    assert "Traceback" not in ended.stderr
    assert "gateway listens on" not in ended.stderr
