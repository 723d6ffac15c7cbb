"""The page in other conditions: scrolled, printed, without scripts, read from right to left, and with streams full."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Browser, Page, expect

from tests.support.browser import tab
from tests.support.fake_upstream import faking
from tests.support.harness import serving
from tests.web.test_page import card, playing, says, streams

RIGHT_TO_LEFT = "\u05d0\u05d1\u05d2 \u202egpj.exe"


async def _is_cut(page: Page) -> bool:
    """Whether the list has rows that only scrolling in it shows."""
    cut: bool = await page.evaluate(
        "() => { const l = document.getElementById('jobs'); return l.scrollHeight > l.clientHeight; }"
    )
    return cut


async def test_its_header_stays_and_print_shows_all(tmp_path: Path, browser: Browser) -> None:
    """The ways to the other pages stay in sight; on paper no row is cut off and nothing is left to press."""
    size = {"viewport": {"width": 800, "height": 300}}
    async with playing(tmp_path, browser, size) as (upstream, gateway, _, page):
        says(upstream, "inProgress", 20)
        jobs = [await gateway.copy() for _ in range(12)]
        await page.goto(f"{gateway.url}/#{','.join(job['jobId'] for job in jobs)}")
        await expect(page.locator("#jobs .percent").filter(has_text="20 %")).to_have_count(12)
        await page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
        assert await page.evaluate("() => scrollY") > 0
        for name in ("Jobs", "Operator", "Docs"):
            await expect(page.get_by_role("navigation").get_by_role("link", name=name)).to_be_in_viewport()
        assert await _is_cut(page)
        await page.emulate_media(media="print")
        assert not await _is_cut(page)
        await expect(page.get_by_role("button").filter(visible=True)).to_have_count(0)


async def test_without_scripts(tmp_path: Path, browser: Browser) -> None:
    """A sentence and the command, and no field that does nothing."""
    async with (
        faking() as upstream,
        serving(upstream.url, tmp_path) as gateway,
        tab(browser, java_script_enabled=False) as opened,
    ):
        await opened.page.goto(gateway.url)
        await expect(opened.page.get_by_text("curl -N")).to_be_visible()
        await expect(opened.page.get_by_label("Job URLs or ids")).to_be_hidden()


async def test_texts_of_others_are_isolated(tmp_path: Path, browser: Browser) -> None:
    """Whatever their direction, they do not turn the words around them; controls of direction are not shown at all."""
    async with playing(tmp_path, browser) as (upstream, gateway, _, page):
        error = {"code": RIGHT_TO_LEFT, "message": RIGHT_TO_LEFT, "details": [{"message": RIGHT_TO_LEFT}]}
        says(upstream, "failed", 10, error=error)
        failed = await gateway.copy()
        await page.goto(f"{gateway.url}/#{failed['jobId']}")
        await expect(card(page, failed).locator(".pill")).to_have_text("Failed")
        says(upstream, "inProgress", 20, statusDescription=RIGHT_TO_LEFT)
        running = await gateway.copy()
        await page.get_by_label("Job URLs or ids").fill(running["jobId"])
        await page.keyboard.press("Enter")
        await expect(card(page, running).locator(".note bdi")).to_have_text(RIGHT_TO_LEFT.replace("\u202e", "\ufffd"))
        alone = await page.evaluate(
            "() => { const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); const found = [];"
            "while (walk.nextNode()) if (walk.currentNode.data.includes('\u05d0')) found.push(walk.currentNode);"
            "return found.map(text => text.parentElement.tagName); }"
        )
        assert len(alone) == 4
        assert set(alone) == {"BDI"}
        assert "\u202e" not in await page.locator("body").inner_text()


async def test_streams_are_full(tmp_path: Path, browser: Browser) -> None:
    """EventSource gives up on the 503; the page does not."""
    async with playing(tmp_path, browser, max_streams=1) as (upstream, gateway, opened, page):
        opened.expects("status of 503")
        says(upstream, "inProgress", 20)
        job = await gateway.copy()
        await page.clock.install()
        async with gateway.session.get(job["events"]) as other:
            assert other.status == 200
            await page.goto(f"{gateway.url}/#{job['jobId']}")
            await expect(page.locator("#connection")).to_have_text("Busy, trying again")
        await streams(gateway, 0)
        await page.clock.run_for(5000)
        await expect(page.locator("#connection")).to_have_text("Live")
