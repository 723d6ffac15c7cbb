"""The guide at the head of /docs: each of its examples is run as it stands, and the README has the same ones."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from playwright.async_api import Browser, expect

from gateway.simulator import Simulator, running
from gateway.web import docs
from gateway.web.docs import guide
from tests.jobs.test_operations import Operations, asks, until
from tests.support import node
from tests.support.browser import axe, tab
from tests.support.fake_receiver import ALLOWED, receiving
from tests.support.fake_upstream import serving_fake
from tests.support.front_end import front_end
from tests.support.harness import README, Running, free_ports, serving
from tests.system.test_clients_browser import AGAIN, HEADER, ONCE, QUERY, STOPS, TABLE

WRITTEN = "http://127.0.0.1:8000"
GIVEN = {"token": "a-token", "item": "01MOWKYVREPORT", "drive": "b!personal", "folder": "01MOWKYVDOCUMENTS", "key": "1"}
SHELL = {name.upper(): value for name, value in GIVEN.items()}
PATH = {"PATH": os.environ["PATH"]}
EXAMPLES = [
    *guide.COPY.values(),
    *guide.FOLLOW.values(),
    *guide.CALLBACK.values(),
    *guide.VERIFY.values(),
    *guide.OPERATION.values(),
    *guide.HAND_IN.values(),
    guide.SDKS,
    guide.OPERATE,
    guide.LIST,
]
IN_DOCS = {guide.COPY["curl"], guide.FOLLOW["curl"], *guide.OPERATION.values(), *guide.HAND_IN.values()}
"""Of the examples, those that the README leaves to the page."""
NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="curl is not installed")


@asynccontextmanager
async def playing(folder: Path, **values: Any) -> AsyncIterator[Running]:
    """A gateway at a simulated Graph whose copies take a second."""
    async with running(Simulator(seconds=1)) as upstream, serving(upstream.url, folder, **values) as gateway:
        yield gateway


async def shell(command: str, gateway: str, folder: Path | None = None, **environment: str) -> str:
    """What a command of the guide prints, in a shell that has the variables that are given there."""
    quick = command.replace(WRITTEN, gateway).replace("curl", "curl -sS -m 20", 1)
    ran = await anyio.run_process(["sh", "-c", quick], cwd=folder, env={**PATH, **SHELL, **environment})
    return ran.stdout.decode()


def test_the_readme_has_the_same() -> None:
    """As they stand; so that to run them is to run the README's."""
    readme = README.read_text().replace("\n    ", "\n")
    assert {example for example in EXAMPLES if example not in readme} == IN_DOCS
    assert len(readme.splitlines()) <= 150


def test_the_page_has_them_all() -> None:
    """With its own URL in them."""
    page = html.unescape(docs.html("https://gateway.test"))
    assert WRITTEN not in page
    assert [one for one in EXAMPLES if one.replace(WRITTEN, "https://gateway.test") not in page] == []


@NEEDS_CURL
async def test_a_copy_in_a_shell(tmp_path: Path) -> None:
    """It is started and followed to its end."""
    async with playing(tmp_path) as gateway:
        started = await shell(guide.COPY["curl"], gateway.url)
        job = re.search(r"(?mi)^location: (\S+)", started)
        assert job is not None
        followed = await shell(guide.FOLLOW["curl"], gateway.url, JOB=job[1])
    assert followed.count("event: completed") == 1


@NEEDS_CURL
async def test_the_ids(tmp_path: Path) -> None:
    """The README's line reads an item by its path; the ids of item and drive are where it says."""
    line = re.search(r"`(curl [^`]+:/report\.docx [^`]+)`", README.read_text())
    assert line is not None
    async with playing(tmp_path) as gateway:
        item = json.loads(await shell(line[1], gateway.url))
    assert (item["id"], item["parentReference"]["driveId"]) == (GIVEN["item"], GIVEN["drive"])


