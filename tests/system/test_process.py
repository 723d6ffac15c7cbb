"""The process: how it starts, how it ends, what it says."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from gateway.app import VERSION
from gateway.server.server import cannot_listen
from gateway.simulator import Simulator, running
from tests.support.fake_upstream import faking
from tests.support.harness import FOLDER, OPERATOR, OPERATOR_KEY, TOKEN, Process, events, free_port, free_ports, tail


async def copy(session: aiohttp.ClientSession, gateway: Process) -> dict[str, Any]:
    async with session.post(f"{gateway.url}{FOLDER}/copy", json={"name": "x"}, headers=TOKEN) as response:
        assert response.status == 202, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def refused(session: aiohttp.ClientSession, gateway: Process, key: str) -> tuple[int, str]:
    """Ask for a copy that is not answered 202: the status and the error's code."""
    headers = {**TOKEN, "Idempotency-Key": key}
    async with session.post(f"{gateway.url}{FOLDER}/copy", json={}, headers=headers) as response:
        return response.status, (await response.json())["error"]["code"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_clean_end_and_a_second_start(number: int, tmp_path: Path) -> None:
    """Open streams end with a proper last chunk, the exit is 0 and quick, and the next start goes on at once."""
    async with running(Simulator(seconds=600)) as upstream, aiohttp.ClientSession() as session:
        port = free_port()
        async with Process(upstream.url, tmp_path, port=port) as gateway:
            job = await copy(session, gateway)
            async with session.get(job["events"]) as response:
                stream = events(response)
                await anext(stream)
                begun = time.monotonic()
                gateway.signal(number)
                rest = [event async for event in stream]
            assert all(event.name == "progress" for event in rest)
            assert await gateway.exited() == 0
            assert time.monotonic() - begun < 5
            assert "Traceback" not in gateway.output()
            assert '"level":"error"' not in gateway.output()
        async with Process(upstream.url, tmp_path, port=port) as gateway, session.get(job["events"]) as response:
            assert (await anext(events(response))).id == "1"
        assert len(upstream.asked("copy")) == 1


async def test_a_copy_in_flight_is_finished_first(tmp_path: Path) -> None:
    """Meanwhile readiness is 503, no job and no stream begins; then it is stored, answered 202, and watched by the
    next start.
    """
    async with faking() as upstream, aiohttp.ClientSession() as session:
        let_go = asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            await let_go.wait()
            return await upstream.accept(request)

        async with Process(upstream.url, tmp_path) as gateway:
            job = await copy(session, gateway)
            upstream.on_copy = slow
            in_flight = asyncio.create_task(copy(session, gateway))
            while upstream.copies() < 2:  # noqa: ASYNC110 - until it is upstream
                await anyio.sleep(0.01)
            gateway.signal()
            await drains(session, gateway)
            async with session.post(f"{gateway.url}{FOLDER}/copy", json={}, headers=TOKEN) as response:
                assert response.status == 503
            async with session.get(job["events"]) as response:
                assert response.status == 503
            async with session.get(job["events"], headers={"Last-Event-ID": "1"}) as response:
                assert response.status == 200
                assert (await response.read()).startswith(b"retry: ")
            assert upstream.copies() == 2
            let_go.set()
            started = await in_flight
            assert await gateway.exited() == 0
        upstream.on_poll = lambda _request: done()
        async with Process(upstream.url, tmp_path, port=gateway.port):
            assert (await tail(session, started["events"]))[-1].name == "completed"


async def drains(session: aiohttp.ClientSession, gateway: Process) -> None:
    """Wait until it is not ready any more."""
    with anyio.fail_after(5):
        while True:
            async with session.get(f"{gateway.url}/readyz") as response:
                if response.status == 503:
                    return


async def done() -> web.StreamResponse:
    return web.json_response({"status": "completed"})


async def test_a_copy_that_is_never_answered(tmp_path: Path) -> None:
    """At the end of the drain its outcome is unknown, also to the next start, and the exit is still 0."""
    async with faking() as upstream, aiohttp.ClientSession() as session:

        async def never(_request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(60)
            return web.Response()

        upstream.on_copy = never
        async with Process(upstream.url, tmp_path, drain=3) as gateway:
            in_flight = asyncio.create_task(refused(session, gateway, "k"))
            while upstream.copies() < 1:  # noqa: ASYNC110 - until it is upstream
                await anyio.sleep(0.01)
            begun = time.monotonic()
            gateway.signal()
            assert await in_flight == (502, "outcomeUnknown")
            assert await gateway.exited() == 0
            assert time.monotonic() - begun < 4
        upstream.on_copy = upstream.accept
        async with Process(upstream.url, tmp_path, port=gateway.port):
            assert await refused(session, gateway, "k") == (502, "outcomeUnknown")
            assert upstream.copies() == 1


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Whoever is in a hurry asks twice; a copy in flight is never answered with a code that an SDK repeats it on."""
    async with faking() as upstream, aiohttp.ClientSession() as session:

        async def never(_request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(60)
            return web.Response()

        upstream.on_copy = never
        async with Process(upstream.url, tmp_path, drain=60) as gateway:
            in_flight = asyncio.create_task(refused(session, gateway, "k"))
            while upstream.copies() < 1:  # noqa: ASYNC110 - until it is upstream
                await anyio.sleep(0.01)
            gateway.signal()
            await drains(session, gateway)
            gateway.signal()
            assert await gateway.exited(5) == 0
            assert await in_flight == (502, "outcomeUnknown")


async def test_a_stalled_reader_does_not_hold_the_exit_up(tmp_path: Path) -> None:
    """A reader that takes nothing is dropped when the gateway ends."""
    async with (
        running(Simulator(seconds=30, steps=1000)) as upstream,
        aiohttp.ClientSession() as session,
        Process(upstream.url, tmp_path, poll_min=0.01, poll_max=0.01, send_timeout=60) as gateway,
    ):
        job = await copy(session, gateway)
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            stalled.connect(("127.0.0.1", gateway.port))
            path = job["events"].removeprefix(gateway.url)
            stalled.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            async with session.get(job["events"]) as response:
                async for event in events(response):
                    if int(event.id) > 80:
                        break
            begun = time.monotonic()
            gateway.signal()
            assert await gateway.exited() == 0
            assert time.monotonic() - begun < 4


def serve(*, environment: dict[str, str], seconds: float = 20) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return subprocess.run(
        [sys.executable, "-m", "gateway", "serve"],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def test_wrong_settings_are_named_all_together() -> None:
    """Exit 2, one line each, no traceback."""
    wrong = {"PORT": "x", "POLL_MIN": "-1", "UPSTREAM_URL": "http://a.com", "HOST": "0.0.0.0"}
    ended = serve(environment={f"GATEWAY_{name}": value for name, value in wrong.items()})
    assert ended.returncode == 2
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 4
    wanted = {"GATEWAY_PORT", "GATEWAY_POLL_MIN", "GATEWAY_UPSTREAM_URL", "GATEWAY_PUBLIC_URL"}
    assert {line.split(":")[0] for line in lines} == wanted


SIGNALLED = """
import os, runpy, sys, tomllib
module, number, how, *arguments = sys.argv[1:]
def signalled(event, values):
    if event == "import" and values[0] == module:
        os.write(1, b"signalled ")
        os.kill(os.getpid(), int(number))
sys.addaudithook(signalled)
sys.argv = ["gateway", *arguments]
if how == "module":
    runpy.run_module("gateway", run_name="__main__", alter_sys=True)
with open("pyproject.toml", "rb") as file:
    module_of_the_script, _, name = tomllib.load(file)["project"]["scripts"]["gateway"].partition(":")
sys.exit(getattr(__import__(module_of_the_script, fromlist=[name]), name)())
"""
"""Runs a command as `python -m gateway` or as the installed script does, with a signal when it imports a module."""
FIRST, OPENED, BUILDING = "gateway.cli.commands", "uvicorn.loops.uvloop", "anyio._core._sockets"


@pytest.mark.parametrize(
    ("command", "module"),
    [
        *(("serve", module) for module in (FIRST, "typer", "pydantic", "uvicorn", "gateway.app", OPENED, BUILDING)),
        *(("serve --workers 2", module) for module in (FIRST, "gateway.server.workers")),
        *(("simulate --port 0", module) for module in (FIRST, "typer", "anyio", "aiohttp", "gateway.simulator")),
    ],
)
@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("module", signal.SIGTERM),
        ("script", signal.SIGINT),
        pytest.param("module", signal.SIGINT, marks=pytest.mark.thorough),
        pytest.param("script", signal.SIGTERM, marks=pytest.mark.thorough),
    ],
)
def test_a_signal_during_the_start(how: str, command: str, module: str, number: int, tmp_path: Path) -> None:
    """The exit is 0, without a traceback, whatever it interrupts."""
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED, module, str(int(number)), how, *command.split()],
        env={**os.environ, "GATEWAY_PORT": "0", "GATEWAY_STORE_URL": f"sqlite:///{tmp_path}/s.db"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.stdout == "signalled "
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((), signal.SIGINT),
        (("--workers", "2"), signal.SIGTERM),
        pytest.param((), signal.SIGTERM, marks=pytest.mark.thorough),
        pytest.param(("--workers", "2"), signal.SIGINT, marks=pytest.mark.thorough),
    ],
)
async def test_a_signal_while_the_database_is_awaited(arguments: tuple[str, ...], number: int, tmp_path: Path) -> None:
    """The exit is 0 at once."""
    away = f"postgresql://127.0.0.1:{free_port()}/db"
    gateway = Process("http://127.0.0.1:9", tmp_path, port=free_ports(), store_url=away, arguments=arguments)
    gateway.spawn()
    async with gateway:
        with anyio.fail_after(20):
            while gateway.output().count("store_awaited") < max(1, len(arguments)):  # noqa: ASYNC110 - a file
                await anyio.sleep(0.02)
        gateway.signal(number)
        assert await gateway.exited(3) == 0


def test_a_signal_between_the_operator_key_and_its_printing(tmp_path: Path) -> None:
    """The key is made only once, so it is printed first."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, OPENED, str(int(signal.SIGTERM)), "module", "serve"],
        env={**os.environ, "GATEWAY_PORT": "0", "GATEWAY_STORE_URL": f"sqlite:///{tmp_path}/s.db"},
        stdout=subprocess.DEVNULL,
        stderr=slave,
    ) as process:
        os.close(slave)
        said = b""
        with suppress(OSError):  # at the end of the other side
            while part := os.read(master, 4096):
                said += part
        os.close(master)
        assert process.wait(20) == 0
    assert b"made for this store" in said


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Exit 1 and one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = serve(environment={"GATEWAY_PORT": port, "GATEWAY_STORE_URL": f"sqlite:///{tmp_path}/s.db"})
    assert ended.returncode == 1
    assert re.fullmatch(
        rf"Cannot listen on 127\.0\.0\.1, port {port}: the port is taken\. .*GATEWAY_PORT.*\n", ended.stderr
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "no"), "Set GATEWAY_PORT to a port from 1024 on"),
        (OSError(errno.EADDRNOTAVAIL, "no"), "Set GATEWAY_HOST to an address of this machine"),
        (socket.gaierror(socket.EAI_NONAME, "no"), "Set GATEWAY_HOST to an address of this machine"),
        (OSError(errno.EMFILE, "Too many open files"), "port 80: Too many open files."),
    ],
)
def test_why_it_cannot_listen(error: OSError, words: str) -> None:
    """And what to do about it."""
    assert words in cannot_listen("127.0.0.1", 80, error)


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    """Exit 1 and one line; 192.0.2.1 is nobody's."""
    where = {"GATEWAY_HOST": "192.0.2.1", "GATEWAY_PUBLIC_URL": "http://g", "GATEWAY_PORT": "0"}
    ended = serve(environment={**where, "GATEWAY_STORE_URL": f"sqlite:///{tmp_path}/s.db"})
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "Set GATEWAY_HOST to an address of this machine" in ended.stderr


