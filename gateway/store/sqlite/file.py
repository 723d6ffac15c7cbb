"""The store's file: its lock, checks at start, schema migrations, and the store's secrets."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import threading
from contextlib import closing
from importlib.resources import files
from pathlib import Path

from gateway.core.errors import StoreRefused, StoreUnavailable
from gateway.core.keys import hashed
from gateway.store.sealing import Cipher, DecryptionFailed, Resealed
from gateway.store.sqlite.resealing import reseal_rows, sealed_secret
from gateway.telemetry.logs import EventLog

APPLICATION_ID = 0x47574159  # "GWAY" in the file's header marks a gateway's store
MIGRATIONS = ("schema.sql", "callbacks.sql")
"""One script per version; a store's `user_version` is the number of scripts applied."""

_MARK = "key "
"""In the lock file, what the mark of the key that the process encrypts with follows."""
RESEAL_PATIENCE = 20.0
"""Seconds that `reseal` waits for a running gateway's transactions: SQLite is not fair to the one that waits."""
BUSY_TIMEOUT = 1.0
"""Seconds that SQLite waits for another program's lock on the file."""
CHECKED_UP_TO = 64 << 20
"""Bytes up to which the whole file is checked at start (about a second).

Damage in a larger file is only found when it is read.
"""
_GONE = (
    "The store's file was removed or replaced while the gateway runs. Move the right one back, with its -wal and -shm: "
    "no restart is needed. Until then the running jobs are watched, but new ones are refused, since the next start "
    "would not find them. If it cannot be moved back, restart the gateway: the jobs of the open file are then lost."
)
_LOG_GONE = (
    "A file that belongs to the store was removed or replaced while the gateway runs. Move the right one back, or stop "
    "the gateway with SIGTERM and start it again: it then writes what it had into the store itself. After a kill, the "
    "newest changes would be lost. Until then the running jobs are watched, but new ones are refused."
)


log = EventLog("gateway.store")


class StoreInUse(StoreRefused):
    """Another process has the store open. `mark` is that of the key it encrypts with, None if it did not tell."""

    def __init__(self, path: Path, holder: str) -> None:
        name, _, mark = holder.partition("\n")
        super().__init__(
            f"The store {path} is in use by {name or 'another process'}. One process at a time: stop that one, or name "
            "another file."
        )
        self.mark = mark.strip().removeprefix(_MARK) if mark.startswith(_MARK) else None


