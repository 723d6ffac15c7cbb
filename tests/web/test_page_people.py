"""The page for all sorts of people: operators, those with many jobs, with a keyboard alone, with a narrow window."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, ViewportSize, expect

from tests.support.browser import axe, tab
from tests.support.fake_receiver import ALLOWED, figures, receiving, register, saying
from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import OPERATOR_KEY, Running, serving, tail
from tests.web.test_page import STRANGER, card, says, streams

NARROW: ViewportSize = {"width": 320, "height": 640}
ZOOMED: ViewportSize = {"width": 640, "height": 360}  # a window of 1280 by 720 at 200 %
WIDE: ViewportSize = {"width": 1920, "height": 1080}
MANY = 200
LONGEST_TASK = 1500  # ms in which a page that is busy with 200 jobs may not answer; mostly it is below 100


async def unlock(page: Page, key: str = OPERATOR_KEY) -> None:
    await page.get_by_role("link", name="Operator").click()
    await page.get_by_label("Operator key").fill(key)
    await page.keyboard.press("Enter")


def row(page: Page, job: dict[str, Any]) -> Locator:
    return page.locator(f"#all-jobs [data-job='{job['jobId']}']")


@asynccontextmanager
async def all_sorts(folder: Path) -> AsyncIterator[tuple[Running, FakeUpstream, list[dict[str, Any]]]]:
    """A gateway with a job that completed and could not tell its receiver, one that failed, and one that runs."""
    async with (
        faking() as upstream,
        receiving() as receiver,
        serving(upstream.url, folder, **ALLOWED) as gateway,
    ):
        receiver.answer = saying(503, Retry_After="3600")  # it is not tried again by itself
        details = [{"code": "accessDenied", "message": "Access denied", "target": "a" * 300}]
        jobs = []
        error = {"code": "a" * 64, "message": "b" * 300, "details": details}
        sorts: dict[str, dict[str, Any]] = {"completed": {"resourceId": "01NEW" * 20}, "failed": {"error": error}}
        for status, more in sorts.items():
            says(upstream, status, 56, **more)
            job = await gateway.copy()
            await tail(gateway.session, job["events"])
            jobs.append(job)
        await register(gateway, jobs[0], receiver.url)
        await receiver.received(1)
        says(upstream, "inProgress", 27.8, statusDescription="c" * 300)
        jobs.append(await gateway.copy())
        receiver.answer = saying(204)
        yield gateway, upstream, jobs


async def test_the_operator(tmp_path: Path, browser: Browser) -> None:
    """The key opens the list; a row opens; its callbacks can be tried again. The key stays in the tab."""
    async with all_sorts(tmp_path) as (gateway, _, jobs), tab(browser) as opened:
        completed, failed, running = jobs
        page = opened.page
        opened.expects("status of 401")
        await page.goto(gateway.url)
        await unlock(page, "ключ")
        await expect(page.locator("#key-problem")).to_contain_text("ASCII")
        await unlock(page, "not-the-operators-key")
        await expect(page.locator("#key-problem")).to_have_text("That is not the operator key.")
        await unlock(page)
        listed = page.locator("#all-jobs")
        await expect(listed.locator(".pill")).to_have_text(["In progress", "Failed", "Completed"])
        await expect(row(page, failed).locator(".left")).to_have_text("b" * 300)
        for job in (failed, completed):
            await expect(row(page, job).locator(".age")).to_have_text(re.compile(r"^took \d.* m?s · just now$"))
        await page.get_by_label("Status").select_option("Failed")
        await expect(listed.locator("> li")).to_have_count(1)
        await expect(listed.locator("> li")).to_have_attribute("data-job", failed["jobId"])
        await page.get_by_label("Status").select_option("Any")
        await row(page, running).get_by_role("button", name="Details of").click()
        await expect(row(page, running).locator(".callbacks")).to_contain_text("No callbacks are registered.")
        await row(page, running).get_by_role("button", name="Follow", exact=True).click()
        shown = card(page, running)
        await expect(shown.get_by_role("heading", level=3)).to_be_focused()
        await expect(shown.locator(".percent")).to_have_text("27.8 %")
        await expect(shown.locator(".callbacks")).to_contain_text("No callbacks are registered.")
        await page.go_back()
        await row(page, completed).get_by_role("button", name="Details of").click()
        await expect(row(page, completed).locator(".timeline strong")).to_have_text(["Not started", "Completed"])
        callback = row(page, completed).locator(".callbacks > ul > li")
        await expect(callback.locator(".pill")).to_have_text("Active")
        await expect(callback.locator("p.note")).to_contain_text(
            "1 attempt · subscribed to completed, failed · next attempt"
        )
        await expect(callback.locator(".problem")).to_contain_text("503")
        await callback.get_by_text("Last 1 attempt").click()
        await expect(callback.get_by_role("listitem")).to_have_text([re.compile(r" · answered 503 · \d")])
        await callback.get_by_role("button", name="Try again").click()
        await expect(callback.locator(".pill")).to_have_text("Delivered")
        attempts = [re.compile(rf" · answered {status} · \d") for status in (204, 503)]
        await expect(callback.get_by_role("listitem")).to_have_text(attempts)
        assert OPERATOR_KEY not in page.url
        kept = await page.evaluate("() => JSON.stringify([localStorage, sessionStorage, document.cookie])")
        assert kept == '[{},{},""]'
        await page.get_by_role("button", name="Lock").click()
        await expect(page.get_by_label("Operator key")).to_have_value("")
        await expect(listed.locator("> li")).to_have_count(0)
        await page.get_by_role("link", name="Jobs").click()
        await expect(shown.locator(".callbacks")).to_be_hidden()


async def test_the_operators_list_is_live(tmp_path: Path, browser: Browser) -> None:
    """Jobs come, move and end in it, and are stopped; a monitor URL becomes a job; a search finds by name and id."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway, tab(browser) as opened:
        page = opened.page
        says(upstream, "inProgress", 10)
        first = await gateway.copy()
        await page.goto(f"{gateway.url}/#operator")
        await unlock(page)
        await expect(row(page, first).locator(".percent")).to_have_text("10 %")
        says(upstream, "inProgress", 30)
        await expect(row(page, first).locator(".percent")).to_have_text("30 %")
        second = await gateway.copy(headers={"Gateway-Label": "Second", "Authorization": "Bearer x"})
        await expect(row(page, second).locator("h3")).to_have_text("Second")
        await streams(gateway, 1)
        await row(page, second).get_by_role("button", name="Details of").click()
        await row(page, second).get_by_role("button", name="Stop watching").click()
        await row(page, second).get_by_role("button", name="Really stop?").click()
        await expect(row(page, second).locator(".pill")).to_have_text("Stopped")
        await expect(row(page, second).locator(".stop")).to_be_hidden()
        await page.get_by_text("Watch a monitor URL").click()
        await page.get_by_label("Monitor URL", exact=True).fill(f"{upstream.url}/monitor/1")
        await page.get_by_label("Name, if wished").fill("Third")
        await page.get_by_role("button", name="Watch", exact=True).click()
        await expect(page.locator("#all-jobs h3")).to_have_text(["Third", "Second", "a copy"])
        await page.locator("#all").get_by_label("Search by name or id").fill("sec")
        await expect(page.locator("#all-jobs > li:visible")).to_have_count(1)
        await page.locator("#all").get_by_label("Search by name or id").fill(first["jobId"])
        await expect(row(page, first)).to_be_visible()
        await expect(row(page, second)).to_be_hidden()
        says(upstream, "completed", 100)
        await expect(row(page, first).locator(".pill")).to_have_text("Completed")
        await page.get_by_role("link", name="Jobs").click()
        await streams(gateway, 0)