async def test_it_says_what_to_try(tmp_path: Path) -> None:
    """Where it is, its upstream and store, the page, and commands that find it; and misspelt settings."""
    async with Process("http://127.0.0.1:9", tmp_path, pol_min=1) as gateway:
        said = gateway.output()
    assert "GATEWAY_POL_MIN is no setting and has no effect: did you mean GATEWAY_POLL_MIN?" in said
    assert re.search(rf"^gateway listens on {gateway.url}$", said, re.MULTILINE)
    assert "  upstream      http://127.0.0.1:9\n" in said
    assert f"  store         {tmp_path}/gateway.db\n" in said
    assert f"  the page      {gateway.url}/\n" in said
    for command in ("copy ITEM-ID --to /Documents", "jobs"):
        assert f" {command} --gateway {gateway.url}\n" in said
    assert OPERATOR_KEY not in said


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {},
            {
                "secret key": "none, so secrets are stored unencrypted",
                "proxy": "none",
                "identity": "NONISV|copy-gateway|",
            },
        ),
        (
            {"secret_key": "a-secret-key-for-tests", "upstream_proxy": "http://user:hidden@127.0.0.1:3128"},
            {"secret key": "set, so secrets are stored encrypted", "proxy": "upstream through 127.0.0.1:3128"},
        ),
        (
            {
                "user_agent": "ISV|Contoso|Copies/{version}",
                "upstream_proxy": "http://[::1]:3128",
                "callback_proxy": "http://hidden@proxy.test:80/",
            },
            {
                "proxy": "upstream through [::1]:3128, callbacks through proxy.test:80",
                "identity": f"ISV|Contoso|Copies/{VERSION}, as upstream sees it",
            },
        ),
    ],
)
async def test_it_says_what_an_operator_should_know(
    values: dict[str, str], told: dict[str, str], tmp_path: Path
) -> None:
    """Secrets at rest, proxies, what upstream sees and the workers; no key and no password."""
    async with Process("http://127.0.0.1:9", tmp_path, **values) as gateway:
        said = gateway.output()
    for name, words in {**told, "workers": "1"}.items():
        assert re.search(rf"(?m)^  {name:<12}  {re.escape(words)}", said), said
    assert "a-secret-key-for-tests" not in said
    assert "hidden" not in said


