"""`/follow.js` in Chromium, from another origin: over an absence that a plain proxy answers with 502, to every end."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from aiohttp import web
from playwright.async_api import Browser, Page

from tests.support.browser import tab
from tests.support.fake_receiver import going
from tests.support.fake_upstream import answering, faking
from tests.support.front_end import front_end, site
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, Running, free_port, serving
from tests.support.proxies import Nginx

SECONDS = 60
FOLLOW = """
async ([module, url]) => {
  const { follow } = await import(module);
  globalThis.seen = [];
  globalThis.words = [];
  const handlers = { connection: (word) => words.push(word) };
  for (const name of ["progress", "completed", "failed", "gone"]) {
    handlers[name] = (state, event) => seen.push([state.jobId, event.lastEventId, name]);
  }
  globalThis.stop = follow(url, handlers);
}
"""
PLAIN = {"error_page 500 502 503 504 = $when_away;": ""}
"""Nothing but what nginx says by itself while no gateway answers."""


async def follow(page: Page, gateway: str, url: str) -> None:
    """The page's clock can be put forward from here on."""
    await page.clock.install()
    await page.evaluate(FOLLOW, [f"{gateway}/follow.js", url])


async def ended(page: Page) -> tuple[list[Any], list[str]]:
    """What it has seen and said once it has ended, after which it asks for nothing more."""
    await page.wait_for_function("['ended', 'gone', 'refused'].includes(words.at(-1))")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.clock.fast_forward(60_000)
    await page.evaluate("fetch(location)")
    assert asked == [page.url]
    seen, words = await page.evaluate("[seen, words]")
    return seen, words


@asynccontextmanager
async def followed(browser: Browser, folder: Path, **values: Any) -> AsyncIterator[tuple[Running, Any, Page]]:
    """A gateway, its upstream, and a page of an origin that it allows."""
    async with (
        front_end() as origin,
        faking() as upstream,
        serving(upstream.url, folder, cors_origins=origin, **values) as gateway,
        tab(browser) as opened,
    ):
        opened.expects("404 (Not Found)", "400 (Bad Request)", "502 (Bad Gateway)", "MIME type")
        await opened.page.goto(origin)
        yield gateway, upstream, opened.page


async def test_over_an_absence_behind_a_plain_proxy(tmp_path: Path, browser: Browser) -> None:
    """EventSource gives up on its 502; this does not, and has each event once."""
    percentage = 30

    async def poll(_request: web.Request) -> web.StreamResponse:
        if percentage < 100:
            return web.json_response({"status": "inProgress", "percentageComplete": percentage}, status=202)
        return web.json_response({"status": "completed", "percentageComplete": 100, "resourceId": "01"})

    async with front_end() as origin, faking() as upstream, tab(browser, ignore_https_errors=True) as opened:
        upstream.on_poll = poll
        with Nginx(tmp_path, port := free_port(), PLAIN) as nginx:
            gateway = Process(upstream.url, tmp_path, port=port, public_url=nginx.url, cors_origins=origin)
            async with gateway, nginx.client() as client:
                opened.expects("net::ERR_", "502 (Bad Gateway)", "blocked by CORS policy")
                page = opened.page
                await page.goto(origin)
                job = (await client.post(f"{FOLDER}/copy", json=COPY_BODY, headers=TOKEN)).json()
                await follow(page, nginx.url, job["events"])
                await page.wait_for_function("seen.length >= 2 && words.at(-1) === 'live'")
                async with page.expect_event("requestfailed", lambda request: request.method == "HEAD"):
                    gateway.kill()
                percentage = 100
                await gateway.start()
                seen, words = await ended(page)
    count = len(seen)
    assert [int(number) for _, number, _ in seen] == list(range(1, count + 1))
    assert [name for *_, name in seen] == ["progress"] * (count - 1) + ["completed"]
    assert words[:3] == ["connecting", "live", "reconnecting"]
    assert words[-1] == "ended"


async def test_many_jobs_to_their_ends(tmp_path: Path, browser: Browser) -> None:
    """It ends with the last of them; one that nobody knows is told once."""
    async with followed(browser, tmp_path) as (gateway, upstream, page):
        upstream.on_poll = going(30, 60)
        jobs = [(await gateway.copy())["jobId"] for _ in range(3)]
        nobody = "a-job-that-nobody-knows"
        query = "&".join(f"job={job}" for job in (*jobs, nobody))
        await follow(page, gateway.url, f"{gateway.url}/events?{query}")
        seen, words = await ended(page)
        for place, job in enumerate(jobs):
            own = [(number, name) for which, number, name in seen if which == job]
            assert [number.split(",")[place] for number, _ in own] == [str(one + 1) for one in range(len(own))]
            assert [name for _, name in own] == ["progress"] * (len(own) - 1) + ["completed"]
        assert [name for which, _, name in seen if which == nobody] == ["gone"]
        assert words[-1] == "ended"


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/jobs/{job}/events?lastEventId={last}", "ended"),
        ("/events?job={job}&lastEventId={last}", "ended"),
        ("/jobs/nobody-knows-this/events", "gone"),
        ("/events?job=nobody-knows-this", "gone"),
        ("/events?job={job}&job={job}", "refused"),
        ("/follow.js", "refused"),
    ],
)
async def test_there_is_nothing_to_follow(path: str, word: str, tmp_path: Path, browser: Browser) -> None:
    """A job whose end was seen, one that nobody knows, a query that is wrong, no stream at all: told, and
    asked no more.
    """
    async with followed(browser, tmp_path) as (gateway, upstream, page):
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "01"}))
        job = await gateway.copy()
        async with gateway.session.get(job["events"]) as response:
            last = re.findall(r"(?m)^id: (\d+)", await response.text())[-1]
        await follow(page, gateway.url, gateway.url + path.format(job=job["jobId"], last=last))
        assert await ended(page) == ([], ["connecting", word])


