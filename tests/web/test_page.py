"""The page for people in a real Chromium: what it shows of jobs, and what it does when things break."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web
from playwright.async_api import Browser, Locator, Page, Request, expect

from tests.support.browser import Tab, tab
from tests.support.fake_receiver import figures
from tests.support.fake_upstream import FakeUpstream, answering, faking
from tests.support.harness import Process, Running, lines_of_the_readme, serving, tail
from tests.support.wire import wired

LOST = "net::ERR_"  # how Chromium tells of a connection that broke
NOBODY = "status of 404"  # and of a stream of unknown jobs
STRANGER = "nobody-knows-this-job-id"
MARKUP = '<img src="x" onerror="document.title=1"><script>document.title=1</script>&lt;b&gt;'


def says(upstream: FakeUpstream, status: str, percentage: float, **more: Any) -> None:
    """What the monitors of all jobs answer from now on."""
    state = {"status": status, "percentageComplete": percentage, **more}
    upstream.on_poll = answering(lambda: web.json_response(state))


@asynccontextmanager
async def playing(
    folder: Path, browser: Browser, options: dict[str, Any] | None = None, **values: Any
) -> AsyncIterator[tuple[FakeUpstream, Running, Tab, Page]]:
    """A fake upstream, a gateway with `values` as settings, and a tab with Playwright's `options`."""
    async with (
        faking() as upstream,
        serving(upstream.url, folder, **values) as gateway,
        tab(browser, **(options or {})) as opened,
    ):
        yield upstream, gateway, opened, opened.page


def card(page: Page, job: dict[str, Any]) -> Locator:
    return page.locator(f"#jobs [data-job='{job['jobId']}']")


def turns(of: Locator) -> Locator:
    return of.locator(".timeline strong")


async def streams(gateway: Running, number: int) -> None:
    """Wait until so many are open on the server: seconds, at most."""
    with anyio.fail_after(10):
        while (await figures(gateway))["gateway_streams_open"] != number:  # noqa: ASYNC110 - a metric has no event
            await anyio.sleep(0.02)


async def test_progress_moves(tmp_path: Path, browser: Browser) -> None:
    """From the first visit over a pasted URL to the result, with the bar, the timeline, the words and the title."""
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        says(upstream, "notStarted", 0)
        job = await gateway.copy()
        await page.goto(gateway.url)
        await expect(page.get_by_role("heading", name="Watch a copy as it happens")).to_be_visible()
        await expect(page.locator("#connection")).to_be_hidden()
        await page.get_by_label("Job URLs or ids").fill(f"  {gateway.url}/jobs/{job['jobId']}\n")
        await page.get_by_role("button", name="Follow").click()
        shown = card(page, job)
        await expect(page.locator("#connection")).to_have_text("Live")
        await expect(shown.locator(".pill")).to_have_text("Not started")
        says(upstream, "inProgress", 27.8, statusDescription="3/11 files")
        await expect(shown.locator(".percent")).to_have_text("27.8 %")
        await expect(shown.get_by_role("progressbar")).to_have_attribute("value", "27.8")
        await expect(shown.locator(".note")).to_contain_text("3/11 files · running for")
        await expect(page).to_have_title("28 % · Copy gateway")
        says(upstream, "waiting", 50)
        await expect(shown.locator(".pill")).to_have_text("Waiting")
        says(upstream, "completed", 100, resourceId="01NEW")
        await expect(shown.locator(".resource")).to_have_text("/v1.0/me/drive/items/01NEW")
        assert await turns(shown).all_text_contents() == ["Not started", "In progress", "Waiting", "Completed"]
        await expect(page.locator("#connection")).to_have_text("Ended")
        await expect(page.locator("#announcer")).to_contain_text("Completed")
        await expect(page).to_have_title("Completed · Copy gateway")
        assert page.url == f"{gateway.url}/#{job['jobId']}"
        await page.reload()
        await expect(turns(shown)).to_have_count(4)


async def test_the_lines_it_offers_do_the_same(tmp_path: Path, browser: Browser) -> None:
    """Those for curl and for Python are run, those for a browser are the README's; and the result is read."""
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        says(upstream, "completed", 100, resourceId="it's")
        job = await gateway.copy()
        await page.goto(f"{gateway.url}/#{job['jobId']}")
        shown = card(page, job)

        async def lines(language: str) -> str:
            await shown.get_by_role("tab", name=language).click()
            return await shown.get_by_role("tabpanel").locator("code").inner_text()

        curl = (await anyio.run_process(["sh", "-c", await lines("curl")])).stdout.decode()
        assert "event: completed\ndata: {" in curl
        python = (await anyio.run_process([sys.executable, "-c", await lines("Python")])).stdout.decode()
        assert '2 completed {"jobId"' in python
        readme = lines_of_the_readme("const events = new EventSource")
        assert await lines("JavaScript") == readme.replace("job.events", json.dumps(job["events"]))
        read = await shown.locator(".result pre").inner_text()
        await anyio.run_process(["sh", "-c", read], env={"GRAPH_TOKEN": "the token", "PATH": "/usr/bin:/bin"})
        method, path, headers, _ = upstream.asked[-1]
        assert (method, path) == ("GET", "/v1.0/me/drive/items/it's")
        assert headers["Authorization"] == "Bearer the token"


