"""The page at /docs: true, since its commands are run, and safe, since it needs nothing but itself. Its guide is tested
in test_guide.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import anyio
import pytest

from gateway.simulator import Simulator, running
from gateway.simulator.drives import Tree
from gateway.web import docs
from gateway.web.docs import asyncapi, guide
from gateway.web.docs.openapi import document
from gateway.web.docs.openapi.components import FAULTS, HEADERS
from gateway.web.docs.openapi.schemas import NEW_CALLBACK
from gateway.web.docs.resolved import Operation, curl, operations
from tests.support.described import is_told
from tests.support.fake_receiver import ALLOWED, receiving
from tests.support.harness import OPERATOR_KEY, Running, serving, tail

BASE = "http://127.0.0.1:8000"
CURL = shutil.which("curl")
RECEIVER = str(NEW_CALLBACK["url"])
MONITOR = re.compile(r'"monitorUrl":"[^"]*"')


class Page(HTMLParser):
    """What a browser would find in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.blocks: list[str] = []
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "what is opened is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link"):
            self._open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), "no script"
            assert name != "style", "no style but the one that the policy names"
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")
        if tag == "pre":
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "pre" in self._open:
            self.blocks[-1] += data
        if "style" in self._open:
            self.styles.append(data)
        if "script" in self._open:
            self.scripts.append(data)


PAGE = Page(docs.html(BASE))
OPERATIONS = operations(document(BASE))


def digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def test_it_needs_nothing_but_itself() -> None:
    """No address outside, and the one style and the one script that its policy allows."""
    assert not {"iframe", "img", "form", "object"} & set(PAGE.tags)
    assert {link for link in PAGE.links if not link.startswith("#")} == {
        "data:,",
        "openapi.json",
        "asyncapi.json",
        "./",
        "./#operator",
    }
    (style,), (script,) = PAGE.styles, PAGE.scripts
    assert "url(" not in style
    assert "@import" not in style
    assert docs.POLICY.startswith(f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; ")
    assert "unsafe" not in docs.POLICY


def test_everything_has_its_place() -> None:
    """Each operation, error, schema and header can be linked to, once; no link within the page leads nowhere."""
    assert len(PAGE.ids) == len(set(PAGE.ids))
    components = document(BASE)["components"]
    wanted = {one.name for one in OPERATIONS if one.method != "HEAD"}
    wanted |= {f"error-{fault.replace(' ', '-')}" for fault in FAULTS}
    wanted |= {f"schema-{name}" for name in components["schemas"] if name != "ErrorCode"}
    wanted |= {f"header-{name}" for name in HEADERS}
    wanted |= {f"events-{name}" for name in asyncapi.document(BASE)["operations"]}
    assert wanted <= set(PAGE.ids)
    assert {link[1:] for link in PAGE.links if link.startswith("#")} <= set(PAGE.ids)


def test_what_is_text_stays_text() -> None:
    """A base that came in a request's Host, or whatever else, cannot become markup."""
    page = Page(docs.html('http://<script>alert(1)</script>"&'))
    assert page.tags.count("script") == 1  # its own
    assert any("<script>alert(1)</script>" in block for block in page.blocks)


async def variables(gateway: Running, receiver: str) -> dict[str, str]:
    """What the commands leave to whoever runs them; a job that runs, with a callback, and one that has ended."""
    ended = await gateway.copy(json={"name": "ended"})
    await tail(gateway.session, ended["events"])
    job = await gateway.copy(json={"name": "running"})
    key = {"Authorization": f"Bearer {job['jobKey']}"}
    asked = gateway.session.post(f"{gateway.url}/jobs/{job['jobId']}/callbacks", json={"url": receiver}, headers=key)
    async with asked as response:
        callback = (await response.json())["id"]
    names = {"JOB": job["jobId"], "JOB_KEY": job["jobKey"], "OTHER_JOB": ended["jobId"], "CALLBACK": callback}
    return {**names, "TOKEN": "a-token", "OPERATOR_KEY": OPERATOR_KEY, "PATH": os.environ["PATH"]}


def answers(output: str) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of what `curl -i` showed."""
    head, _, body = output.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body.encode()


def commands() -> Iterator[tuple[Operation, str]]:
    """Each operation's command, the removal of things last; those of the page are among them."""
    for one in sorted(OPERATIONS, key=lambda one: (one.method == "DELETE", -one.path.count("/"))):
        yield one, curl(BASE, one)


def test_the_page_shows_the_commands() -> None:
    """One for all the addresses of the same thing."""
    guides = [
        guide.COPY["curl"],
        guide.FOLLOW["curl"],
        guide.CALLBACK["curl"],
        guide.OPERATION["curl"],
        guide.HAND_IN["curl"],
    ]
    found = [block for block in PAGE.blocks if block.startswith("curl ")]
    assert found[: len(guides)] == guides
    shown = found[len(guides) :]
    assert len(shown) == len({one.content["summary"] for one in OPERATIONS if one.method != "HEAD"})
    assert set(shown) <= {command for _, command in commands()}


@pytest.mark.skipif(CURL is None and "CI" not in os.environ, reason="curl is not installed; in CI it must be")
async def test_the_commands_do_what_they_say(tmp_path: Path) -> None:
    """Each operation's example, in a shell, against a gateway and a simulated upstream; answered as it is told."""
    async with (
        receiving() as receiver,
        running(Simulator(seconds=1)) as upstream,
        serving(upstream.url, tmp_path, **ALLOWED) as gateway,
    ):
        environment = await variables(gateway, f"{receiver.url}/receiver")
        monitor = f'"monitorUrl":"{upstream.url}/monitor/of-nothing"'
        for number, (operation, command) in enumerate(commands()):
            here = command.replace(BASE, gateway.url).replace(RECEIVER, f"{receiver.url}/another")
            here = MONITOR.sub(monitor, here).replace("Copy of LargeFolder1", f"Copy {number}")
            here = here.replace("curl -N", "curl -i -N").replace("curl", "curl -sS -m 20", 1)
            ran = await anyio.run_process(["sh", "-c", here], env=environment, check=False)
            assert ran.returncode == 0, (command, ran.stderr.decode())
            status, headers, body = answers(ran.stdout.decode())
            is_told(operation, status, headers, body)
            if operation.name.endswith("Root") and not operation.name.endswith("BelowRoot") and status >= 400:
                words = json.loads(body)["error"]["message"]  # upstream's own answer
                assert re.fullmatch("Cannot (copy|move|label) the root folder[.]", words)
            elif operation.name == "handInToken":
                assert status == 409  # a copy needs none
            else:
                assert status < 300, (command, status, body)
            if operation.method == "HEAD":
                assert not body
            if operation.streams():
                assert b"event: progress" in body
                assert body.count(b"event: completed") == 1 + ("OTHER_JOB" in command)
            if operation.method == "PATCH":
                upstream.tree = Tree()  # the next command looks for the item where it was


async def test_it_is_served_with_its_policy(tmp_path: Path) -> None:
    """And the documents that it links to are there."""
    async with running(Simulator()) as upstream, serving(upstream.url, tmp_path) as gateway:
        async with gateway.session.get(f"{gateway.url}/docs") as response:
            assert response.headers["Content-Security-Policy"] == docs.POLICY
            assert response.content_type == "text/html"
            assert gateway.url in await response.text()
        for link in ("openapi.json", "asyncapi.json"):
            async with gateway.session.get(f"{gateway.url}/{link}") as response:
                assert gateway.url.removeprefix("http://") in await response.text()