class StoreFile:
    """An open, locked and migrated store file. Create instances with `open`."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self._lock = lock
        self.cipher: Cipher
        self.secret: bytes
        self.operator_hash: bytes | None
        self.new_operator_key: str | None = None
        self.is_new = not path.exists() or path.stat().st_size == 0
        self._opened: list[tuple[str, tuple[int, int] | None]] = []
        self._missing = ""
        self._judging = threading.Lock()

    @classmethod
    def open(cls, path: Path, secret_key: str | None, owner: str, *, make_operator_key: bool) -> StoreFile:
        """Lock, check and migrate the file, or create it. `owner` names this process in the lock file.

        With `make_operator_key`, an operator key is generated if the store has none; only its hash is stored, and
        `new_operator_key` holds it this once. Raises StoreRefused with a message for the operator; a refused file is
        unchanged.
        """
        path = Path(os.path.realpath(path))
        if not path.parent.is_dir():
            raise StoreRefused(
                f"The store's folder {path.parent} does not exist. Make it (mkdir -p), or set GATEWAY_STORE_URL to a "
                "file in another one; from the root it has four slashes: sqlite:////var/lib/gateway.db."
            )
        try:
            lock = _lock(path, owner)
        except OSError as error:
            raise StoreRefused(_unusable(path, error)) from None
        file = cls(path, lock)
        try:
            file._prepare(secret_key, make_operator_key)
            os.pwrite(lock, f"{_MARK}{file.cipher.mark}\n".encode(), os.fstat(lock).st_size)
        except sqlite3.Error as error:
            file.close()
            raise StoreRefused(_sqlite_error(path, error)) from None
        except OSError as error:
            file.close()
            raise StoreRefused(_unusable(path, error)) from None
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def reseal(cls, path: Path, secret_key: str | None) -> Resealed:
        """Encrypt every value with the first key, also while a gateway has the file open.

        Raises StoreRefused with a message for the operator. The values that were encrypted until then stay so.
        """
        path = Path(os.path.realpath(path))
        if not path.exists():
            raise StoreRefused(f"There is no store at {path}.")
        try:
            file = cls.open(path, secret_key, "gateway reseal", make_operator_key=False)
        except StoreInUse as running:
            file = cls._beside(path, secret_key)
            if running.mark != file.cipher.mark:
                raise StoreRefused(
                    f"The gateway that has the store {path} open encrypts with another key than the first of "
                    "GATEWAY_SECRET_KEY. Restart it with the new key first and the old one behind a comma, then try "
                    "again. Nothing was changed."
                ) from None
        try:
            with closing(file.connect(RESEAL_PATIENCE)) as db:
                return reseal_rows(db, file.cipher)
        except sqlite3.Error as error:
            raise StoreRefused(f"The store {path} cannot be used: {error}. What was done stays: try again.") from None
        finally:
            file.close()

    @classmethod
    def _beside(cls, path: Path, secret_key: str | None) -> StoreFile:
        """The file that a running gateway has open, checked, but neither locked nor changed. Raises StoreRefused."""
        file = cls(path, None)
        try:
            with closing(file._inspect()) as db:
                file._check(db)
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version != len(MIGRATIONS) or not file._find_secret(db, secret_key):
                    raise StoreRefused(f"The store {path} is of an earlier version. Start this gateway on it first.")
        except sqlite3.Error as error:
            raise StoreRefused(_sqlite_error(path, error)) from None
        return file

    @property
    def place(self) -> str:
        """The path, for messages."""
        return str(self.path)

    def connect(self, patience: float = BUSY_TIMEOUT) -> sqlite3.Connection:
        """A connection for one thread, not necessarily this one. Every commit is flushed to the disk.

        `patience` is how long it waits for a transaction of another program, in seconds.
        """
        db = sqlite3.connect(self.path, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA secure_delete = FAST")  # overwrites a deleted monitor URL in its page
            db.execute("SELECT 1 FROM sqlite_master LIMIT 1")  # opens the log too, which `opened` looks at
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def opened(self) -> None:
        """Remember which files are open, once connections have the file and its log (WAL) open."""
        paths = [f"{self.path}{suffix}" for suffix in ("", "-wal", "-shm")]
        self._opened = [(path, _identity(path)) for path in paths]

    @property
    def is_in_place(self) -> bool:
        """Whether the files at the path are those that are open; logs each change. It takes 10 us: three `stat`.

        A removed or replaced file still takes writes, but no later start finds them. A database without its log lacks
        the newest changes, and a reader without the index of the log (-shm) damages both.
        """
        with self._judging:
            missing = ""
            for path, opened in self._opened:
                if opened is None or opened != _identity(path):
                    missing = path
                    break
            if missing != self._missing:
                self._missing = missing
                if missing:
                    log.error("store_file_gone", path=missing, advice=_GONE if missing == self.place else _LOG_GONE)
                else:
                    log.warning("store_file_back", path=self.place)
            return not missing

    def require_in_place(self) -> None:
        """Raises StoreUnavailable when what is stored now would be lost at the next start."""
        if not self.is_in_place:
            raise StoreUnavailable(f"The store: the file at {self._missing} is not the one that is open.")

    def _prepare(self, secret_key: str | None, make_operator_key: bool) -> None:
        if self.is_new:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        found = False
        if not self.is_new:
            with closing(self._inspect()) as db:
                self._check(db)
                found = self._find_secret(db, secret_key)
        db = self.connect()
        try:
            self.path.chmod(0o600)
            self._migrate(db)
            if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise StoreRefused(
                    f"The store {self.path} lies on a file system that SQLite's WAL mode does not work on."
                )
            if not found:
                self._make_secret(db, secret_key)
            elif self.cipher.has_key and self.cipher.is_plain(sealed_secret(db)):
                reseal_rows(db, self.cipher)  # the key was set for the first time
            self._find_operator_key(db, make_operator_key)
        finally:
            db.close()

    def _inspect(self) -> sqlite3.Connection:
        """A connection that does not change the file: a writing one would checkpoint a pending WAL when it closes.

        A rollback journal beside the file is the exception: it means that a crash interrupted a transaction, which only
        a writing connection can roll back.
        """
        mode = "rw" if Path(f"{self.path}-journal").exists() else "ro"
        return sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None
        )

    def _check(self, db: sqlite3.Connection) -> None:
        """Check application, version and integrity before anything is written. Raises StoreRefused."""
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StoreRefused(f"{self.path} is a SQLite database, but not a gateway's store. Name another file.")
        if version > len(MIGRATIONS):
            raise StoreRefused(
                f"The store {self.path} has version {version}; this gateway knows up to {len(MIGRATIONS)}. "
                "Start the newer gateway that wrote it."
            )
        if self.path.stat().st_size <= CHECKED_UP_TO:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise StoreRefused(
                    f"The store {self.path} is damaged ({' '.join(verdict.split())}). "
                    "Restore a backup; nothing was changed."
                )

    def _migrate(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        for number, name in enumerate(MIGRATIONS[version:], version + 1):
            script = files("gateway.store.sqlite").joinpath(name).read_text()
            stamps = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}"
            db.executescript(f"BEGIN IMMEDIATE; {script}; {stamps}; COMMIT")
        db.execute("BEGIN IMMEDIATE")  # a read-only file fails here, not at the first request
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")

    def _find_secret(self, db: sqlite3.Connection, secret_key: str | None) -> bool:
        """Read the store's secret; False when there is none. Raises StoreRefused for a wrong key."""
        stored = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('salt', 'secret')"))
        if len(stored) < 2:
            return False
        self.cipher = Cipher(secret_key, stored["salt"])
        try:
            self.secret = self.cipher.decrypt(stored["secret"], "secret")
        except DecryptionFailed:
            raise StoreRefused(
                f"The store {self.path} was sealed with another GATEWAY_SECRET_KEY. Set the one it was made with."
                if self.cipher.has_key
                else f"The store {self.path} is sealed. Set the GATEWAY_SECRET_KEY it was made with."
            ) from None
        return True

    def _make_secret(self, db: sqlite3.Connection, secret_key: str | None) -> None:
        salt = secrets.token_bytes(16)
        self.cipher = Cipher(secret_key, salt)
        self.secret = secrets.token_bytes(32)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT OR REPLACE INTO meta VALUES ('salt', ?)", (salt,))
        db.execute("INSERT OR REPLACE INTO meta VALUES ('secret', ?)", (self.cipher.encrypt(self.secret, "secret"),))
        db.execute("COMMIT")

    def _find_operator_key(self, db: sqlite3.Connection, make: bool) -> None:
        row = db.execute("SELECT value FROM meta WHERE name = 'operator'").fetchone()
        if row is None and make:
            self.new_operator_key = secrets.token_urlsafe(24)
            row = (hashed(self.new_operator_key),)
            db.execute("INSERT INTO meta VALUES ('operator', ?)", row)
        self.operator_hash = row[0] if row is not None else None


def _lock(path: Path, owner: str) -> int:
    """Lock the file beside the store for the life of the process: the kernel releases the lock however it dies.

    Returns the file descriptor. Raises StoreRefused when another process holds the lock, and OSError.
    """
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 400, 0).decode(errors="replace")
        os.close(handle)
        raise StoreInUse(path, holder) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} ({owner})\n".encode(), 0)
    return handle


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path would cost more than the call
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _unusable(path: Path, error: OSError) -> str:
    return (
        f"The store {path} cannot be opened and locked for writing: {(error.strerror or str(error)).lower()}. Let "
        f"this user write in {path.parent}, or set GATEWAY_STORE_URL to a file where it may."
    )


def _sqlite_error(path: Path, error: sqlite3.Error) -> str:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return f"The store {path} is locked by another program. Close it there and start again."
    if isinstance(error, sqlite3.OperationalError) and "readonly" in str(error):
        return f"The store {path} cannot be written. Let this user write it, or set GATEWAY_STORE_URL to another file."
    return f"The store {path} cannot be used: {error}. Nothing was overwritten."