async def test_one_line_each(tmp_path: Path, browser: Browser) -> None:
    """Failures first, of few jobs too; of more than five with reasons; filtered, found, sorted; a line opens into the
    card.
    """
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway, tab(browser) as opened:
        page = opened.page
        says(upstream, "failed", 40, error={"code": "quotaLimitReached", "message": "Full"})
        jobs = [await _named(gateway, "f.")]
        says(upstream, "completed", 100)
        jobs += [await _named(gateway, name) for name in dotted("de")]
        says(upstream, "inProgress", 50)
        jobs += [await _named(gateway, name, end=False) for name in dotted("cab")]
        few = [jobs[1], *jobs[3:], jobs[0]]
        await page.goto(f"{gateway.url}/#{','.join(job['jobId'] for job in few)}")
        names = page.locator("#jobs > li:visible h3")
        await expect(page.locator("#tools")).to_be_hidden()
        await expect(names).to_have_text(dotted("fcabd"))
        await page.get_by_label("Job URLs or ids").fill(jobs[2]["jobId"])
        await page.keyboard.press("Enter")
        await expect(names).to_have_text(dotted("fcabed"))
        filters = page.get_by_role("group", name="Filter by state").get_by_role("button")
        await expect(filters.filter(visible=True)).to_have_text(["All 6", "1 failed", "3 running", "2 completed"])
        await expect(card(page, jobs[0]).locator(".left")).to_have_text("Full")
        await expect(page.locator("#jobs .percent").filter(has_text="50 %")).to_have_count(3)
        shares = await page.evaluate("() => [...document.querySelectorAll('.stack span')].map(s => s.style.width)")
        assert [round(float(share.removesuffix("%")), 1) for share in shares] == [33.3, 16.7, 0, 25]
        await page.locator("#tools").get_by_label("Sort").select_option("Name")
        await expect(names).to_have_text(dotted("abcdef"))
        await filters.filter(has_text="running").click()
        await expect(names).to_have_text(dotted("abc"))
        await page.locator("#tools").get_by_label("Search by name or id").fill("B.")
        await expect(names).to_have_text(["b."])
        await page.locator("#tools").get_by_label("Search by name or id").fill("nothing.")
        await expect(page.locator("#tools")).to_contain_text("No job here matches.")
        await page.locator("#tools").get_by_label("Search by name or id").fill("b.")
        shown = card(page, jobs[5])
        await expect(shown.locator(".body")).to_be_hidden()
        await shown.locator(".pill").click()
        await expect(shown.locator(".curve")).to_be_visible()
        await shown.get_by_role("button", name="Details of b.").press("Enter")
        await expect(shown.locator(".curve")).to_be_hidden()


