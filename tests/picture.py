"""`python -m tests.picture`: take the README's picture of the page anew, of three copies that a fake upstream makes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from aiohttp import web
from playwright.async_api import async_playwright, expect

from tests.support.browser import chromium
from tests.support.fake_upstream import faking
from tests.support.harness import OPERATOR_KEY, serving

PICTURE = Path(__file__).parent.parent / ".github" / "page.png"
WIDTH = 720  # CSS pixels, of two device pixels each
ERROR = {"code": "quotaLimitReached", "message": "Insufficient space in the target drive"}
PACE: list[float] = [2, 7, 15, 24, 29, 31, 32, 38, 46, 51, 57]
COPIES: list[tuple[str, list[float], dict[str, Any]]] = [
    ("Quarterly plans 2027", [30, 70], {"status": "completed", "percentageComplete": 100, "resourceId": "01"}),
    ("Team site backup", PACE, {"status": "inProgress", "percentageComplete": 62, "statusDescription": "7/11 files"}),
    ("Holiday photos", [4, 11, 27, 38], {"status": "failed", "percentageComplete": 41, "error": ERROR}),
]
"""Labels, the percentage in each second, and the state after them."""


async def take(picture: Path) -> None:
    start = monotonic()

    async def poll(request: web.Request) -> web.StreamResponse:
        _, pace, last = COPIES[int(request.path.rpartition("/")[2]) - 1]
        second = int(monotonic() - start)
        state = {"status": "inProgress", "percentageComplete": pace[second]} if second < len(pace) else last
        return web.json_response(state)

    with TemporaryDirectory() as folder:
        async with (
            faking() as upstream,
            serving(upstream.url, Path(folder)) as gateway,
            async_playwright() as playwright,
            await playwright.chromium.launch(executable_path=chromium(playwright)) as browser,
        ):
            upstream.on_poll = poll
            size: dict[str, Any] = {"viewport": {"width": WIDTH, "height": 1000}, "device_scale_factor": 2}
            page = await browser.new_page(**size, reduced_motion="reduce", locale="en-GB")
            await page.goto(f"{gateway.url}/#operator")
            await page.get_by_label("Operator key").fill(OPERATOR_KEY)
            await page.keyboard.press("Enter")
            await page.locator("#all").get_by_label("Sort").select_option("Failures first")
            start = monotonic()
            for label, *_ in COPIES:
                await gateway.copy(headers={"Authorization": "Bearer x", "Gateway-Label": label})
            running = page.locator("#all-jobs > li").filter(has_text="Team site backup")
            await running.get_by_role("button", name="Details of").click()
            await expect(page.locator("#all-jobs .percent")).to_have_text(["41 %", "62 %", "100 %"])
            await running.locator("summary").first.click()
            await page.mouse.move(0, 0)
            await page.get_by_role("heading", name="All jobs").focus()
            end = await page.evaluate("document.getElementById('all-jobs').getBoundingClientRect().bottom")
            await page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": end + 6})


if __name__ == "__main__":
    asyncio.run(take(PICTURE))
