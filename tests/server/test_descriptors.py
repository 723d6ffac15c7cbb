"""How many streams there may be under a descriptor limit."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from gateway.callbacks import limits
from gateway.outbound import names
from gateway.server.server import POLL_SECONDS, SPARE, within_descriptors
from tests.support.harness import settings


def streams(hard: int, folder: Path, monkeypatch: pytest.MonkeyPatch, most: int = 1000) -> int:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    chosen = settings("http://127.0.0.1:1", folder, max_streams=most, max_jobs=10_000, poll_rate=20)
    return within_descriptors(chosen).max_streams


def test_what_polls_and_callbacks_may_need_is_left_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt may dial several addresses at once."""
    others = SPARE + 20 * POLL_SECONDS + limits.AT_ONCE * names.DIALLED
    assert streams(others + 5000, tmp_path, monkeypatch, 5000) == 5000
    assert streams(others + 4999, tmp_path, monkeypatch, 5000) == 4999


def test_a_very_low_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what there is is still for streams."""
    assert streams(300, tmp_path, monkeypatch) == 100
    assert streams(50, tmp_path, monkeypatch) == 1