def dotted(names: str) -> list[str]:
    """Names with a character that no id has, since a search finds ids too."""
    return [f"{name}." for name in names]


async def _named(gateway: Running, label: str, *, end: bool = True) -> dict[str, Any]:
    job = await gateway.copy(headers={"Gateway-Label": label, "Authorization": "Bearer x"})
    if end:
        await tail(gateway.session, job["events"])
    return job


async def test_many_jobs_on_one_stream(tmp_path: Path, browser: Browser) -> None:
    """200 move at once on one stream, and the page stays smooth; one more is refused in words; the list has
    pages, which a search looks through until it has found enough.
    """
    slowly = {"poll_min": 0.5, "poll_max": 1.0}
    async with faking() as upstream, serving(upstream.url, tmp_path, **slowly) as gateway, tab(browser) as opened:
        page = opened.page
        says(upstream, "inProgress", 10)
        jobs = await asyncio.gather(*(gateway.copy() for _ in range(MANY)))
        await page.add_init_script(
            "window.tasks = [0];"
            "new PerformanceObserver(list => window.tasks.push(...list.getEntries().map(entry => entry.duration)))"
            ".observe({ type: 'longtask' });"
        )
        await page.goto(f"{gateway.url}/#{','.join(job['jobId'] for job in jobs)}")
        await expect(page.locator("#jobs > li")).to_have_count(MANY)
        moved = page.locator(".percent").filter(has_text="10 %")
        await expect(moved).to_have_count(MANY)
        height = await page.evaluate("() => document.documentElement.scrollHeight / innerHeight")
        assert height < 2, "more than one screen to scroll"
        await expect(page.locator("#jobs .body")).to_have_count(0)  # built when they are opened
        assert (await figures(gateway))["gateway_streams_open"] == 1
        await page.get_by_label("Job URLs or ids").fill(STRANGER)
        await page.keyboard.press("Enter")
        await expect(page.locator("#follow-problem")).to_contain_text("at most 200 running jobs; 1 not added")
        says(upstream, "completed", 100)
        await expect(page.locator("#summary-words")).to_have_text("200 jobs: 200 completed")
        await expect(page.locator("#connection")).to_have_text("Ended")
        tasks: list[float] = await page.evaluate("() => window.tasks")
        assert max(tasks) < LONGEST_TASK, tasks
        await unlock(page)
        listed = page.locator("#all-jobs > li")
        await expect(listed).to_have_count(50)
        # By key: the page may still be settling under a pointer, since cards out of sight are not laid out.
        await page.get_by_role("button", name="Show more").press("Enter")
        await expect(listed).to_have_count(100)
        search, words = page.locator("#all").get_by_label("Search by name or id"), page.locator("#all-words")
        await search.fill("copy")  # which all are called
        await expect(words).to_have_text("Looked through the newest 100 jobs of more")
        loaded = await listed.evaluate_all("rows => rows.map(row => row.dataset.job)")
        other = next(job for job in jobs if job["jobId"] not in loaded)
        await search.fill(other["jobId"])
        await expect(row(page, other)).to_be_visible()
        await expect(words).to_have_text(f"Looked through all {MANY} jobs")
        await expect(listed).to_have_count(MANY)
        await expect(page.get_by_role("button", name="Show more")).to_be_hidden()


