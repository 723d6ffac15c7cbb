"""`gateway backup`: a copy that a gateway starts from, made while another one writes."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.errors import StoreRefused
from gateway.simulator import Simulator, running
from gateway.store.sqlite.backup import backup
from tests.support.commands import gateway
from tests.support.harness import OPERATOR, Running, serving, tail

KEY = "the-secret-key-of-the-store"


async def jobs(served: Running) -> dict[str, str]:
    """The status of each."""
    async with served.session.get(f"{served.url}/jobs", headers=OPERATOR) as response:
        return {job["jobId"]: job["status"] for job in (await response.json())["value"]}


async def test_a_copy_of_a_store_in_use(tmp_path: Path) -> None:
    """Only its owner may read it. A gateway that starts on it knows the jobs of that time, and ends the running one."""
    copied = tmp_path / "copied"
    copied.mkdir()
    target = copied / "gateway.db"
    own: dict[str, Any] = {"secret_key": KEY}
    async with running(Simulator(seconds=2, steps=100)) as upstream:
        async with serving(upstream.url, tmp_path, **own) as served:
            started = [await served.copy("/v1.0/me/drive/items/copy"), await served.copy("/v1.0/me/drive/items/failed")]
            await tail(served.session, started[1]["events"])
            store = {"GATEWAY_STORE_URL": f"sqlite:///{tmp_path}/gateway.db", "GATEWAY_SECRET_KEY": KEY}
            ended, output, errors = await gateway("backup", str(target), **store)
            assert (ended, f"Copied {tmp_path}/gateway.db to {target}" in output) == (0, True), errors
            later = await served.copy("/v1.0/me/drive/items/copy")
            assert {*await jobs(served)} == {job["jobId"] for job in (*started, later)}
        assert os.listdir(copied) == ["gateway.db"]  # noqa: PTH208
        assert target.stat().st_mode & 0o777 == 0o600
        async with serving(upstream.url, copied, **own) as restored:
            assert {*await jobs(restored)} == {job["jobId"] for job in started}
            events = await tail(restored.session, f"{restored.url}/jobs/{started[0]['jobId']}/events")
            assert events[-1].name == "completed"
            assert (await jobs(restored))[started[1]["jobId"]] == "failed"


async def test_what_is_not_copied(tmp_path: Path) -> None:
    """A file is never overwritten, no part of a copy stays, and each refusal says what to do."""
    store, target = tmp_path / "gateway.db", tmp_path / "copy"
    with closing(sqlite3.connect(store)) as other:
        other.execute("CREATE TABLE anything (x)")
    url = {"GATEWAY_STORE_URL": f"sqlite:///{store}", "COLUMNS": "300"}
    for given, file, status, words in (
        (url, target, 1, "is not a gateway's store"),
        ({"GATEWAY_STORE_URL": f"sqlite:///{tmp_path}/none.db"}, target, 1, "There is no store at"),
        (url, store, 2, "exists already. Name a new file; nothing was overwritten"),
        (url, tmp_path / "none" / "copy", 1, "No such file or directory"),
        ({"GATEWAY_STORE_URL": "postgresql://u:p@h/d", "GATEWAY_OPERATOR_KEY": "x" * 16}, target, 2, "pg_dump"),
        ({"GATEWAY_STORE_URL": "mysql://h/d"}, target, 2, "GATEWAY_STORE_URL"),
    ):
        before = store.read_bytes()
        ended, output, errors = await gateway("backup", str(file), **given)
        assert (ended, output, words in errors) == (status, "", True), errors
        assert "Traceback" not in errors
        assert not target.exists()
        assert store.read_bytes() == before


async def test_nobody_reads_it_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode is 0600 before the first byte; a copy that breaks off is removed."""
    async with running(Simulator()) as upstream, serving(upstream.url, tmp_path) as served:
        await served.copy("/v1.0/me/drive/items/stuck")
    target = tmp_path / "copy"
    modes: list[int] = []

    def looking(handle: int) -> None:
        modes.append(target.stat().st_mode & 0o777)
        close(handle)

    close = os.close
    old = os.umask(0)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "close", looking)
            size = await anyio.to_thread.run_sync(backup, tmp_path / "gateway.db", target)
    finally:
        os.umask(old)
    assert {*modes} == {0o600}
    assert size == target.stat().st_size > 0
    with pytest.raises(FileExistsError):
        backup(tmp_path / "gateway.db", target)
    target.unlink()
    damaged = bytearray((tmp_path / "gateway.db").read_bytes())
    damaged[100:] = os.urandom(len(damaged) - 100)
    (tmp_path / "damaged.db").write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(StoreRefused):
        backup(tmp_path / "damaged.db", target)
    assert not target.exists()