async def test_the_first_copy_it_offers_works(tmp_path: Path, browser: Browser) -> None:
    """The line of the first visit; and its whole answer, pasted, is understood."""
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        says(upstream, "inProgress", 10)
        await page.goto(gateway.url)
        answer = await anyio.run_process(["sh", "-c", await page.locator("#first-copy code").inner_text()])
        location = re.search(r"(?mi)^location: \S+", answer.stdout.decode())
        assert location is not None
        await page.get_by_label("Job URLs or ids").fill(location[0])
        await page.keyboard.press("Enter")
        await expect(page.locator(".percent")).to_have_text("10 %")
        await expect(page.locator("#follow-problem")).to_be_empty()


async def test_the_network_drops_and_comes_back(tmp_path: Path, browser: Browser) -> None:
    """It says so, goes on by itself after the last event it saw, and shows no event twice."""
    async with playing(tmp_path, browser) as (upstream, gateway, opened, page), wired(gateway.url) as wire:
        opened.expects(LOST)
        says(upstream, "inProgress", 20)
        job = await gateway.copy()
        await page.goto(f"{wire.url}/#{job['jobId']}")
        shown = card(page, job)
        await expect(shown.locator(".percent")).to_have_text("20 %")
        await wire.down()
        await expect(page.locator("#connection")).to_have_text("Reconnecting")
        await expect(page.locator("#announcer")).to_have_text("Reconnecting")
        await expect(shown).to_have_attribute("data-away", "")
        await expect(shown.locator(".trouble")).to_contain_text("Not connected since")
        says(upstream, "waiting", 40)
        await streams(gateway, 0)
        await wire.up()
        await expect(shown.locator(".percent")).to_have_text("40 %")
        await expect(shown.locator(".trouble")).to_be_hidden()
        await expect(page.locator("#connection")).to_have_text("Live")
        assert await turns(shown).all_text_contents() == ["Not started", "In progress", "Waiting"]
        says(upstream, "completed", 100)
        await expect(shown.locator(".pill")).to_have_text("Completed")
        assert (await figures(gateway))["gateway_events_sent_total"] == 4


async def test_the_gateway_restarts_under_it(tmp_path: Path, browser: Browser) -> None:
    """Killed and started again on its store: the page goes on with the same job."""
    async with faking() as upstream, Process(upstream.url, tmp_path) as gateway, tab(browser) as opened:
        page = opened.page
        opened.expects(LOST)
        says(upstream, "inProgress", 20)
        await page.goto(gateway.url)
        job = await page.evaluate(
            """async () => (await fetch("v1.0/me/drive/items/1/copy", {
              method: "POST", body: "{}", headers: { Authorization: "Bearer x" },
            })).json()"""
        )
        await page.evaluate("id => { location.hash = id; }", job["jobId"])
        shown = card(page, job)
        await expect(shown.locator(".percent")).to_have_text("20 %")
        gateway.kill()
        await expect(page.locator("#connection")).to_have_text("Reconnecting")
        says(upstream, "inProgress", 60)
        await gateway.start()
        await expect(shown.locator(".percent")).to_have_text("60 %")
        says(upstream, "completed", 100)
        await expect(shown.locator(".pill")).to_have_text("Completed")
        assert await turns(shown).all_text_contents() == ["Not started", "In progress", "Completed"]


async def test_a_closed_tab_leaves_no_stream(tmp_path: Path, browser: Browser) -> None:
    """Within seconds, on the server; and a page that was left and is kept for the way back holds none either."""
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        says(upstream, "inProgress", 20)
        job = await gateway.copy()

        await page.goto(f"{gateway.url}/#{job['jobId']}")
        await streams(gateway, 1)
        await page.goto("about:blank")
        await streams(gateway, 0)
        await page.go_back()
        await streams(gateway, 1)
        await expect(card(page, job).locator(".percent")).to_have_text("20 %")
        await page.close()
        await streams(gateway, 0)