async def test_with_a_keyboard_alone(tmp_path: Path, browser: Browser) -> None:
    """Every step, with the focus where it is expected and seen."""
    async with all_sorts(tmp_path) as (gateway, _, jobs), tab(browser) as opened:
        page = opened.page

        async def press(*keys: str) -> None:
            for key in keys:
                await page.keyboard.press(key)

        await page.goto(gateway.url)
        await press("Tab")
        await expect(page.get_by_role("link", name="Skip to the field")).to_be_focused()
        await press("Enter")
        await expect(page.get_by_label("Job URLs or ids")).to_be_focused()
        await page.keyboard.insert_text(jobs[0]["jobId"])
        await press("Enter")
        shown = card(page, jobs[0])
        await expect(shown.get_by_role("heading", level=3)).to_be_focused()
        await expect(shown.locator(".resource")).to_be_visible()
        await press("Tab")
        await expect(shown.get_by_role("button", name="Stop following")).to_be_focused()
        outline = await page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        await press("Tab")
        await expect(shown.locator("summary")).to_be_focused()
        await press("Enter")
        await expect(shown.locator(".timeline")).to_be_hidden()
        await press("Enter", "Tab")
        await expect(shown.get_by_role("tab", name="curl")).to_be_focused()
        await press("ArrowRight")
        await expect(shown.get_by_role("tab", name="JavaScript")).to_be_focused()
        await expect(shown.get_by_role("tabpanel")).to_contain_text("new EventSource")
        await press("End")
        await expect(shown.get_by_role("tabpanel")).to_contain_text("import httpx")
        await page.get_by_role("link", name="Operator").focus()
        await press("Enter", "Tab", "Tab")  # past the link to the documents
        await expect(page.get_by_label("Operator key")).to_be_focused()
        await page.keyboard.insert_text(OPERATOR_KEY)
        await press("Enter")
        await expect(page.get_by_label("Status")).to_be_focused()
        await press("Tab", "Tab", "Tab", "Tab", "Tab")  # past the search and the form for a monitor URL
        await expect(row(page, jobs[2]).get_by_role("button", name="Details of")).to_be_focused()
        await press("Enter")
        await row(page, jobs[2]).get_by_role("button", name="Follow", exact=True).focus()
        await press("Enter")
        await expect(card(page, jobs[2]).get_by_role("heading", level=3)).to_be_focused()
        await page.keyboard.press("Tab")
        await press("Enter")
        await expect(card(page, jobs[0]).get_by_role("heading", level=3)).to_be_focused()