async def test_it_resumes_and_can_be_stopped(tmp_path: Path, browser: Browser) -> None:
    """After the id in the URL; and once stopped, it says nothing and leaves no stream open."""
    async with followed(browser, tmp_path) as (gateway, upstream, page):
        upstream.on_poll = answering(
            lambda: web.json_response({"status": "inProgress", "percentageComplete": 30}, status=202)
        )
        job = await gateway.copy()
        await follow(page, gateway.url, f"{job['events']}?lastEventId=1")
        await page.wait_for_function("seen.length === 1 && words.at(-1) === 'live'")
        assert await page.evaluate("seen[0][1]") == "2"
        await page.evaluate("stop()")
        with anyio.fail_after(SECONDS):
            while await streams(gateway.url):  # noqa: ASYNC110 - a gauge has no event
                await anyio.sleep(0.02)
        assert await page.evaluate("words") == ["connecting", "live"]


async def streams(url: str) -> int:
    """How many are open."""
    async with httpx.AsyncClient() as client:
        found = re.search(r"(?m)^gateway_streams_open (\d+)", (await client.get(f"{url}/metrics")).text)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("act", ["stop()", "void 0"])
async def test_a_handler_may_stop_it_or_throw(act: str, tmp_path: Path, browser: Browser) -> None:
    """As it says that it will try again: stopped, it asks no more; an exception is the caller's own."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.method)
        return web.Response(status=502, headers={"Access-Control-Allow-Origin": "*"})

    async with site({"/jobs/a/events": answer}) as port, followed(browser, tmp_path) as (gateway, _, page):
        await page.clock.install()
        await page.evaluate(
            """async ([module, url, act]) => {
              const { follow } = await import(module);
              globalThis.failures = [];
              addEventListener("unhandledrejection", (event) => (event.preventDefault(), failures.push(event.reason)));
              const connection = (word) => {
                if (word !== "reconnecting") return;
                if (act === "stop()") stop();
                else throw "mine";
              };
              const stop = follow(url, { connection });
            }""",
            [f"{gateway.url}/follow.js", f"http://127.0.0.1:{port}/jobs/a/events", act],
        )
        with anyio.fail_after(SECONDS):
            while asked != ["GET", "HEAD"]:  # noqa: ASYNC110 - another process's doing
                await anyio.sleep(0.02)
        await page.evaluate("fetch(location)")
        await page.clock.fast_forward(10_000)
        await page.evaluate("fetch(location)")
        if act == "stop()":
            assert asked == ["GET", "HEAD"]
        else:
            with anyio.fail_after(SECONDS):
                while len(asked) < 3:  # noqa: ASYNC110 - another process's doing
                    await anyio.sleep(0.02)
            assert await page.evaluate("failures") == ["mine"]


async def test_a_jobs_own_url_ends_too(tmp_path: Path, browser: Browser) -> None:
    """Its stream is the same; a plain HEAD of it would be about the state."""
    async with followed(browser, tmp_path) as (gateway, upstream, page):
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "01"}))
        job = await gateway.copy()
        async with gateway.session.get(job["events"]) as response:
            last = re.findall(r"(?m)^id: (\d+)", await response.text())[-1]
        await follow(page, gateway.url, f"{gateway.url}/jobs/{job['jobId']}?lastEventId={last}")
        assert await ended(page) == ([], ["connecting", "ended"])


async def test_what_only_a_proxy_says_is_no_verdict(tmp_path: Path, browser: Browser) -> None:
    """A 404, 400 or 204 that is not the gateway's own: it tries again."""
    statuses = [404, 400, 204]
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.method)
        cors = {"Access-Control-Allow-Origin": "*"}
        if request.method == "HEAD" or statuses:
            return web.Response(status=statuses[0] if request.method == "GET" else statuses.pop(0), headers=cors)
        text = 'id: 1\nevent: completed\ndata: {"jobId":"a"}\n\n'
        return web.Response(text=text, content_type="text/event-stream", headers=cors)

    async with site({"/jobs/a/events": answer}) as port, followed(browser, tmp_path) as (gateway, _, page):
        await follow(page, gateway.url, f"http://127.0.0.1:{port}/jobs/a/events")
        with anyio.fail_after(SECONDS):
            while await page.evaluate("words.at(-1)") != "ended":
                await page.clock.fast_forward(1000)
        seen, words = await ended(page)
    assert seen == [["a", "1", "completed"]]
    assert words == ["connecting", "reconnecting", "ended"]
    assert asked == ["GET", "HEAD"] * 3 + ["GET"]


async def test_who_may_import_it(tmp_path: Path) -> None:
    """Every origin that is allowed, as a module; it is a script, and never kept."""
    async with faking() as upstream, serving(upstream.url, tmp_path, cors_origins="https://app.example.com") as gateway:
        for origin, allowed in (("https://app.example.com", "https://app.example.com"), ("https://evil.example", None)):
            for method in ("GET", "HEAD"):
                async with gateway.session.request(
                    method, f"{gateway.url}/follow.js", headers={"Origin": origin}
                ) as response:
                    assert (response.status, response.content_type) == (200, "text/javascript")
                    assert response.headers.get("Access-Control-Allow-Origin") == allowed
                    assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
                    assert response.headers["Cache-Control"] == "no-store"
