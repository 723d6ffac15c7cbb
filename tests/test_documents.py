"""The pages for people: their links and proofs are there, and the page on changes has each version and its stores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.app import VERSION
from gateway.settings import unknown
from gateway.store.postgres import database
from gateway.store.sqlite import file

CHECKOUT = Path(__file__).parent.parent
PAGES = [
    CHECKOUT / "README.md",
    *sorted((CHECKOUT / ".github").glob("*.md")),
    *sorted((CHECKOUT / "deploy").rglob("*.md")),
]
CHANGES = (CHECKOUT / ".github" / "CHANGELOG.md").read_text()
PROMISES = (CHECKOUT / ".github" / "PROMISES.md").read_text()


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the checkout, and to a heading that it has; and each setting that is named exists."""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link
    assert not unknown(dict.fromkeys(re.findall(r"GATEWAY_[A-Z]+(?:_[A-Z]+)*", page.read_text()), ""))


def test_each_promise_has_its_proof() -> None:
    """One file or several, each of them there."""
    rows = re.findall(r"(?m)^\| (.+) \| (.+) \|$", PROMISES)[1:]
    assert len(rows) > 20
    for promise, proof in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)`", proof)
        assert named, promise
        assert all((CHECKOUT / name).exists() for name in named), promise


def test_changes_are_told_of_this_version() -> None:
    """It stands first, with the versions of both stores: a new migration is an upgrade that operators must know of."""
    versions = [tuple(map(int, found)) for found in re.findall(r"(?m)^## (\d+)\.(\d+)\.(\d+)$", CHANGES)]
    assert ".".join(map(str, versions[0])) == VERSION
    assert versions == sorted(set(versions), reverse=True)
    stores = re.search(r"Store: SQLite (\d+), PostgreSQL (\d+)\.", CHANGES)
    assert stores is not None
    assert [int(version) for version in stores.groups()] == [len(file.MIGRATIONS), len(database.MIGRATIONS)]