async def test_markup_in_an_error_is_text(tmp_path: Path, browser: Browser) -> None:
    """Whatever upstream says is shown as it is; the error in words, with what to do."""
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        error = {"code": "nameAlreadyExists", "message": MARKUP, "details": [{"code": MARKUP, "target": MARKUP}]}
        says(upstream, "failed", 56, error=error)
        job = await gateway.copy()
        assert (await tail(gateway.session, job["events"]))[-1].name == "failed"
        says(upstream, MARKUP, 1, statusDescription=MARKUP)
        running = await gateway.copy()
        await page.goto(f"{gateway.url}/#{job['jobId']},{running['jobId']}")
        shown = card(page, job)
        await expect(shown.get_by_role("heading", name="The copy failed")).to_be_visible()
        await expect(shown.locator(".message")).to_have_text(f"{MARKUP} nameAlreadyExists")
        await expect(shown.locator(".verdict li code")).to_have_text(MARKUP[:64])
        await expect(shown.locator(".advice")).to_contain_text("conflictBehavior=rename")
        await expect(card(page, running).locator(".note")).to_contain_text(MARKUP)
        assert await page.locator("img, script:not([src])").count() == 0


async def test_a_gateway_that_lost_track(tmp_path: Path, browser: Browser) -> None:
    """Is not the same as a copy that failed."""
    async with playing(tmp_path, browser, job_deadline=0.5) as (upstream, gateway, _, page):
        says(upstream, "inProgress", 20)
        job = await gateway.copy()
        await page.goto(f"{gateway.url}/#{job['jobId']}")
        verdict = card(page, job).locator(".verdict")
        await expect(verdict.get_by_role("heading")).to_have_text("The gateway lost track of the copy")
        await expect(verdict.locator(".advice")).to_contain_text("there could be two copies")


async def test_stopped_by_request(tmp_path: Path, browser: Browser) -> None:
    """Is grey, and no failure."""
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        says(upstream, "inProgress", 20)
        job = await gateway.copy()
        url = f"{gateway.url}/jobs/{job['jobId']}"
        async with gateway.session.delete(url, headers={"Authorization": f"Bearer {job['jobKey']}"}) as response:
            assert response.status == 204
        await page.goto(f"{gateway.url}/#{job['jobId']}")
        shown = card(page, job)
        await expect(shown.locator(".pill")).to_have_text("Stopped")
        await expect(shown.locator(".pill")).to_have_attribute("data-tone", "calm")
        await expect(turns(shown).last).to_have_text("Stopped")
        await expect(shown.locator(".verdict").get_by_role("heading")).to_have_text("Watching was stopped")
        await expect(shown.locator(".message")).to_contain_text("may have gone on")
        await expect(page).to_have_title("Stopped · Copy gateway")


async def test_its_name_and_its_url(tmp_path: Path, browser: Browser) -> None:
    """The label is the title, as text; without one the copy's name; the URL of the job goes to the clipboard."""
    permissions = {"permissions": ["clipboard-read", "clipboard-write"]}
    async with playing(tmp_path, browser, permissions) as (upstream, gateway, _, page):
        says(upstream, "inProgress", 20)
        job = await gateway.copy(headers={"Gateway-Label": "Plans <b>2027</b>", "Authorization": "Bearer x"})
        other = await gateway.copy()
        await page.goto(f"{gateway.url}/#{job['jobId']},{other['jobId']}")
        shown = card(page, job)
        await expect(shown.get_by_role("heading", level=3)).to_have_text("Plans <b>2027</b>")
        await expect(card(page, other).get_by_role("heading", level=3)).to_have_text("a copy")
        await expect(shown.locator(".meta code")).to_have_text(job["jobId"])
        await shown.get_by_role("button", name="URL to clipboard").click()
        assert await page.evaluate("() => navigator.clipboard.readText()") == f"{gateway.url}/jobs/{job['jobId']}"
        await expect(page.get_by_role("button", name=re.compile("^Copy"))).to_have_count(0)


async def test_why_nothing_moves(tmp_path: Path, browser: Browser) -> None:
    """Throttling is told with the time of the next look, counted down also from a later visit, and goes with the next
    good answer.
    """
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        upstream.on_poll = answering(lambda: web.Response(status=429, headers={"Retry-After": "10"}))
        job = await gateway.copy()
        await page.goto(f"{gateway.url}/#{job['jobId']}")
        trouble = card(page, job).locator(".trouble")

        async def seconds() -> int:
            words = re.compile(r"^Graph throttles; next look in (\d+) s\.$")
            await expect(trouble).to_have_text(words)
            before = await trouble.inner_text()
            await expect(trouble).not_to_have_text(before)
            now = words.match(await trouble.inner_text())
            assert now is not None
            return int(now[1])

        await seconds()
        left = await seconds()
        async with page.expect_response(lambda response: response.request.method == "HEAD"):
            await page.reload()
        assert await seconds() <= left
        says(upstream, "inProgress", 20)
        await expect(card(page, job).locator(".percent")).to_have_text("20 %")
        await expect(trouble).to_be_hidden()


