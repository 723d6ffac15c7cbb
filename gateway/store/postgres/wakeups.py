"""Wake-ups between gateways, by PostgreSQL's LISTEN and NOTIFY: a log has grown, or a row has changed.

NOTIFY never runs within an append's transaction, since a notifying commit takes a lock that all such commits share.
Wake-ups are collected for a moment and sent together; they carry ids only. A wake-up may be lost or late, so readers
poll as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import asyncpg
from anyio.abc import TaskGroup

from gateway.core.errors import StoreUnavailable
from gateway.store.postgres.connecting import arguments
from gateway.store.postgres.pool import FAULTS, Pool, fault_text
from gateway.telemetry.logs import EventLog

GATHER = 0.01
"""Seconds for which wake-ups are collected."""
PAYLOAD = 7900
"""Most bytes per notification; PostgreSQL's limit is below 8,000."""
CHECK_EVERY = 2.0
"""Seconds between two checks of the listening connection."""
_AGAIN = 0.5
_CHANNEL = "gateway"

log = EventLog("gateway.store")


class Wakeups:
    """Sends and receives wake-ups. `me` returns this gateway's id.

    `on_wakeup` is called in the event loop with each wake-up of another gateway: its kind, one letter, and a row's id.
    """

    def __init__(
        self, pool: Pool, listen_url: str, me: Callable[[], str], on_wakeup: Callable[[str, str], None]
    ) -> None:
        self._pool = pool
        self._arguments = arguments(listen_url)
        self._me = me
        self._on_wakeup = on_wakeup
        self._pending: dict[str, None] = {}
        self._not_empty = anyio.Event()

    def start(self, tasks: TaskGroup) -> None:
        tasks.start_soon(self._notify)
        tasks.start_soon(self._listen)

    def notify(self, kind: str, row_id: str) -> None:
        """Queue a wake-up for the other gateways."""
        self._pending[kind + row_id] = None
        self._not_empty.set()

    async def _notify(self) -> None:
        while True:
            await self._not_empty.wait()
            await anyio.sleep(GATHER)
            self._not_empty = anyio.Event()
            wakeups = list(self._pending)
            self._pending.clear()
            try:
                await self._pool.execute(
                    "SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p", _CHANNEL, self._payloads(wakeups)
                )
            except StoreUnavailable as error:
                log.warning("wakeup_lost", count=len(wakeups), error=str(error))

    def _payloads(self, wakeups: list[str]) -> list[str]:
        """The wake-ups in as few payloads as possible; each payload begins with this gateway's id."""
        payloads: list[str] = []
        payload = self._me()
        for wakeup in wakeups:
            if len(payload) + 1 + len(wakeup) > PAYLOAD:
                payloads.append(payload)
                payload = self._me()
            payload += f",{wakeup}"
        return [*payloads, payload]

    async def _listen(self) -> None:
        while True:
            try:
                connection = await asyncpg.connect(
                    **self._arguments, statement_cache_size=0, command_timeout=CHECK_EVERY
                )
            except FAULTS as error:
                log.warning("listening_interrupted", error=fault_text(error))
                await anyio.sleep(_AGAIN)
                continue
            try:
                await self._listen_on(connection)
            finally:
                connection.terminate()

    async def _listen_on(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        try:
            await connection.add_listener(_CHANNEL, self._notified)
            while True:
                await anyio.sleep(CHECK_EVERY)
                await connection.execute("SELECT 1")  # a connection that died silently is only found by using it
        except FAULTS as error:
            log.warning("listening_interrupted", error=fault_text(error))

    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        sender, *wakeups = str(payload).split(",")
        if sender == self._me():
            return
        for wakeup in wakeups:
            self._on_wakeup(wakeup[:1], wakeup[1:])
