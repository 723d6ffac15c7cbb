"""The page and a job whose status asks for a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.jobs.test_operations import Operations
from tests.support.browser import axe, tab
from tests.support.fake_upstream import serving_fake
from tests.support.harness import OPERATOR_KEY, TOKEN, serving
from tests.web.test_page_people import unlock

NOTEBOOK = "/v1.0/me/onenote/notebooks/1/copyNotebook"


@pytest.mark.parametrize("width", [320, 1280])
async def test_a_token_is_handed_in(width: int, tmp_path: Path, browser: Browser) -> None:
    """The page asks for it with the job's key, or under the operator's; the job goes on, and neither value stays."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.good = {"Bearer fresh"}
        upstream.told = [{"status": "inProgress"}]
        async with gateway.session.post(gateway.url + NOTEBOOK, json={"renameAs": "Mine"}, headers=TOKEN) as response:
            job: dict[str, Any] = await response.json()
        async with tab(browser, viewport={"width": width, "height": 800}, bypass_csp=True) as opened:
            page = opened.page
            opened.expects("401")
            await page.goto(f"{gateway.url}/#{job['jobId']}")
            shown = page.locator("#jobs article")
            await expect(shown).to_contain_text("Mine")
            await expect(shown).to_contain_text(
                "Graph asks for a token; the gateway waits until a fresh one is handed in."
            )
            await page.evaluate(axe())
            found = await page.evaluate("async () => (await axe.run()).violations")
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
            assert await page.evaluate("() => document.documentElement.scrollWidth") <= width
            await shown.get_by_label("jobKey").fill("another")
            await shown.get_by_label("access token").fill("Bearer fresh")
            await shown.get_by_role("button", name="Hand in").click()
            await expect(shown).to_contain_text("That is not the job\u2019s key.")
            await shown.get_by_label("jobKey").fill(job["jobKey"])
            await page.keyboard.press("Enter")
            await expect(shown.locator("form.token")).to_be_hidden()
            assert await shown.get_by_label("access token").input_value() == ""
            await expect(shown).to_contain_text("In progress")
            upstream.good = set()
            await expect(shown.locator("form.token")).to_be_visible()
            await unlock(page, OPERATOR_KEY)
            await page.get_by_role("link", name="Jobs").click()
            await expect(shown.get_by_label("jobKey")).to_be_hidden()
            upstream.good = {"Bearer other"}
            upstream.told = [{"status": "succeeded", "resourceLocation": "/me/onenote/notebooks/2"}]
            await shown.get_by_label("access token").fill("other")
            await shown.get_by_role("button", name="Hand in").click()
            await expect(shown).to_contain_text("The result")
            await expect(shown).to_contain_text("/v1.0/me/onenote/notebooks/2")
            await expect(shown).not_to_contain_text("Read the")  # at Graph alone
