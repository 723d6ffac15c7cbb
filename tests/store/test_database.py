"""The shared store's database: who may use it, whether it is ours, its version and its secrets."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.core.errors import StoreRefused
from gateway.store.postgres import PostgresStore, database
from gateway.store.postgres.database import Database
from tests.store.test_store import made, wanting
from tests.support.harness import Process, free_port
from tests.support.wire import wired

KEY = "a key of the operator's own"


async def opened(url: str, key: str | None = None) -> Database:
    return await Database.open(url, None, key)


async def value(url: str, sql: str) -> Any:
    connection = await asyncpg.connect(url)
    found = await connection.fetchval(sql)
    await connection.close()
    return found


async def test_many_that_start_at_once_make_it_once(database_url: str) -> None:
    """The same secret for all, whoever came first."""
    stores = await asyncio.gather(*(opened(database_url) for _ in range(8)))
    assert len({store.secret for store in stores}) == 1
    assert await value(database_url, "SELECT value FROM meta WHERE name = 'version'") == b"2"


async def test_a_newer_version_is_refused(database_url: str) -> None:
    """And left as it was."""
    await opened(database_url)
    await value(database_url, "UPDATE meta SET value = '7' WHERE name = 'version'")
    with pytest.raises(StoreRefused, match="has version 7; this gateway knows up to 2"):
        await opened(database_url)
    assert await value(database_url, "SELECT value FROM meta WHERE name = 'version'") == b"7"


async def test_a_migration_is_applied_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one of those that start; what is there already is kept, and an older gateway starts no more."""
    await opened(database_url)
    before = database.MIGRATIONS
    monkeypatch.setattr(database, "MIGRATIONS", (*before, "postgres_test.sql"))
    monkeypatch.setattr(database, "script", _script(database.script))
    await asyncio.gather(*(opened(database_url) for _ in range(4)))
    assert await value(database_url, "SELECT count(*) FROM added") == 1
    monkeypatch.setattr(database, "MIGRATIONS", before)
    with pytest.raises(StoreRefused, match="Start the newer gateway"):
        await opened(database_url)


def _script(kept: Any) -> Any:
    def script(name: str) -> str:
        if name == "postgres_test.sql":
            return "CREATE TABLE added (n INT); INSERT INTO added VALUES (1)"
        text: str = kept(name)
        return text

    return script


async def test_somebody_elses_tables_are_refused(database_url: str) -> None:
    """Nothing is made beside them."""
    await value(database_url, "CREATE TABLE jobs (id INT)")
    with pytest.raises(StoreRefused, match=r"tables of somebody else \(jobs\)"):
        await opened(database_url)
    assert await value(database_url, "SELECT to_regclass('meta')") is None
    await value(database_url, "CREATE TABLE meta (x INT)")
    with pytest.raises(StoreRefused, match="somebody else"):
        await opened(database_url)


async def test_one_that_is_not_there(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong name or password is told at once, a database that does not answer after a while; never with a secret."""
    base, _, query = database_url.partition("?")
    with pytest.raises(StoreRefused, match=r"does not exist\. Make it \(createdb\)") as refused:
        await opened(f"{base}_not?{query}")
    stranger = urlsplit(database_url)
    stranger = stranger._replace(netloc=f"somebody:secret-word@{stranger.netloc.rpartition('@')[2]}")
    with pytest.raises(StoreRefused, match=r"Set the user and the password") as stranger_refused:
        await opened(stranger.geturl())
    assert "secret-word" not in str(stranger_refused.value)
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    with pytest.raises(StoreRefused, match=r"cannot be reached: connection refused\. Start it") as unreachable:
        await opened("postgresql://somebody:secret-word@127.0.0.1:9/gateway")
    for error in (refused.value, unreachable.value):
        assert "secret-word" not in str(error)
        assert "somebody" not in str(error)


async def test_one_that_cannot_keep_every_text_is_refused(database_url: str) -> None:
    """Upstream's words come in all scripts."""
    base, _, query = database_url.partition("?")
    name = base.rpartition("/")[2] + "_latin1"
    await value(
        database_url,
        f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )
    try:
        with pytest.raises(StoreRefused, match="keeps texts as LATIN1; the gateway needs a database in UTF8"):
            await opened(f"{base}_latin1?{query}")
    finally:
        await value(database_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_one_that_goes_away_in_the_middle_is_waited_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever in the preparation it breaks off."""
    monkeypatch.setattr(database, "_AGAIN", 0.02)
    async with wired(database_url) as wire:
        for messages in range(4, 16):
            caplog.clear()
            wire.cut_after("answered", messages)
            opening = asyncio.create_task(opened(wire.url))
            while not opening.done() and "store_awaited" not in caplog.text:  # noqa: ASYNC110 - the log has no event
                await asyncio.sleep(0.01)
            wire.mend()
            assert (await opening).secret
            await value(database_url, "DROP TABLE IF EXISTS meta, jobs, events, keys, callbacks, gateways")


async def test_secrets_are_sealed_when_there_is_a_key(database_url: str) -> None:
    """Also those that were there before; another key, or none, is refused."""
    plain = await opened(database_url)
    async with PostgresStore.open(plain, log_limit=9, lease=10, clock=time.time) as store:
        await made(store, "secretive")
        await store.add_callback(wanting("c", "secretive"))
    assert b"https://h/m/secretive" in await value(database_url, "SELECT monitor FROM jobs")
    sealed = await opened(database_url, KEY)
    assert sealed.secret == plain.secret
    for sql in ("SELECT monitor FROM jobs", "SELECT receiver FROM callbacks"):
        kept = await value(database_url, sql)
        assert b"https://" not in kept
        assert b"whsec_" not in kept
    again = await opened(database_url, KEY)
    async with PostgresStore.open(again, log_limit=9, lease=10, clock=time.time) as store:
        job = await store.get("secretive")
        assert job is not None
        assert job.monitor == "https://h/m/secretive"
        (callback,) = await store.callbacks("secretive")
        assert callback.secret == wanting().secret
    for key, words in ((None, "is sealed"), ("another key", "another GATEWAY_SECRET_KEY")):
        with pytest.raises(StoreRefused, match=words):
            await opened(database_url, key)


async def test_the_operator_is_told_what_is_wrong(database_url: str, tmp_path: Path) -> None:
    """One line and an exit status: 2 for settings, 1 for a database that is refused."""
    keyless = Process("http://127.0.0.1:9", tmp_path, store_url=database_url, operator_key=None)
    keyless.spawn()
    assert await keyless.exited() == 2
    assert "GATEWAY_OPERATOR_KEY: must be set with PostgreSQL" in keyless.output()
    await value(database_url, "CREATE TABLE jobs (id INT)")
    foreign = Process("http://127.0.0.1:9", tmp_path, store_url=database_url)
    foreign.spawn()
    assert await foreign.exited() == 1
    assert "has tables of somebody else" in foreign.output()
    for output in (keyless.output(), foreign.output()):
        assert "Traceback" not in output


async def test_a_pooler_that_is_away_at_the_start(database_url: str, tmp_path: Path) -> None:
    """The database itself answers, but not what leads to it: told in a line, and without a traceback."""
    away = f"postgresql://127.0.0.1:{free_port()}/db"
    gateway = Process("http://127.0.0.1:9", tmp_path, store_url=away, listen_url=database_url)
    gateway.spawn()
    assert await gateway.exited() == 1
    assert "The store: it cannot be reached. Look at what GATEWAY_STORE_URL names." in gateway.output()
    assert "Traceback" not in gateway.output()