async def test_a_copy_in_python(tmp_path: Path) -> None:
    """By a script of a process of its own."""
    async with playing(tmp_path) as gateway:
        given = "".join(f"{name} = {value!r}\n" for name, value in GIVEN.items())
        script = guide.COPY["Python"].replace(WRITTEN, gateway.url) + "\n" + guide.FOLLOW["Python"]
        imports = "import httpx\nfrom httpx_sse import connect_sse\n"
        ran = await anyio.run_process([sys.executable, "-c", imports + given + script], check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stdout.decode().splitlines()[-1] == "completed 100.0"


@pytest.mark.parametrize("way", ["JavaScript", "JavaScript, with follow.js"])
async def test_a_copy_in_a_browser(way: str, tmp_path: Path, browser: Browser) -> None:
    """From an origin that is allowed, with the setting that the guide names."""
    async with (
        front_end() as origin,
        playing(tmp_path, cors_origins=origin) as gateway,
        tab(browser) as opened,
    ):
        await opened.page.goto(origin)
        lines = (guide.COPY["JavaScript"] + "\n" + guide.FOLLOW[way]).replace(WRITTEN, gateway.url)
        names = ", ".join(GIVEN)
        script = f"""async ({{ {names} }}) => {{
          const bar = {{}};
          let done;
          const ended = new Promise(resolve => done = resolve);
          {lines}
          return [(await ended).status, bar.value];
        }}"""
        status, percentage = await opened.page.evaluate(script, GIVEN)
    assert status == "completed"
    assert 0 <= percentage < 100


@asynccontextmanager
async def asking(folder: Path, **values: Any) -> AsyncIterator[Running]:
    """A gateway at an upstream whose status wants another token than the start did."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, folder, **values) as gateway:
        upstream.good = {"Bearer fresh"}
        yield gateway


@NEEDS_CURL
async def test_another_operation_in_a_shell(tmp_path: Path) -> None:
    """It asks for a token, gets one, and is followed to its end."""
    async with asking(tmp_path) as gateway:
        started = await shell(guide.OPERATION["curl"], gateway.url, NOTEBOOK="1-2")
        assert started.startswith("HTTP/1.1 202")
        job = json.loads(started.partition("\r\n\r\n")[2])
        with anyio.fail_after(20):
            await until(gateway, job, asks)
        given = {"JOB": job["events"].removesuffix("/events"), "JOB_KEY": job["jobKey"], "TOKEN": "fresh"}
        assert (await shell(guide.HAND_IN["curl"], gateway.url, **given)).startswith("HTTP/1.1 204")
        followed = await shell(guide.FOLLOW["curl"], gateway.url, **given)
    assert followed.count("event: completed") == 1


async def test_another_operation_in_python(tmp_path: Path) -> None:
    """As in a shell, by a script of a process of its own."""
    async with asking(tmp_path) as gateway:
        given = "".join(f"{name} = {value!r}\n" for name, value in {**GIVEN, "notebook": "1-2"}.items())
        imports = "import httpx\nfrom httpx_sse import connect_sse\nfresh_token = lambda: 'fresh'\n"
        script = guide.OPERATION["Python"].replace(WRITTEN, gateway.url) + "\n" + guide.HAND_IN["Python"]
        with anyio.fail_after(30):
            ran = await anyio.run_process(
                [sys.executable, "-c", f"{imports}{given}{script}\nprint(state)"], check=False
            )
    assert ran.returncode == 0, ran.stderr.decode()
    assert "'status': 'completed'" in ran.stdout.decode()


async def test_another_operation_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    """As in a shell; the page hands in a fresh token when it is told that one is needed."""
    async with front_end() as origin, asking(tmp_path, cors_origins=origin) as gateway, tab(browser) as opened:
        await opened.page.goto(origin)
        lines = "\n".join(part["JavaScript"] for part in (guide.OPERATION, guide.FOLLOW, guide.HAND_IN))
        script = f"""async ({{ token, key, notebook }}) => {{
          const bar = {{}};
          const freshToken = async () => "fresh";
          let done;
          const ended = new Promise(resolve => done = resolve);
          {lines.replace(WRITTEN, gateway.url)}
          return (await ended).status;
        }}"""
        assert await opened.page.evaluate(script, {**GIVEN, "notebook": "1-2"}) == "completed"


@NEEDS_CURL
@pytest.mark.parametrize("language", list(guide.VERIFY))
async def test_a_callback(language: str, tmp_path: Path) -> None:
    """The secret is made as the guide says, the copy sent with it, and the message verified by its lines."""
    async with receiving() as receiver, playing(tmp_path, **ALLOWED) as gateway:
        made = await anyio.run_process(["sh", "-c", guide.CALLBACK["shell"] + "\nprintf %s $SECRET"], env=PATH)
        secret = made.stdout.decode()
        command = guide.CALLBACK["curl"].replace("https://example.com/copies", f"{receiver.url}/copies")
        started = await shell(command, gateway.url, SECRET=secret)
        assert started.startswith("HTTP/1.1 202")
        with anyio.fail_after(20):
            (post,) = await receiver.received(1)
    headers = {name.lower(): value for name, value in post.headers.items()}
    body = post.body.decode()
    given = {"secret": secret, "body": body, "headers": headers}
    assert await verified(language, given) == "job.completed completed\n"
    with pytest.raises(Exception, match="exit status"):
        await verified(language, {**given, "body": body.replace("completed", "failed")})


async def verified(language: str, given: dict[str, Any]) -> str:
    """What the guide's lines print of a message. Raises CalledProcessError when they refuse it."""
    if language == "Python":
        start = "import standardwebhooks\nseen = set()\n"
        start += "".join(f"{key} = {value!r}\n" for key, value in given.items())
        ran = await anyio.run_process([sys.executable, "-c", start + guide.VERIFY[language]])
    else:
        start = 'import { Webhook } from "standardwebhooks";\nconst seen = new Set();\n'
        start += "".join(f"const {key} = {json.dumps(value)};\n" for key, value in given.items())
        ran = await anyio.run_process(node.running(start + guide.VERIFY[language]), cwd=node.FOLDER)
    return ran.stdout.decode()


@NEEDS_CURL
async def test_the_operators_lines(database_url: str, tmp_path: Path) -> None:
    """Keys, PostgreSQL and two workers; then the list of jobs, under the key that was made."""
    port = free_ports()
    here = f"http://127.0.0.1:{port}"
    lines = guide.OPERATE.replace("postgresql://user:password@host/database", database_url)
    lines = lines.replace("https://gateway.example.com", here).replace("gateway serve", "exec gateway serve")
    (tmp_path / "gateway").write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway "$@"\n')
    (tmp_path / "gateway").chmod(0o755)
    own = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{PATH['PATH']}", "GATEWAY_PORT": str(port)}
    with (tmp_path / "log").open("wb") as log:
        process = await anyio.open_process(["sh", "-c", lines], cwd=tmp_path, env=own, stdout=log, stderr=log)
    try:
        async with aiohttp.ClientSession() as session:
            await ready(session, here)
            assert json.loads(await shell(guide.LIST, here, tmp_path)) == {"value": []}
    finally:
        process.terminate()
        assert await process.wait() == 0
    said = (tmp_path / "log").read_text()
    assert "  secret key    set" in said
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    assert "  workers       2\n" in said


async def ready(session: aiohttp.ClientSession, url: str) -> None:
    with anyio.fail_after(40):
        while True:
            try:
                async with session.get(f"{url}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await anyio.sleep(0.05)


def test_the_table_of_clients_is_what_they_do() -> None:
    """Each row says what was seen of the client in a browser."""
    resumes = {
        frozenset(): "nothing",
        frozenset({HEADER}): "`Last-Event-ID`",
        frozenset({QUERY}): "`?lastEventId=`",
        frozenset({HEADER, QUERY}): "`Last-Event-ID`, then `?lastEventId=`",
    }
    ends = {
        STOPS: "stops by itself",
        AGAIN: "close it at the terminal event",
        ONCE: "open it in a loop until the terminal event",
    }
    assert {
        name: (
            resumes[frozenset(seen.resumes)],
            ", ".join(f"`{header}`" for header in sorted(seen.preflights)) or "none",
            ends[seen.end],
        )
        for name, seen in TABLE.items()
    } == guide.CLIENTS


async def test_the_page_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    """Its buttons write what stands beside them to the clipboard, its links lead to the page and to parts of it."""
    permissions = ["clipboard-read", "clipboard-write"]
    async with playing(tmp_path) as gateway, tab(browser, permissions=permissions) as opened:
        page = opened.page
        await page.goto(f"{gateway.url}/docs")
        first = page.locator("figure").first
        await first.get_by_role("button", name="To clipboard").click()
        await expect(first.get_by_role("button")).to_have_text("In the clipboard")
        shown = await first.locator("code").inner_text()
        assert await page.evaluate("() => navigator.clipboard.readText()") == shown
        await page.get_by_role("navigation", name="Contents").get_by_role("link", name="SSE clients").click()
        await expect(page.locator("#clients")).to_be_in_viewport()
        await page.get_by_role("heading", name="Back end").get_by_role("link").click()
        assert page.url.endswith("/docs#back-end")
        for name, address in (("Operator", "/#operator"), ("Jobs", "/")):
            await page.goto(f"{gateway.url}/docs")
            await page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
            assert page.url == gateway.url + address


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (320, "dark"),
        (1280, "light"),
        pytest.param(320, "light", marks=pytest.mark.thorough),
        pytest.param(1280, "dark", marks=pytest.mark.thorough),
    ],
)
async def test_the_page_for_everybody(width: int, scheme: str, tmp_path: Path, browser: Browser) -> None:
    """Axe finds nothing, and nothing is wider than the screen."""
    options: dict[str, Any] = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "bypass_csp": True}
    async with playing(tmp_path) as gateway, tab(browser, **options) as opened:
        await opened.page.goto(f"{gateway.url}/docs")
        await opened.page.evaluate(axe())
        found = await opened.page.evaluate("async () => (await axe.run()).violations")
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        wide = await opened.page.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= width