CROWDED = """
() => {
  const inside = (one, other) => one.left >= other.left - 1 && one.right <= other.right + 1;
  const apart = (one, other) => one.right <= other.left + 1 || other.right <= one.left + 1
    || one.bottom <= other.top + 1 || other.bottom <= one.top + 1;
  const found = [];
  const rows = ".inner, .inner nav, .field, .tools, .filters, .summary, .line, .head, .times";
  for (const row of document.querySelectorAll(rows)) {
    const box = row.getBoundingClientRect();
    const parts = [...row.children].filter((part) => part.checkVisibility({ visibilityProperty: true })
      && !part.matches(".unseen, h1")).map((part) => [part, part.getBoundingClientRect()]);
    for (const [place, [part, own]] of parts.entries()) {
      if (!inside(own, box)) found.push(["cut", part.outerHTML.slice(0, 80)]);
      for (const [other, its] of parts.slice(place + 1)) {
        if (!apart(own, its)) found.push(["over", part.outerHTML.slice(0, 80), other.outerHTML.slice(0, 80)]);
      }
    }
  }
  return found;
}
"""
"""The parts of rows that reach out of their row or lie over one another."""


@pytest.mark.parametrize(
    ("size", "scheme", "forced", "scale"),
    [
        (NARROW, "light", "none", 1),
        (ZOOMED, "light", "none", 2),
        (WIDE, "dark", "none", 1),
        (WIDE, "light", "active", 1),
    ],
)
async def test_it_is_accessible_and_fits(
    tmp_path: Path, browser: Browser, size: ViewportSize, scheme: str, forced: str, scale: int
) -> None:
    """No finding of axe, nothing to scroll sideways, nothing cut or over another: empty, with every kind of job,
    opened, and with the list.
    """
    bypass = {"bypass_csp": True}  # the policy keeps axe out too
    media = {"color_scheme": scheme, "forced_colors": forced}
    options = {"viewport": size, "device_scale_factor": scale, **media, **bypass}
    async with (
        all_sorts(tmp_path) as (gateway, _, jobs),
        tab(browser, **options) as opened,
    ):
        page = opened.page

        async def fits() -> None:
            await page.evaluate(axe())
            found = await page.evaluate("async () => (await axe.run()).violations")
            assert found == [], json.dumps(found, indent=2)
            assert await page.evaluate("() => document.documentElement.scrollWidth") <= size["width"]
            assert await page.evaluate(CROWDED) == []

        await page.goto(gateway.url)
        await fits()
        ids = [job["jobId"] for job in jobs]
        await page.get_by_label("Job URLs or ids").fill(" ".join([*ids, STRANGER, "x" * 200]))
        await page.get_by_role("button", name="Follow", exact=True).click()
        await expect(page.get_by_role("heading", name="Unknown job")).to_be_visible()
        await expect(card(page, jobs[2]).locator(".percent")).to_have_text("27.8 %")
        for summary in await page.get_by_text("Timeline and code").filter(visible=True).all():
            await summary.click()
        await fits()
        more = [await gateway.copy() for _ in range(3)]
        await page.get_by_label("Job URLs or ids").fill(" ".join(job["jobId"] for job in more))
        await page.get_by_role("button", name="Follow", exact=True).click()
        await expect(page.locator("#tools")).to_be_visible()
        await card(page, jobs[1]).get_by_role("button", name="Details of").click()
        await fits()
        await unlock(page)
        for job in jobs:
            await row(page, job).get_by_role("button", name="Details of").click()
        await expect(page.locator("#all-jobs .callbacks .problem")).to_be_visible()
        await fits()