async def test_every_address_of_a_name_is_listened_on(tmp_path: Path) -> None:
    """`localhost` may be two: whichever a client takes, it is answered there, on one port."""
    addresses = {str(found[4][0]) for found in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    async with running(Simulator()) as upstream, aiohttp.ClientSession() as session:
        gateway = Process(upstream.url, tmp_path, host="localhost")
        gateway.url = f"http://localhost:{gateway.port}"
        async with gateway:
            for address in addresses:
                host = f"[{address}]" if ":" in address else address
                async with session.get(f"http://{host}:{gateway.port}/healthz") as response:
                    assert response.status == 200


async def test_a_second_process_on_the_store(tmp_path: Path) -> None:
    """Refused, naming the first; the first goes on."""
    async with running(Simulator()) as upstream, Process(upstream.url, tmp_path) as gateway:
        second = {"GATEWAY_PORT": "0", "GATEWAY_STORE_URL": f"sqlite:///{tmp_path}/gateway.db"}
        ended = await anyio.to_thread.run_sync(lambda: serve(environment=second))
        assert ended.returncode == 1
        assert f"process {gateway.process.pid}" in ended.stderr
        assert f"127.0.0.1:{gateway.port}" in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
        await gateway.ready()


async def test_an_operator_key_is_made_on_a_terminal(tmp_path: Path) -> None:
    """Printed by the first start, not by the second, and good for both."""
    async with aiohttp.ClientSession() as session:
        keys = []
        for _ in range(2):
            port = free_port()
            master, slave = pty.openpty()
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [sys.executable, "-m", "gateway", "serve"],
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
                    "GATEWAY_PORT": str(port),
                    "GATEWAY_STORE_URL": f"sqlite:///{tmp_path}/s.db",
                },
                stderr=slave,
                stdout=slave,
            )
            os.close(slave)
            said = b""
            while b"readyz" not in said:
                said += await anyio.to_thread.run_sync(os.read, master, 4096)
            keys += re.findall(r"operator key  (\S+)   \(made", said.decode())
            with anyio.fail_after(10):
                while True:
                    try:
                        headers = {"Authorization": f"Bearer {keys[0]}"}
                        async with session.get(f"http://127.0.0.1:{port}/jobs", headers=headers) as response:
                            assert response.status == 200
                            break
                    except aiohttp.ClientError:
                        await anyio.sleep(0.02)
            process.terminate()
            assert await anyio.to_thread.run_sync(process.wait, 10) == 0
            os.close(master)
    assert len(keys) == 1
    assert len(keys[0]) >= 16