BRIEF = """
async () => {
  const { Curve } = await import("/page/curve.js");
  const drawn = (length) => {
    const curve = new Curve();
    curve.paint([{ at: 1e12, percentage: 0 }, { at: 1e12 + length, percentage: 100 }], 1e12 + length);
    return curve.node.hidden || curve.times.slice(1).map((time) => time.textContent).join(" ");
  };
  return [0, 99, 200].map(drawn);
}
"""


async def test_the_curve(tmp_path: Path, browser: Browser) -> None:
    """It is drawn from the log: as many points as percentages came, from bottom left, with the time below, unless that
    is too short to tell.
    """
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        job = await gateway.copy()
        await page.goto(f"{gateway.url}/#{job['jobId']}")
        shown = card(page, job)
        for percentage in (20, 60):
            says(upstream, "inProgress", percentage)
            await expect(shown.locator(".percent")).to_have_text(f"{percentage} %")
        says(upstream, "completed", 100)
        await expect(shown.locator(".pill")).to_have_text("Completed")
        await page.reload()
        await expect(shown.locator(".pill")).to_have_text("Completed")
        drawn = await shown.locator(".curve .trace").get_attribute("d")
        assert drawn is not None
        heights = [float(point.split()[1]) for point in drawn.removeprefix("M").split("L")]
        assert drawn.startswith("M0.00 100.00L")
        assert [height for height in heights if height != 100] == [80, 40, 0, 0]
        brief = await page.evaluate(BRIEF)
        assert brief == [True, True, "0.1 s 0.2 s"]
        label = re.compile("^Percentage over time: 100 %")
        await expect(shown.locator(".curve svg")).to_have_attribute("aria-label", label)
        await expect(shown.locator(".curve .times span").last).to_have_text(re.compile(r"\d s$"))


async def test_a_job_is_added_to_an_open_stream(tmp_path: Path, browser: Browser) -> None:
    """The one stream is opened anew from where each job stands, so that no event comes twice; and when one goes."""
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        says(upstream, "inProgress", 20)
        first, second = await gateway.copy(), await gateway.copy()
        asked: list[str] = []
        page.on("request", lambda request: _keep(asked, request))
        await page.goto(f"{gateway.url}/#{first['jobId']}")
        await expect(card(page, first).locator(".percent")).to_have_text("20 %")
        await page.get_by_label("Job URLs or ids").fill(second["events"])
        await page.keyboard.press("Enter")
        await expect(card(page, second).locator(".percent")).to_have_text("20 %")
        assert page.url.endswith(f"/#{second['jobId']},{first['jobId']}")
        assert asked == [
            f"/events?job={first['jobId']}",
            f"/events?job={second['jobId']}&job={first['jobId']}&lastEventId=0,2",
        ]
        assert (await figures(gateway))["gateway_events_sent_total"] == 4
        says(upstream, "inProgress", 30)
        for job in (first, second):
            await expect(card(page, job).locator(".percent")).to_have_text("30 %")
        await card(page, second).get_by_role("button", name="Stop following").click()
        await expect(card(page, second)).to_have_count(0)
        await expect(page.locator("#connection")).to_have_text("Live")
        assert asked[-1] == f"/events?job={first['jobId']}&lastEventId=3"


def _keep(asked: list[str], request: Request) -> None:
    if "/events" in request.url:
        asked.append("/" + request.url.split("/", 3)[3])


async def test_what_nobody_knows(tmp_path: Path, browser: Browser) -> None:
    """Alone, where EventSource gives up, and beside a job that goes on; a word that is no job; and the way back."""
    async with playing(tmp_path, browser) as (upstream, gateway, opened, page):
        opened.expects(NOBODY)
        says(upstream, "inProgress", 20)
        job = await gateway.copy()
        await page.goto(f"{gateway.url}/#job={STRANGER}")
        await expect(page.get_by_role("heading", name="Unknown job")).to_be_visible()
        await expect(page.get_by_text("Timeline and code")).to_be_hidden()
        await expect(page.locator("#connection")).to_have_text("Ended")
        await page.get_by_label("Job URLs or ids").fill(
            f"{job['jobId']}, https://example.com/monitor/secret {STRANGER}s"
        )
        await page.keyboard.press("Enter")
        await expect(card(page, job).locator(".percent")).to_have_text("20 %")
        await expect(page.get_by_role("heading", name="Unknown job")).to_have_count(2)
        await expect(page.locator("#follow-problem")).to_contain_text("own monitor URL, a secret")
        await expect(page.locator("#follow-problem")).not_to_contain_text("example.com")
        await expect(page.get_by_label("Job URLs or ids")).to_have_value("")
        await expect(page.locator("#connection")).to_have_text("Live")
        await page.get_by_role("button", name="Remove ended").click()
        await expect(page.get_by_role("heading", name="Unknown job")).to_have_count(0)
        await page.evaluate("() => { location.hash = ''; }")
        await expect(page.get_by_role("heading", name="Watch a copy as it happens")).to_be_visible()
