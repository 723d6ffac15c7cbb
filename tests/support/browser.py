"""A real Chromium for the tests: Debian's, Google's, or the one that `playwright install chromium` brings.

One is started for each module that asks for it, and lives in the loop of its tests. A complaint on a page's console, an
exception in it, or a breach of its own policy fails the test.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Playwright, async_playwright, expect

from tests.support.node import FOLDER, node
from tests.support.programs import program

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WITHOUT = (
    # Two pages of its own, which each context loads: a second of CPU.
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup"),
    "SpareRendererForSitePerProcess",  # a process for a page that may come
    # Of those that Playwright leaves out, whose list this replaces, what could touch a page.
    *("AvoidUnnecessaryBeforeUnloadCheckSync", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "MediaRouter"),
    *("OptimizationHints", "PaintHolding", "PreconnectToSearch", "ThirdPartyStoragePartitioning"),
)
"""Features of Chromium that no test needs."""
PATIENCE = 30_000.0  # ms, for what a page has to show, on a machine that has much else to do

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
async def browser(anyio_backend: object) -> AsyncIterator[Browser]:
    """Skips the test where there is no browser; in CI it fails."""
    async with async_playwright() as playwright:
        options = [f"--disable-features={','.join(WITHOUT)}"]
        browser = await playwright.chromium.launch(executable_path=chromium(playwright), args=options)
        yield browser
        await browser.close()


def chromium(playwright: Playwright) -> str:
    own = playwright.chromium.executable_path
    if Path(own).exists():
        return own
    return next(filter(None, map(shutil.which, NAMES)), None) or program("chromium", package="chromium-headless-shell")


class Tab:
    """A page, and what it complained about, which must be nothing at the end but what a test `expects`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = ()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _said(self, said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            self.complaints.append(said.text)

    def expects(self, *parts: str) -> None:
        """Complaints of the network that the browser itself makes."""
        self.expected = parts

    def check(self) -> None:
        odd = [text for text in self.complaints if not any(part in text for part in self.expected)]
        assert not odd, odd


@asynccontextmanager
async def tab(browser: Browser, **options: Any) -> AsyncIterator[Tab]:
    """A tab in a context of its own, with the options that Playwright's `new_context` has."""
    async with await browser.new_context(**{"reduced_motion": "reduce", **options}) as context:
        context.set_default_timeout(PATIENCE)
        tab = Tab(await context.new_page())
        await tab.page.bring_to_front()  # else a page without a window may lack the focus
        yield tab
        tab.check()


def axe() -> str:
    """The source of axe-core."""
    node()  # whose installation brings it
    return (FOLDER / "node_modules" / "axe-core" / "axe.min.js").read_text()
