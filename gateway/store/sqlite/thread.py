"""A thread with its own SQLite connection, which runs tasks from the event loop.

All tasks that are queued when the thread is free run in one batch. For the writing thread this is group commit: one
transaction and one fsync per batch, which makes durability affordable (measured: 38 thousand appends a second). Tasks
for which no caller waits are gathered for a few milliseconds more while others came just before: a quarter less CPU.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from gateway.core.errors import StoreUnavailable
from gateway.store.availability import CLOSED, Availability

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

GATHER, GATHER_LONGEST, ENOUGH = 0.005, 0.02, 20
"""Seconds between two batches of tasks that may be gathered: the first if so many were, else the second at most. The
first task after a pause is not delayed. Each batch costs some 300 us besides its tasks.
"""
BATCH = 1000
"""Tasks at which a batch stops growing; a transaction holds fewer than twice as many."""


class _Task:
    __slots__ = ("error", "future", "result", "then", "work")

    def __init__(self, work: Work[Any], future: asyncio.Future[Any], then: Callable[[Any], None] | None) -> None:
        self.work = work
        self.future = future
        self.then = then
        self.result: Any = None
        self.error: Exception | None = None


class SQLiteThread:
    """`writes` makes each batch a writing transaction. Only this thread uses the connection."""

    _undelivered = 0

    @classmethod
    def waiting(cls) -> int:
        """The number of tasks, over all instances in this process, whose result has not been delivered."""
        return cls._undelivered

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, writes: bool, name: str) -> None:
        self._queue: SimpleQueue[list[_Task] | None] = SimpleQueue()
        self._gathered: list[_Task] = []
        self._queued_at = self._due = -math.inf
        self._is_closed = False
        self._queueing: asyncio.Handle | None = None
        """Queues what was gathered: in this iteration of the loop, or when it is due."""
        self._loop = asyncio.get_running_loop()
        self._connection = connect()
        self.availability = Availability(name)
        self._begin = "BEGIN IMMEDIATE" if writes else "BEGIN"  # a read batch sees one snapshot of the log
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, work: Work[T], then: Callable[[T], None] | None = None, *, gather: bool = False
    ) -> asyncio.Future[T]:
        """Queue `work(connection)`; `then` gets its result in the event loop once its transaction is durable.

        `gather`: the work may wait a moment for more, see `GATHER`; other work takes it along. The future holds the
        result. It fails with StoreUnavailable for an error of SQLite and after `close`, and with any other error that
        the work raised.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._is_closed:
            future.set_exception(StoreUnavailable(CLOSED))
            return future
        self._gathered.append(_Task(work, future, then))
        due = -math.inf
        if gather:
            due = self._queued_at + (GATHER if len(self._gathered) >= ENOUGH else GATHER_LONGEST)
        if self._queueing is None or due < self._due:
            self._queue_at(due)
        return future

    def _queue_at(self, due: float) -> None:
        if self._queueing is not None:
            self._queueing.cancel()
        self._due = due
        loop = self._loop
        self._queueing = loop.call_soon(self._enqueue) if due <= loop.time() else loop.call_at(due, self._enqueue)

    def _enqueue(self) -> None:
        """Queue the gathered tasks together, so that they wake the thread once."""
        if self._queueing is not None:
            self._queueing.cancel()
            self._queueing = None
        self._queued_at = self._loop.time()
        gathered, self._gathered = self._gathered, []
        SQLiteThread._undelivered += len(gathered)
        for first in range(0, len(gathered), BATCH):
            self._queue.put(gathered[first : first + BATCH])

    async def close(self) -> None:
        """Finish the queued tasks, then close the connection. What is submitted from now on fails."""
        self._is_closed = True
        self._enqueue()
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        connection = self._connection
        try:
            open_ = True
            while open_:
                tasks, open_ = self._take()
                if tasks:
                    self._do(connection, tasks)
                    with suppress(RuntimeError):  # the loop is closed, so nothing waits for results
                        self._loop.call_soon_threadsafe(_deliver, tasks)
        finally:
            connection.close()

    def _take(self) -> tuple[list[_Task], bool]:
        tasks: list[_Task] = []
        more = self._queue.get()
        while more is not None:
            tasks += more
            if len(tasks) >= BATCH or self._queue.empty():
                return tasks, True
            more = self._queue.get()
        return tasks, False

    def _do(self, connection: sqlite3.Connection, tasks: list[_Task]) -> None:
        try:
            self._run_in_transaction(connection, tasks)
            self.availability.worked()
        except Exception as error:  # noqa: BLE001 - any error belongs to the caller
            _undo(connection)
            if len(tasks) > 1 and not isinstance(error, sqlite3.OperationalError):
                for task in tasks:  # one of them failed: run each in a transaction of its own
                    self._do(connection, [task])
                return
            if isinstance(error, sqlite3.Error):
                self.availability.failed(error)
            else:
                self.availability.worked()
            for task in tasks:
                task.error = _told(error)

    def _run_in_transaction(self, connection: sqlite3.Connection, tasks: list[_Task]) -> None:
        connection.execute(self._begin)
        for task in tasks:
            task.error = None
            task.result = task.work(connection)
        connection.execute("COMMIT")


def _undo(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _told(error: Exception) -> Exception:
    return StoreUnavailable(f"The store: {error}.") if isinstance(error, sqlite3.Error) else error


def _deliver(tasks: list[_Task]) -> None:
    SQLiteThread._undelivered -= len(tasks)  # noqa: SLF001 - the counterpart of `submit`, in the same module
    for task in tasks:
        if task.error is None and task.then is not None:
            try:
                task.then(task.result)
            except Exception as error:  # noqa: BLE001 - what was stored is still to be told to all who wait
                message = "an exception in the event loop's part of a task of the store"
                task.future.get_loop().call_exception_handler({"message": message, "exception": error})
        if task.future.done():
            continue
        if task.error is None:
            task.future.set_result(task.result)
        else:
            task.future.set_exception(task.error)
