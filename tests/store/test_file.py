"""Who may open a store file, and what a refused one looks like afterwards: as before."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from gateway.core.callback import Callback
from gateway.core.errors import StoreRefused, StoreUnavailable
from gateway.core.job import Target, accepted
from gateway.store.sqlite import SQLiteStore
from gateway.store.sqlite.file import APPLICATION_ID, StoreFile


def opened(path: Path, key: str | None = None, *, make: bool = False) -> StoreFile:
    return StoreFile.open(path, key, "http://127.0.0.1:8000", make_operator_key=make)


def refused(path: Path, match: str, key: str | None = None) -> None:
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match=match):
        opened(path, key)
    assert path.read_bytes() == before


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def with_job(path: Path, key: str | None) -> None:
    store = SQLiteStore(opened(path, key), log_limit=9)
    job, events = accepted("j", monitor="https://monitor/secret-part", target=Target(), now=1.0)
    await store.create(job, events, None)
    await store.close()


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Mode 0600, for the files SQLite puts beside it too."""
    file = opened(tmp_path / "s.db")
    with closing(file.connect()) as db:
        db.execute("CREATE TABLE t (x)")
        for path in tmp_path.iterdir():
            assert path.stat().st_mode & 0o777 == 0o600, path
    file.close()


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    """One process at a time, by a lock that dies with its holder."""
    file = opened(tmp_path / "s.db")
    code = (
        "import sys; from pathlib import Path; from gateway.store.sqlite.file import StoreFile\n"
        "try: StoreFile.open(Path(sys.argv[1]), None, 'second', make_operator_key=False)\n"
        "except Exception as error: print(error)"
    )
    second = [sys.executable, "-c", code, str(tmp_path / "s.db")]
    told = subprocess.run(second, capture_output=True, text=True, check=True).stdout
    assert f"in use by process {os.getpid()} (http://127.0.0.1:8000)" in told
    file.close()
    assert subprocess.run(second, capture_output=True, text=True, check=True).stdout == ""


