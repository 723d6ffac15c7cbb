"""What the page offers at a simulated upstream, and the notification at the end."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Browser, expect

from gateway.simulator import Simulator, running
from tests.support.browser import tab
from tests.support.harness import serving

RECORDER = """
window.told = [];
window.Notification = class extends Notification {
  constructor(title) { super(title); told.push(title); }
};
"""


async def test_a_demo_copy(tmp_path: Path, browser: Browser) -> None:
    """One click starts a copy with the scenario that was chosen; the page follows it, and tells its end."""
    options = {"permissions": ["notifications"]}
    async with (
        running(Simulator(seconds=1)) as simulator,
        serving(simulator.url, tmp_path) as gateway,
        tab(browser, **options) as opened,
    ):
        page = opened.page
        await page.add_init_script(RECORDER)
        await page.goto(gateway.url)
        await page.get_by_label("Demo copy").select_option("that fails at 56 %")
        await page.get_by_role("button", name="Start a demo copy").click()
        await expect(page.locator("#jobs h3")).to_have_text("Demo copy that fails at 56 %")
        await page.get_by_role("button", name="Notify me at the end").click()
        await expect(page.locator("#jobs .pill")).to_have_text("Failed")
        await expect(page.locator("#jobs .percent")).to_have_text("56 %")
        assert await page.evaluate("() => told") == ["Demo copy that fails at 56 %: Failed"]


async def test_none_at_graph(tmp_path: Path, browser: Browser) -> None:
    """Graph itself would refuse it."""
    async with serving("https://graph.microsoft.com", tmp_path) as gateway, tab(browser) as opened:
        await opened.page.goto(gateway.url)
        await expect(opened.page.get_by_label("Job URLs or ids")).to_be_visible()
        await expect(opened.page.get_by_role("button", name="Start a demo copy")).to_be_hidden()
