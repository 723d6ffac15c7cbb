"""The shared store's database: connection checks at start, schema migrations, and the store's secret."""

from __future__ import annotations

import os
import secrets
import ssl
from importlib.resources import files

import anyio
import asyncpg

from gateway.core.database_url import parse
from gateway.core.errors import StoreRefused
from gateway.store.postgres.connecting import UnusableFile, arguments
from gateway.store.postgres.pool import FAULTS, Connection, is_temporary
from gateway.store.postgres.resealing import reseal_rows
from gateway.store.postgres.statements import OTHER_MARKS
from gateway.store.sealing import Cipher, DecryptionFailed, Resealed
from gateway.telemetry.logs import EventLog

MIGRATIONS = ("schema.sql", "marks.sql")
"""One script per version. A database's version is the number of scripts applied.

Gateways of the previous version must keep working after a migration.
"""

OLDEST = 14
"""The oldest major version of PostgreSQL that is supported."""
PATIENCE = 30.0
"""Seconds to wait at start for a database that is unreachable, restarting or out of connections."""
_AGAIN = 0.5
_LOCK = 0x47574159
_LIMITS = "SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '10s'"
_LASTING = ("28", "3D", "08P01")
"""SQLSTATEs of errors that waiting does not resolve: wrong credentials, no such database, a refused parameter."""
_TABLES = ("meta", "jobs", "events", "keys", "callbacks", "gateways")

log = EventLog("gateway.store")


