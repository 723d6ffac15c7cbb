"""A loop whose every step can be the process's last, and a store whose files are then as a kill leaves them.

The store's work is done in the loop, in a step of its own: a kill falls before a commit, between a commit and the word
of it, or after. What a killed process leaves is its files as they are at that moment; what it still does, nobody sees.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.store.sqlite.thread import Work, _told, _undo
from tests.support.virtual_time import VirtualLoop


class SteppingLoop(VirtualLoop):
    """`before_step` is called before everything that the loop runs."""

    def __init__(self, before_step: Callable[[], None]) -> None:
        self._before_step = before_step
        super().__init__()

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        return super().call_soon(self._step, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        return super().call_at(when, self._step, callback, *args, context=context)

    def _step(self, callback: Callable[..., Any], *args: Any) -> None:
        self._before_step()
        callback(*args)


class ThreadInTheLoop:
    """In the place of the store's `SQLiteThread`. The word of what was done comes up to some steps later, by chance."""

    commits = 0
    chance = random.Random(1)
    latest = 4

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, writes: bool, name: str) -> None:
        self._connection = connect()
        self._connection.execute("PRAGMA synchronous = OFF")  # a kill is no loss of power
        self._writes = writes
        self._loop = asyncio.get_running_loop()
        self.failing = False

    def submit(
        self, work: Work[Any], then: Callable[[Any], None] | None = None, *, gather: bool = False
    ) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._loop.call_soon(self._do, work, then, future)
        return future

    def _do(self, work: Work[Any], then: Callable[[Any], None] | None, future: asyncio.Future[Any]) -> None:
        result, error = None, None
        try:
            self._connection.execute("BEGIN IMMEDIATE" if self._writes else "BEGIN")
            result = work(self._connection)
            self._connection.execute("COMMIT")
            ThreadInTheLoop.commits += self._writes
        except Exception as caught:  # noqa: BLE001 - as the thread itself: it belongs to the one that waits for it
            _undo(self._connection)
            error = _told(caught)

        def deliver() -> None:
            if error is None and then is not None:
                then(result)
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._after(self.chance.randint(0, self.latest), deliver)

    def _after(self, steps: int, deliver: Callable[[], None]) -> None:
        if steps == 0:
            deliver()
        else:
            self._loop.call_soon(self._after, steps - 1, deliver)

    async def close(self) -> None:
        self._connection.close()


def left_behind(folder: Path, into: Path) -> Path:
    """A folder with the store's files as they are now."""
    into.mkdir()
    for name in ("s.db", "s.db-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, into / name)
    return into
