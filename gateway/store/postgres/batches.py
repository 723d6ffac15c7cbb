"""What is asked for at the same time, done together: one statement and one flush to the disk for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from gateway.core.errors import StoreUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 500


class Batches(Generic[Item, Result]):
    """`do` gives the result of each item, in their order. While it works, the next batch gathers."""

    def __init__(self, do: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._do = do
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._news = asyncio.Event()

    def ask(self, item: Item) -> asyncio.Future[Result]:
        """Fails with what `do` raises for it; others in its batch are not harmed by an error that is its own."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._news.set()
        return future

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._news.wait()
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            if not self._waiting:
                self._news.clear()
            wanted = [one for one in batch if not one[1].done()]
            if wanted:
                await self._serve(wanted)

    async def _serve(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._do([item for item, _ in batch])
        except StoreUnavailable as error:  # those behind would only wait as long for the same
            behind, self._waiting = self._waiting, []
            self._news.clear()
            _fail([*batch, *behind], error)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to the one that waits for it
            if len(batch) == 1:
                _fail(batch, error)
                return
            for one in batch:
                await self._serve([one])
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _fail(batch: Sequence[tuple[Any, asyncio.Future[Any]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