def test_no_folder(tmp_path: Path) -> None:
    """A missing folder is named, not made."""
    with pytest.raises(StoreRefused, match="does not exist"):
        opened(tmp_path / "none" / "s.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A text is not overwritten."""
    path = tmp_path / "s.db"
    path.write_text("a letter to a friend\n" * 99)
    refused(path, "file is not a database")


def test_somebody_elses_database(tmp_path: Path) -> None:
    """A SQLite file that is no gateway's is not touched."""
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (x)")
    refused(path, "not a gateway's store")


def test_a_newer_store(tmp_path: Path) -> None:
    """A version this gateway does not know is left to the gateway that does."""
    path = tmp_path / "s.db"
    opened(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    refused(path, "version 99")


async def test_a_damaged_store(tmp_path: Path) -> None:
    """A page of garbage in the middle is found at the start."""
    path = tmp_path / "s.db"
    await with_job(path, None)
    damaged = bytearray(path.read_bytes())
    damaged[4096 * 2 : 4096 * 4] = os.urandom(8192)
    path.write_bytes(damaged)
    refused(path, "damaged|malformed")


def test_a_directory(tmp_path: Path) -> None:
    """What is no file at all is refused in words."""
    (tmp_path / "s.db").mkdir()
    with pytest.raises(StoreRefused, match="cannot be"):
        opened(tmp_path / "s.db")


async def test_a_sealed_store_opens_with_its_key_alone(tmp_path: Path) -> None:
    """The monitor URL is nowhere in the files, and another key is found out at the start."""
    path = tmp_path / "s.db"
    await with_job(path, "the key")
    assert b"secret-part" not in content(tmp_path)
    refused(path, "another GATEWAY_SECRET_KEY", "wrong")
    refused(path, "Set the GATEWAY_SECRET_KEY")
    store = SQLiteStore(opened(path, "the key"), log_limit=9)
    kept = await store.get("j")
    assert kept is not None
    assert kept.monitor == "https://monitor/secret-part"
    await store.close()


async def test_a_key_set_later_seals_what_was_plain(tmp_path: Path) -> None:
    """From the next start on the store is a sealed one."""
    path = tmp_path / "s.db"
    await with_job(path, None)
    assert b"secret-part" in path.read_bytes()
    opened(path, "the key").close()
    assert b"secret-part" not in path.read_bytes()
    refused(path, "Set the GATEWAY_SECRET_KEY")


CALLBACK = Callback(
    id="c",
    job_id="j",
    url="https://receiver.example.com/url-part",
    events=("completed",),
    secret="whsec_c2VjcmV0LXBhcnQtc2VjcmV0LXBhcnQ=",
    created=2.0,
)
LEGIBLE = (b"receiver.example.com", b"url-part", b"whsec_", b"c2VjcmV0LXBhcnQ")


async def with_callback(path: Path, key: str | None) -> bytes:
    """What lies on the disk while the store is open, its log beside the file included."""
    await with_job(path, key)
    store = SQLiteStore(opened(path, key), log_limit=9)
    assert await store.add_callback(CALLBACK) == "added"
    open_ = content(path.parent)
    await store.close()
    return open_


async def test_a_callbacks_url_and_secret_are_sealed(tmp_path: Path) -> None:
    """Neither is anywhere in the files, while the store is open or after; they open with the key alone."""
    path = tmp_path / "s.db"
    open_ = await with_callback(path, "the key")
    for legible in LEGIBLE:
        assert legible not in open_
        assert legible not in content(tmp_path)
    refused(path, "another GATEWAY_SECRET_KEY", "wrong")
    store = SQLiteStore(opened(path, "the key"), log_limit=9)
    assert await store.callbacks("j") == [CALLBACK]
    await store.close()


async def test_a_key_set_later_seals_callbacks_too(tmp_path: Path) -> None:
    """What was legible is not any more."""
    path = tmp_path / "s.db"
    open_ = await with_callback(path, None)
    assert all(legible in open_ for legible in LEGIBLE)
    opened(path, "the key").close()
    for legible in LEGIBLE:
        assert legible not in content(tmp_path)
    refused(path, "Set the GATEWAY_SECRET_KEY")
    store = SQLiteStore(opened(path, "the key"), log_limit=9)
    assert await store.callbacks("j") == [CALLBACK]
    await store.close()


@pytest.mark.parametrize("key", [None, "the key"])
async def test_a_store_of_the_first_version(key: str | None, tmp_path: Path) -> None:
    """It gets what it lacks, and keeps its secret, its jobs and their events."""
    path = tmp_path / "s.db"
    await with_job(path, key)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        lacking = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE tbl_name = 'callbacks'")]
        assert "callbacks" in lacking
        db.execute("DROP TABLE callbacks")
        db.execute("PRAGMA user_version = 1")
        first = sqlite3.connect(":memory:")
        first.executescript(files("gateway.store.sqlite").joinpath("schema.sql").read_text())
        tables = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
        assert db.execute(tables).fetchall() == first.execute(tables).fetchall()
        first.close()
    file = opened(path, key)
    with closing(file.connect()) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    store = SQLiteStore(file, log_limit=9)
    job, events = accepted("j", monitor="https://monitor/secret-part", target=Target(), now=1.0)
    assert await store.get("j") == job
    (piece,) = await store.read([("j", 0)], 9)
    assert piece is not None
    assert piece.events == events
    assert await store.add_callback(CALLBACK) == "added"
    assert await store.callbacks("j") == [CALLBACK]
    await store.close()


def test_an_operator_key_is_made_once(tmp_path: Path) -> None:
    """Shown by the start that makes it; only its hash is kept."""
    path = tmp_path / "s.db"
    assert opened_and_closed(path).operator_hash is None
    first = opened_and_closed(path, make=True)
    assert first.new_operator_key is not None
    second = opened_and_closed(path, make=True)
    assert second.new_operator_key is None
    assert second.operator_hash == first.operator_hash
    assert first.new_operator_key.encode() not in path.read_bytes()


def opened_and_closed(path: Path, *, make: bool = False) -> StoreFile:
    file = opened(path, make=make)
    file.close()
    return file


async def test_a_locked_store_is_unavailable_and_then_is_not(tmp_path: Path) -> None:
    """Another program's lock fails a write after a second, without effect, and nothing more."""
    store = SQLiteStore(opened(tmp_path / "s.db"), log_limit=9)
    job, events = accepted("j", monitor="https://h/m", target=Target(), now=1.0)
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.create(job, events, None)
        with pytest.raises(StoreUnavailable):
            await store.ping()
        other.execute("ROLLBACK")
    assert await store.get("j") is None
    await store.create(job, events, None)
    await store.close()


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_is_unavailable_and_then_is_not(tmp_path: Path) -> None:
    """What did not fit has no effect; once there is room, all goes on."""
    store = SQLiteStore(opened(tmp_path / "s.db"), log_limit=9)
    job, events = accepted("j", monitor="https://h/" + "m" * 20_000, target=Target(), now=1.0)
    with no_file_larger_than(8192), pytest.raises(StoreUnavailable):
        await store.create(job, events, None)
    assert await store.get("j") is None
    await store.create(job, events, None)
    assert await store.get("j") == job
    await store.close()


def test_our_mark_is_in_the_header(tmp_path: Path) -> None:
    """`file` and others can tell what it is."""
    opened(tmp_path / "s.db").close()
    assert int.from_bytes((tmp_path / "s.db").read_bytes()[68:72], "big") == APPLICATION_ID