async def test_no_operator_key_is_made_without_a_terminal(tmp_path: Path) -> None:
    """The operator's routes are disabled, and the start says so."""
    async with (
        running(Simulator()) as upstream,
        aiohttp.ClientSession() as session,
        Process(upstream.url, tmp_path, operator_key=None) as gateway,
    ):
        async with session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
            assert response.status == 401
        assert "the operator's routes are disabled: set GATEWAY_OPERATOR_KEY" in gateway.output()


async def test_a_descriptor_limit_that_is_too_low(tmp_path: Path) -> None:
    """It is said and obeyed: as many streams as were named are served, one more is refused."""
    connector = aiohttp.TCPConnector(limit=0)
    async with running(Simulator(seconds=600)) as upstream, aiohttp.ClientSession(connector=connector) as session:
        gateway = Process(upstream.url, tmp_path, max_jobs=10)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        gateway.spawn()
        resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (200, 200))
        async with gateway:
            await gateway.ready()
            assert (soft, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
            said = re.search(r"The descriptor limit is 200: at most (\d+) streams are served", gateway.output())
            assert said is not None
            job = await copy(session, gateway)
            opened = await asyncio.gather(*(session.get(job["events"]) for _ in range(int(said[1]))))
            assert {response.status for response in opened} == {200}
            async with session.get(job["events"]) as response:
                assert response.status == 503
                assert "Retry-After" in response.headers
            for response in opened:
                response.close()


async def test_jobs_past_their_retention_are_removed(tmp_path: Path) -> None:
    """404 soon after, and the list is empty."""
    async with (
        running(Simulator(seconds=0.1)) as upstream,
        aiohttp.ClientSession() as session,
        Process(upstream.url, tmp_path, retention=1) as gateway,
    ):
        job = await copy(session, gateway)
        assert (await tail(session, job["events"]))[-1].name == "completed"
        with anyio.fail_after(10):
            while True:
                async with session.get(f"{gateway.url}/jobs/{job['jobId']}") as response:
                    if response.status == 404:
                        break
                await anyio.sleep(0.05)
        async with session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
            assert (await response.json())["value"] == []
