"""The shared store's database: whether it can be used, whether it is ours, its version and its secret."""

from __future__ import annotations

import os
import secrets
from importlib.resources import files
from urllib.parse import urlsplit

import anyio
import asyncpg

from gateway.core.errors import StoreRefused
from gateway.store.postgres.pool import CONNECT_SECONDS, FAULTS, Connection, is_passing
from gateway.store.sealing import Cipher, DecryptionFailed
from gateway.telemetry.logs import EventLog

MIGRATIONS = ("schema.sql",)
"""One script a version. A database's version is how many of them it has had; each must let the one before still run."""

OLDEST = 14
PATIENCE = 30.0
"""Seconds for which a database that is away, restarting or full is waited for at the start."""
_AGAIN = 0.5
_LOCK = 0x47574159
_LIMITS = "SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '10s'"
_LASTING = ("28", "3D")
"""Classes of SQLSTATE that waiting does not help: wrong credentials, no such database."""
_TABLES = ("meta", "jobs", "events", "keys", "callbacks", "gateways")

log = EventLog("gateway.store")


class Database:
    """A database that was found fit. Make it with `open`."""

    operator_hash: bytes | None = None
    new_operator_key: str | None = None

    def __init__(self, url: str, listen_url: str | None) -> None:
        self.url = url
        self.listen_url = listen_url or url
        self.through_pooler = listen_url is not None
        self.cipher: Cipher
        self.secret: bytes

    @classmethod
    async def open(cls, url: str, listen_url: str | None, secret_key: str | None) -> Database:
        """`listen_url` is a direct connection, when `url` leads through a pooler.

        Raises StoreRefused with a message for the operator; a refused database is left as it was.
        """
        database = cls(url, listen_url)
        until = anyio.current_time() + PATIENCE
        waited = False
        while True:
            try:
                await database._look(secret_key)
            except FAULTS as error:
                state = getattr(error, "sqlstate", None) or ""
                lasts = not is_passing(error)
                if lasts or state.startswith(_LASTING) or anyio.current_time() + _AGAIN > until:
                    what = "used" if lasts else "reached"
                    raise StoreRefused(
                        f"The store {database.place} cannot be {what}: {_why(error)}. {_remedy(state)}"
                    ) from None
                if not waited:
                    log.warning("store_awaited", place=database.place)
                    waited = True
                await anyio.sleep(_AGAIN)
            else:
                return database

    @property
    def place(self) -> str:
        """Where it is, without user and password."""
        parts = urlsplit(self.url)
        return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"

    async def _look(self, secret_key: str | None) -> None:
        """Whether it can be used, and what it holds; all of it in one transaction, so that it may be tried again."""
        connection = await self._connect()
        try:
            if connection.get_server_version().major < OLDEST:
                version = connection.get_server_version().major
                raise StoreRefused(f"{self.place} is PostgreSQL {version}; the gateway needs {OLDEST} or newer.")
            encoding = connection.get_settings().server_encoding
            if encoding != "UTF8":
                raise StoreRefused(f"{self.place} keeps texts as {encoding}; the gateway needs a database in UTF8.")
            async with connection.transaction():
                await self._prepare(connection, secret_key)
        finally:
            connection.terminate()

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        try:
            return await asyncpg.connect(self.listen_url, timeout=CONNECT_SECONDS, statement_cache_size=0)
        except ValueError:
            raise StoreRefused(
                f"The store {self.place} cannot be reached: its URL cannot be read. "
                "Write /, ?, # and @ in user and password as %2F, %3F, %23 and %40."
            ) from None

    async def _prepare(self, connection: Connection, secret_key: str | None) -> None:
        """In one transaction, and by one gateway at a time; one that hangs in it holds the others up briefly."""
        await connection.execute(_LIMITS)
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        version = await self._version(connection)
        if version > len(MIGRATIONS):
            raise StoreRefused(
                f"The store {self.place} has version {version}; this gateway knows up to {len(MIGRATIONS)}. "
                "Start the newer gateway that wrote it."
            )
        for name in MIGRATIONS[version:]:
            await connection.execute(script(name))
        await self._keep(connection, "version", str(len(MIGRATIONS)).encode())
        stored = {row["name"]: row["value"] for row in await connection.fetch("SELECT name, value FROM meta")}
        if "secret" in stored:
            self._find_secret(stored, secret_key)
            if self.cipher.has_key and self.cipher.is_plain(stored["secret"]):
                await self._seal_what_is_plain(connection)
        else:
            salt = secrets.token_bytes(16)
            self.cipher = Cipher(secret_key, salt)
            self.secret = secrets.token_bytes(32)
            await self._keep(connection, "salt", salt)
            await self._keep(connection, "secret", self.cipher.encrypt(self.secret, "secret"))

    async def _version(self, connection: Connection) -> int:
        """How many migrations it has had. Raises StoreRefused for a database with somebody else's tables."""
        there = await connection.fetch("SELECT t FROM unnest($1::text[]) t WHERE to_regclass(t) IS NOT NULL", _TABLES)
        if not there:
            await connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value BYTEA NOT NULL)")
            await self._keep(connection, "application", b"copy-gateway")
            return 0
        try:
            rows = await connection.fetch("SELECT name, value FROM meta WHERE name IN ('application', 'version')")
            stored = {row["name"]: row["value"] for row in rows}
        except asyncpg.PostgresError:
            stored = {}
        if stored.get("application") != b"copy-gateway":
            tables = ", ".join(row["t"] for row in there)
            raise StoreRefused(
                f"The store {self.place} has tables of somebody else ({tables}). Name a database of the gateway's own."
            )
        return int(stored["version"])

    def _find_secret(self, stored: dict[str, bytes], secret_key: str | None) -> None:
        self.cipher = Cipher(secret_key, stored["salt"])
        try:
            self.secret = self.cipher.decrypt(stored["secret"], "secret")
        except DecryptionFailed:
            raise StoreRefused(
                f"The store {self.place} was sealed with another GATEWAY_SECRET_KEY. Set the one all its gateways have."
                if self.cipher.has_key
                else f"The store {self.place} is sealed. Set the GATEWAY_SECRET_KEY that all its gateways have."
            ) from None

    async def _seal_what_is_plain(self, connection: Connection) -> None:
        """After GATEWAY_SECRET_KEY was set for the first time."""
        await self._keep(connection, "secret", self.cipher.encrypt(self.secret, "secret"))
        for table, column in (("jobs", "monitor"), ("callbacks", "receiver")):
            rows = await connection.fetch(
                f"SELECT id, {column} AS stored FROM {table} WHERE {column} IS NOT NULL ORDER BY id FOR UPDATE"
            )
            sealed = [
                (row["id"], self.cipher.encrypt(self.cipher.decrypt(row["stored"], row["id"]), row["id"]))
                for row in rows
            ]
            await connection.executemany(f"UPDATE {table} SET {column} = $2 WHERE id = $1", sealed)

    async def _keep(self, connection: Connection, name: str, value: bytes) -> None:
        await connection.execute(
            "INSERT INTO meta VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value
        )


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()  # asyncio's own words repeat the address
    words = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return words.splitlines()[0].rstrip(".") if words else "it does not answer"


def _remedy(state: str) -> str:
    """What to do about a connection that failed with this SQLSTATE, or with none."""
    if state.startswith("28"):
        return "Set the user and the password that it takes in GATEWAY_STORE_URL."
    if state.startswith("3D"):
        return "Make it (createdb), or name another one in GATEWAY_STORE_URL."
    if state.startswith("42"):
        return "Give its user a schema to make tables in; nothing was changed."
    return "Start it, or set GATEWAY_STORE_URL to where it is."


def script(name: str) -> str:
    """A migration's statements."""
    return files("gateway.store.postgres").joinpath(name).read_text()
