"""Fixtures of the whole suite: real time by default, virtual time where a module asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sse_starlette.sse import AppStatus

from tests.virtual_time import VirtualLoop

REAL_TIME: tuple[str, dict[str, Any]] = ("asyncio", {})
VIRTUAL_TIME: tuple[str, dict[str, Any]] = ("asyncio", {"loop_factory": VirtualLoop})


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """A module whose tests wait overrides this with VIRTUAL_TIME."""
    return REAL_TIME


@pytest.fixture(autouse=True)
def _no_exit_left_over() -> Iterator[None]:
    """sse-starlette remembers, for the whole process, that some server was told to exit."""
    AppStatus.should_exit = False
    yield
    AppStatus.should_exit = False


@pytest.fixture(autouse=True)
def _loop_policy_untouched() -> Iterator[None]:
    before = asyncio.get_event_loop_policy()
    yield
    assert asyncio.get_event_loop_policy() is before
