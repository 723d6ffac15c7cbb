"""Fixtures of the whole suite: real time by default, virtual time where a module asks for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import hypothesis
import pytest

from gateway.outbound import exchange
from tests.support.browser import browser
from tests.support.examples import FEW, MANY
from tests.support.postgres import database_url, postgres_server
from tests.support.temporary import keep_in_memory
from tests.support.virtual_time import VirtualLoop

__all__ = ["browser", "database_url", "postgres_server"]  # fixtures of every module

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=FEW)
hypothesis.settings.register_profile("thorough", deadline=None, derandomize=True, max_examples=MANY)

LONGEST_FIRST = ("system", "web", "store", "cli")
"""Rooms of tests whose files take the longest."""
MANY_TESTS = 70
QUICK = ("core", "graph", "outbound", "simulator", "streams")

REAL_TIME: tuple[str, dict[str, Any]] = ("asyncio", {})
VIRTUAL_TIME: tuple[str, dict[str, Any]] = ("asyncio", {"loop_factory": VirtualLoop})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough", action="store_true", help="all examples of hypothesis, and the rows marked `thorough` as well"
    )
    parser.addoption(
        "--quick", action="store_true", help="only the rooms whose tests take no other program and no time"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported, since `@settings` takes what it leaves open from the profile of then."""
    keep_in_memory()
    hypothesis.settings.load_profile("thorough" if config.getoption("thorough") else "suite")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for, and say which tests stay together when several run at a time.

    The longest come first, each by itself, so that no worker is left with them at the end; within their kind the order
    stays random. A file of many tests has short ones, and stays together: each group costs time whenever a test ends.
    """
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (left_out if _is_left_out(item, config) else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    rank = {room: place for place, room in enumerate(LONGEST_FIRST)}
    items[:] = sorted(kept, key=lambda item: rank.get(_room(item), len(rank)))
    of_file = Counter(item.path for item in items)
    for item in items:
        alone = _room(item) in LONGEST_FIRST and of_file[item.path] < MANY_TESTS and not _shares(item)
        item.add_marker(pytest.mark.xdist_group(item.nodeid.replace("@", " ") if alone else item.path.name))


def _is_left_out(item: pytest.Item, config: pytest.Config) -> bool:
    if config.getoption("quick") and _room(item) not in QUICK:
        return True
    return not config.getoption("thorough") and item.get_closest_marker("thorough") is not None


def _room(item: pytest.Item) -> str:
    return item.path.parent.name


def _shares(item: pytest.Item) -> bool:
    """Whether a test uses what is dear to start and lives as long as its module."""
    definitions = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    return any(found[-1].scope == "module" for name, found in definitions.items() if name != "anyio_backend")


class Clock:
    """A clock that a test sets; seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A connection for each request: aiohttp repeats a GET by itself when a kept one breaks."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as client:
        yield client


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop of a module's tests: in virtual time where the module is marked so, else in real time.

    A browser is shared by a module's tests and lives in their loop, hence the scope.
    """
    return VIRTUAL_TIME if request.node.get_closest_marker("virtual_time") else REAL_TIME


@pytest.fixture(params=["direct", "ordinary"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of a poll: over aiohttp's private parts, and that which is taken when they have changed."""
    way: str = request.param
    monkeypatch.setattr(exchange, "IS_DIRECT", way == "direct")
    return way


@pytest.fixture(autouse=True)
def _loop_policy_untouched() -> Iterator[None]:
    before = asyncio.get_event_loop_policy()
    yield
    assert asyncio.get_event_loop_policy() is before
