"""An event loop whose clock jumps to the next timer when nothing else is left to do.

Real sockets on loopback work in it. Time stands still while a thread of the store works, so that no timer fires only
because a thread is slower than a jump. Other processes live in real time: use a plain loop with them.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from gateway.store.sqlite.thread import SQLiteThread

_LOOKS = 3
"""How often loopback is looked at before the clock jumps; it delivers within the sender's call, so once would do."""


class _Jumping(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or _threads_work():
            return super().select(0.001 if timeout is not None else None)
        for _ in range(_LOOKS):
            if ready := super().select(0):
                return ready
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Name look-ups and the like: done on the spot, since a jump must not overtake them."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits the future
            future.set_exception(error)
        return future


def _threads_work() -> bool:
    return SQLiteThread.waiting() > 0
