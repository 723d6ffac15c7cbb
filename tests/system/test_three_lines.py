"""The three lines that a front end copies, as they stand in the README, in Chromium and from another origin."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Browser

from tests.support.browser import tab
from tests.support.fake_receiver import going
from tests.support.fake_upstream import answering, faking
from tests.support.front_end import front_end
from tests.support.harness import COPY_BODY, lines_of_the_readme, serving

START = """
async ([url, body]) => {
  // What Graph's JavaScript SDK, polyfills of EventSource and tracers send besides.
  const others = { SdkVersion: "graph-js/3.0.7", "Cache-Control": "no-cache", tracestate: "a=b" };
  const response = await fetch(url, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { Authorization: "Bearer x", "Content-Type": "application/json", "Idempotency-Key": "a-key", ...others },
  });
  const [location, id] = ["Location", "request-id"].map(name => response.headers.get(name));
  return { location, id, job: await response.json() };
}
"""
READ = """
async (url) => {
  const response = await fetch(url, { headers: { Authorization: "Bearer x", ConsistencyLevel: "eventual" } });
  return [response.status, ...["ETag", "Retry-After"].map(name => response.headers.get(name))];
}
"""
FOLLOW = """
([job, lines]) => new Promise((done) => {
  const seen = [];
  const bar = { set value(percentage) { seen.push(percentage); } };
  new Function("job", "bar", "done", `${lines}; globalThis.events = events;`)(
    job, bar, (state) => done({ seen, state, closed: globalThis.events.readyState === EventSource.CLOSED }),
  );
})
"""
REFUSED = """
(url) => new Promise((told) => {
  const events = new EventSource(url);
  events.onopen = () => told("opened");
  events.onerror = () => told(events.readyState === EventSource.CLOSED ? "refused" : "reconnecting");
})
"""


async def test_from_an_origin_that_is_allowed(tmp_path: Path, browser: Browser) -> None:
    """The copy is started with a preflight, its Location read, and its events followed to the end and no further."""
    async with (
        front_end() as origin,
        faking() as upstream,
        serving(upstream.url, tmp_path, cors_origins=origin) as gateway,
        tab(browser) as opened,
    ):
        upstream.on_poll = going(27.8, 60)
        await opened.page.goto(origin)
        url = f"{gateway.url}/v1.0/me/drive/items/1/copy"
        started = await opened.page.evaluate(START, [url, COPY_BODY])
        job = started["job"]
        assert started["location"] == f"{gateway.url}/jobs/{job['jobId']}"
        assert started["id"]
        lines = lines_of_the_readme("const events = new EventSource")
        ended = await opened.page.evaluate(FOLLOW, [job, lines])
        assert ended["seen"] == [0, 27.8, 60]
        assert (ended["state"]["status"], ended["closed"]) == ("completed", True)


async def test_what_an_allowed_origin_reads(tmp_path: Path, browser: Browser) -> None:
    """An item and its tag, a refusal of upstream's and its wait, and an error of the gateway's."""
    async with (
        front_end() as origin,
        faking() as upstream,
        serving(upstream.url, tmp_path, cors_origins=origin) as gateway,
        tab(browser) as opened,
    ):
        opened.expects("429", "404")
        await opened.page.goto(origin)
        answers = (
            ("/v1.0/me/drive/root", web.json_response({"id": "1"}, headers={"ETag": '"1"'}), [200, '"1"', None]),
            ("/v1.0/me/drive/root", web.json_response({}, status=429, headers={"Retry-After": "7"}), [429, None, "7"]),
            ("/jobs/nobody", web.Response(), [404, None, None]),
        )
        for path, item, read in answers:
            upstream.on_item = answering(lambda item=item: item)  # type: ignore[misc]
            assert await opened.page.evaluate(READ, gateway.url + path) == read


@pytest.mark.parametrize("allowed", ["", "https://app.example.com"])
async def test_from_an_origin_that_is_not(allowed: str, tmp_path: Path, browser: Browser) -> None:
    """Neither the copy, which is not even started, nor the events."""
    async with (
        front_end() as origin,
        faking() as upstream,
        serving(upstream.url, tmp_path, cors_origins=allowed) as gateway,
        tab(browser) as opened,
    ):
        opened.expects("blocked by CORS policy", "net::ERR_FAILED")
        job = await gateway.copy()
        started = upstream.copies()
        await opened.page.goto(origin)
        url = f"{gateway.url}/v1.0/me/drive/items/1/copy"
        with pytest.raises(Exception, match="Failed to fetch"):
            await opened.page.evaluate(START, [url, COPY_BODY])
        assert await opened.page.evaluate(REFUSED, job["events"]) == "refused"
        assert upstream.copies() == started