class Database:
    """A database that passed the checks at start. Create instances with `open`."""

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
        """Check and migrate the database; wait up to `PATIENCE` seconds for it.

        `listen_url` connects directly, when `url` leads through a pooler. Raises StoreRefused with a message for the
        operator; a refused database is unchanged.
        """
        database = cls(url, listen_url)
        until = anyio.current_time() + PATIENCE
        waited = False
        while True:
            try:
                await database._check(secret_key)
            except FAULTS as error:
                state = getattr(error, "sqlstate", None) or ""
                permanent = not is_temporary(error)
                lasting = state.startswith(_LASTING) or isinstance(error, ssl.SSLError)
                if permanent or lasting or anyio.current_time() + _AGAIN > until:
                    what = "used" if permanent else "reached"
                    raise StoreRefused(
                        f"The store {database.place} cannot be {what}: {_reason(error)}. {_remedy(error, state)}"
                    ) from None
                if not waited:
                    log.warning("store_awaited", place=database.place, error=_reason(error))
                    waited = True
                await anyio.sleep(_AGAIN)
            else:
                return database

    async def reseal(self) -> Resealed:
        """Encrypt every value with the first key, while the gateways run.

        Raises StoreRefused with a message for the operator. The values that were encrypted until then stay so.
        """
        try:
            connection = await self._connect()
            try:
                await self._require_one_key(connection, "Nothing was changed.")
                await connection.execute("SET synchronous_commit = off")
                counted = await reseal_rows(connection, self.cipher)
                # One commit that is waited for flushes all commits before it.
                await connection.execute("SET synchronous_commit = on")
                await connection.execute("UPDATE meta SET value = value WHERE name = 'secret'")
                await self._require_one_key(connection, "Some values may still be encrypted with the old key.")
            finally:
                connection.terminate()
        except FAULTS as error:
            raise StoreRefused(
                f"The store {self.place} cannot be used: {_reason(error)}. What was done stays: try again."
            ) from None
        return counted

    async def _require_one_key(self, connection: Connection, so: str) -> None:
        """Raises StoreRefused unless all live gateways encrypt with the first key."""
        others = await connection.fetchval(OTHER_MARKS, self.cipher.mark)
        if others:
            raise StoreRefused(
                f"{others} of the gateways at {self.place} still encrypt with another key than the first of "
                "GATEWAY_SECRET_KEY, or died within their lease. Restart them with the new key first and the old one "
                f"behind a comma, then try again. {so}"
            )

    @property
    def place(self) -> str:
        """The URL without user, password and parameters, for messages."""
        return parse(self.url).place

    async def _check(self, secret_key: str | None) -> None:
        """Check and prepare the database in one transaction, so that a failed attempt can be repeated."""
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
            for url in {self.url, self.listen_url}:
                arguments(url)
            return await asyncpg.connect(**arguments(self.listen_url), statement_cache_size=0)
        except UnusableFile as error:
            raise StoreRefused(f"The store {self.place} cannot be reached: {error}.") from None
        except asyncpg.InterfaceError as error:
            if not isinstance(error, ValueError):
                raise
            raise StoreRefused(
                f"The store {self.place} cannot be reached: a parameter of its URL, or a variable PG… of the "
                "environment that stands for one, cannot be used."
            ) from None

    async def _prepare(self, connection: Connection, secret_key: str | None) -> None:
        """Migrate the database and read or create its secret, one gateway at a time.

        Timeouts on the server bound how long a gateway that hangs here blocks the others.
        """
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
        await self._put_meta(connection, "version", str(len(MIGRATIONS)).encode())
        stored = {row["name"]: row["value"] for row in await connection.fetch("SELECT name, value FROM meta")}
        if "secret" in stored:
            self._find_secret(stored, secret_key)
            if self.cipher.has_key and self.cipher.is_plain(stored["secret"]):
                await reseal_rows(connection, self.cipher)  # the key was set for the first time
        else:
            salt = secrets.token_bytes(16)
            self.cipher = Cipher(secret_key, salt)
            self.secret = secrets.token_bytes(32)
            await self._put_meta(connection, "salt", salt)
            await self._put_meta(connection, "secret", self.cipher.encrypt(self.secret, "secret"))

    async def _version(self, connection: Connection) -> int:
        """The number of migrations applied. Raises StoreRefused when another application's tables are present."""
        existing = await connection.fetch(
            "SELECT t FROM unnest($1::text[]) t WHERE to_regclass(t) IS NOT NULL", _TABLES
        )
        if not existing:
            await connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value BYTEA NOT NULL)")
            await self._put_meta(connection, "application", b"copy-gateway")
            return 0
        try:
            rows = await connection.fetch("SELECT name, value FROM meta WHERE name IN ('application', 'version')")
            stored = {row["name"]: row["value"] for row in rows}
        except asyncpg.PostgresError:
            stored = {}
        if stored.get("application") != b"copy-gateway":
            tables = ", ".join(row["t"] for row in existing)
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

    async def _put_meta(self, connection: Connection, name: str, value: bytes) -> None:
        await connection.execute(
            "INSERT INTO meta VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value
        )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()  # asyncio's own message repeats the address
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return message.splitlines()[0].rstrip(".") if message else "it does not answer"


def _remedy(error: Exception, state: str) -> str:
    """The advice to the operator for a failure with this SQLSTATE; `state` is empty when there is none."""
    if isinstance(error, ssl.SSLError):
        return "Name the certificate that signed the server's with sslrootcert in GATEWAY_STORE_URL."
    if isinstance(error, ConnectionError) and "SSL upgrade" in str(error):
        return "Let it use TLS (ssl = on), or lower the sslmode in GATEWAY_STORE_URL."
    if state in ("08P01", "42704", "22023"):
        return "Correct the options in GATEWAY_STORE_URL; a pooler has to allow them (ignore_startup_parameters)."
    if state.startswith("28"):
        return "Set the user and the password that it takes in GATEWAY_STORE_URL."
    if state.startswith("3D"):
        return "Make it (createdb), or name another one in GATEWAY_STORE_URL."
    if state.startswith("42"):
        return "Give its user a schema to make tables in; nothing was changed."
    return "Start it, or set GATEWAY_STORE_URL to where it is."


def script(name: str) -> str:
    """The SQL of a migration."""
    return files("gateway.store.postgres").joinpath(name).read_text()
