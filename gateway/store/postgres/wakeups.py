"""Word from one gateway to the others that a log has grown, by PostgreSQL's LISTEN and NOTIFY.

Never inside an append's transaction: a commit that notifies takes a lock that all of them share. What has grown is
gathered for a moment and told in one go, by ids alone. A word may be lost or come late; readers look by themselves too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import asyncpg
from anyio.abc import TaskGroup

from gateway.core.errors import StoreUnavailable
from gateway.store.postgres.pool import CONNECT_SECONDS, FAULTS, Pool, fault_text
from gateway.telemetry.logs import EventLog

GATHER = 0.01
"""Seconds for which what has grown is gathered."""
PAYLOAD = 7900
"""Bytes; PostgreSQL takes less than 8,000."""
CHECK_EVERY = 2.0
"""Seconds after which a silent listening connection is asked whether it still lives."""
_AGAIN = 0.5
_CHANNEL = "gateway"

log = EventLog("gateway.store")


class Wakeups:
    """`heard` is called in the event loop with each word of another gateway: a kind, one letter, and an id."""

    def __init__(self, pool: Pool, listen_url: str, me: Callable[[], str], heard: Callable[[str, str], None]) -> None:
        self._pool = pool
        self._listen_url = listen_url
        self._me = me
        self._heard = heard
        self._words: dict[str, None] = {}
        self._news = anyio.Event()

    def start(self, tasks: TaskGroup) -> None:
        tasks.start_soon(self._notify)
        tasks.start_soon(self._listen)

    def notify(self, kind: str, about: str) -> None:
        """Let the other gateways know, soon."""
        self._words[kind + about] = None
        self._news.set()

    async def _notify(self) -> None:
        while True:
            await self._news.wait()
            await anyio.sleep(GATHER)
            self._news = anyio.Event()
            words = list(self._words)
            self._words.clear()
            try:
                await self._pool.execute(
                    "SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p", _CHANNEL, self._said(words)
                )
            except StoreUnavailable as error:
                log.warning("wakeup_lost", count=len(words), error=str(error))

    def _said(self, words: list[str]) -> list[str]:
        """The words in as few payloads as hold them, each with its sender's name first."""
        payloads: list[str] = []
        line = self._me()
        for word in words:
            if len(line) + 1 + len(word) > PAYLOAD:
                payloads.append(line)
                line = self._me()
            line += f",{word}"
        return [*payloads, line]

    async def _listen(self) -> None:
        while True:
            try:
                connection = await asyncpg.connect(
                    self._listen_url, timeout=CONNECT_SECONDS, statement_cache_size=0, command_timeout=CHECK_EVERY
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
                await connection.execute("SELECT 1")  # a connection that died without a word is only found by asking
        except FAULTS as error:
            log.warning("listening_interrupted", error=fault_text(error))

    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        sender, *words = str(payload).split(",")
        if sender == self._me():
            return
        for word in words:
            self._heard(word[:1], word[1:])
