"""PostgreSQL's URLs, read as its own library (libpq) reads them.

Each connection parameter is honoured or refused by its name, with what to do instead; none is ignored but those that
can change nothing here. A message shows nothing of a URL but the names of known parameters: the rest of a URL that is
wrong may be part of a password. Source: https://www.postgresql.org/docs/18/libpq-connect.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address
from urllib.parse import quote, unquote

import msgspec

EXAMPLE = (
    "postgresql://user:password@host:5432/database; in a user or password, @ is %40, / is %2F, # is %23, ? is %3F "
    "and % is %25"
)

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_WITH_TLS = _SSL_MODES[3:]
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_UTF8 = ("UTF8", "utf8", "UTF-8", "utf-8", "unicode", "UNICODE")

_FREE = ("passfile", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "krbsrvname")
"""Handed on as they are."""
_CHOICES = {
    "sslmode": _SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "gsslib": ("gssapi", "sspi"),
    "target_session_attrs": ("any", "read-write", "primary"),
}
"""Handed on with one of these values. The gateway writes, so the attributes of a standby are none of them."""
_NUMBERS = {
    "connect_timeout": 1,
    "keepalives": 0,
    "keepalives_idle": 0,
    "keepalives_interval": 0,
    "keepalives_count": 0,
    "tcp_user_timeout": 0,
}
"""Whole numbers, with the lowest one. A connection that is awaited for ever would be no use: requests wait 5 s."""
_HARMLESS = {
    "channel_binding": (("disable", "prefer"), "the driver has none; sslmode=verify-full makes sure of the server"),
    "client_encoding": (_UTF8, "texts are UTF8"),
    "gssencmode": (("disable", "prefer"), "the driver has no GSS encryption; use sslmode=require"),
    "gssdelegation": (("0",), "credentials are not delegated"),
    "load_balance_hosts": (("disable",), "hosts are tried in their order"),
    "max_protocol_version": (("3.0", "3.2", "latest"), "the driver speaks version 3.0"),
    "min_protocol_version": (("3.0",), "the driver speaks version 3.0"),
    "replication": (("false", "off", "no", "0"), "the gateway opens no replication connection"),
    "sslcertmode": (("allow",), "a certificate is sent when sslcert names one"),
    "sslcompression": (("0", "1"), "there is no TLS compression any more"),
    "sslsni": (("1",), "the server's name is sent always"),
}
"""Values that ask for what is done anyway, and why others cannot be honoured."""
_SETTINGS = ("application_name", "fallback_application_name", "options")
_PLACES = ("host", "port", "dbname", "user", "password")
_CREDENTIALS = "give the user a password, or sslcert and sslkey"
_INSTEAD = {
    "hostaddr": "write the address as the host",
    "oauth_client_id": _CREDENTIALS,
    "oauth_client_secret": _CREDENTIALS,
    "oauth_issuer": _CREDENTIALS,
    "oauth_scope": _CREDENTIALS,
    "require_auth": "restrict the methods in the server's pg_hba.conf; sslmode=verify-full makes sure of the server",
    "requirepeer": "use sslmode=verify-full to make sure of the server",
    "scram_client_key": "give the password instead",
    "scram_server_key": "give the password instead",
    "service": "write the host, user and database of the service into the URL",
    "servicefile": "write the host, user and database of the service into the URL",
    "sslcrldir": "name one file of revoked certificates with sslcrl",
    "sslkeylogfile": "set SSLKEYLOGFILE in the environment",
    # Not libpq's, but usual elsewhere.
    "ssl": "it is JDBC's; write sslmode=require",
    "requiressl": "write sslmode=require",
    "database": "write dbname",
    "schema": "write options=-csearch_path%3DNAME",
    "currentSchema": "write options=-csearch_path%3DNAME",
    "search_path": "write options=-csearch_path%3DNAME",
    "statement_timeout": "the gateway has its own time limits",
    "pgbouncer": "name a direct connection in GATEWAY_LISTEN_URL",
    "prepareThreshold": "name a direct connection in GATEWAY_LISTEN_URL",
    "statement_cache_size": "name a direct connection in GATEWAY_LISTEN_URL",
    "ApplicationName": "write application_name",
    "connectTimeout": "write connect_timeout",
    "loginTimeout": "write connect_timeout",
}
KNOWN = frozenset({*_FREE, *_CHOICES, *_NUMBERS, *_HARMLESS, *_SETTINGS, *_PLACES, *_INSTEAD})

_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(:(?P<port>[0-9]*))?")
_NAME = re.compile(r"[^\s\x00-\x1f/@:?#\[\],]+")


class DatabaseURL(msgspec.Struct, frozen=True):
    """A checked URL. `hosts` are names, addresses and folders of sockets, in the order to try; none means the default.

    `ports` has none, one, or one for each host. `parameters` are those of TLS, of Kerberos and of the kind of server
    that is wanted; `settings` are those of the session. `timeout` is in seconds for each host. `keepalive` has the
    numbers of `keepalives*` and `tcp_user_timeout`, by name.
    """

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str | None
    password: str | None
    database: str | None
    parameters: Mapping[str, str]
    settings: Mapping[str, str]
    timeout: float | None
    keepalive: Mapping[str, int]

    @property
    def place(self) -> str:
        """The URL without user, password and parameters, for messages."""
        ports = self.ports if len(self.ports) == len(self.hosts) else self.ports * max(1, len(self.hosts))
        hosts = [f"[{host}]" if ":" in host else quote(host, safe="%") for host in self.hosts] or [""]
        if ports:
            hosts = [f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)]
        return f"postgresql://{','.join(hosts)}/{quote(self.database or '')}"

    def __repr__(self) -> str:
        return f"<{self.place}>"


def parse(url: str) -> DatabaseURL:
    """Read and check a URL. Raises ValueError with a text that shows nothing of it but names of known parameters."""
    rest = url.strip().partition("://")[2]
    if _UNSAFE.search(rest) or "#" in rest:
        raise _unreadable("it holds a space, a line break or a # that is not written as %20, %0A or %23")
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    path, _, query = rest[len(authority) :].partition("?")
    login, has_login, places = authority.rpartition("@")
    if "@" in login or "@" in path or "@" in query or "/" in path[1:]:
        raise _unreadable("it holds a @, / or ? too many")
    if _BAD_ESCAPE.search(rest):
        raise _unreadable("it holds a % that is no escape")
    user, _, password = login.partition(":") if has_login else ("", "", "")
    given = _parameters(query)
    hosts, ports = _places(places)
    if "host" in given:
        hosts = _hosts_of(given["host"])
    if "port" in given:
        ports = _ports_of(given["port"])
    if len(ports) > 1 and len(ports) != len(hosts):
        raise ValueError("has another number of ports than of hosts; write one port for all, or one for each")
    numbers = {name: _number(name, given[name], lowest) for name, lowest in _NUMBERS.items() if name in given}
    timeout = numbers.pop("connect_timeout", None)
    parameters = {name: given[name] for name in (*_FREE, *_CHOICES) if name in given}
    _judge_tls(parameters)
    settings: dict[str, str] = {name: given[name] for name in ("application_name", "options") if name in given}
    if "fallback_application_name" in given:
        settings.setdefault("application_name", given["fallback_application_name"])
    return DatabaseURL(
        hosts=hosts,
        ports=ports,
        user=given.get("user") or _decoded(user) or None,
        password=given.get("password") or _decoded(password) or None,
        database=given.get("dbname") or _decoded(path[1:]) or None,
        parameters=parameters,
        settings=settings,
        timeout=timeout,
        keepalive=numbers,
    )


def _unreadable(why: str) -> ValueError:
    return ValueError(f"cannot be read: {why}; write {EXAMPLE}")


def _decoded(text: str) -> str:
    try:
        found = unquote(text, errors="strict")
    except UnicodeDecodeError:
        found = "\0"
    if "\0" in found:
        raise _unreadable("it holds an escape that is no UTF-8 text")
    return found


def _places(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Hosts and ports of the URL's authority, `host:port,…`."""
    found = [_HOST.fullmatch(one) for one in text.split(",")]
    if not all(found):
        raise ValueError(f"names no host and port; write {EXAMPLE}")
    hosts = [_decoded(one["host"]) for one in found if one]
    ports = [one["port"] or "" for one in found if one]
    if hosts == [""]:
        return (), _ports_of(ports[0])
    bare = [host[1:-1] if host.startswith("[") else host for host in hosts]
    if any(host.startswith("[") and not _is_ipv6(host[1:-1]) for host in hosts):
        raise ValueError(f"names no host and port; write {EXAMPLE}")
    return _hosts_of(",".join(bare)), _ports_of(",".join(ports))


def _hosts_of(text: str) -> tuple[str, ...]:
    hosts = tuple(text.split(","))
    if not all(_NAME.fullmatch(host) or _is_ipv6(host) or host.startswith("/") for host in hosts):
        raise ValueError(f"names no host and port; write {EXAMPLE}, or a socket's folder as /database?host=/folder")
    return hosts


def _ports_of(text: str) -> tuple[int, ...]:
    """The ports of a list in which some, but not all, may be empty; none when all are."""
    ports = text.split(",")
    if not any(ports):
        return ()
    if not all(not port or (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536) for port in ports):
        raise ValueError(f"names no host and port; write {EXAMPLE}")
    return tuple(int(port or 5432) for port in ports)


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _parameters(query: str) -> dict[str, str]:
    """The parameters that have a value, each checked by itself; of one that is repeated the last counts."""
    found = {}
    for number, one in enumerate(query.split("&") if query else [], 1):
        name, separator, value = (_decoded(part) for part in one.partition("="))
        if name not in KNOWN:
            raise ValueError(
                f"has a parameter that PostgreSQL's clients do not know (number {number} after the ?); settings of the "
                "server go into options, such as options=-csearch_path%3DNAME"
            )
        if not separator or "=" in one.partition("=")[2]:
            raise ValueError(f"has {name} with no = or with more than one; in a value, = is %3D")
        if name in _INSTEAD:
            raise ValueError(f"has {name}, which the gateway does not support: {_INSTEAD[name]}")
        if value:
            found[name] = value
    for name, choices in _CHOICES.items():
        if name in found and found[name] not in choices:
            raise ValueError(f"has a value of {name} that is none of {', '.join(choices)}")
    for name, (values, why) in _HARMLESS.items():
        if name in found and found[name] not in values:
            raise ValueError(
                f"asks with {name} for what the gateway cannot do: {why}. Leave {name} out, or write {name}={values[0]}"
            )
    return found


def _number(name: str, text: str, lowest: int) -> int:
    if not text.isascii() or not text.isdecimal() or not lowest <= int(text[:10]) < 1 << 31:
        raise ValueError(f"has a value of {name} that is no whole number from {lowest}")
    return int(text)


def _judge_tls(parameters: dict[str, str]) -> None:
    """Judge the parameters of TLS that depend on each other. With the system's certificates, names are checked."""
    if parameters.get("sslrootcert") == "system" and parameters.setdefault("sslmode", "verify-full") != "verify-full":
        raise ValueError("has sslrootcert=system, which goes with sslmode=verify-full only")
    if parameters.get("sslnegotiation") == "direct" and parameters.get("sslmode") not in _WITH_TLS:
        raise ValueError(f"has sslnegotiation=direct, which goes with sslmode {' or '.join(_WITH_TLS)} only")
    lowest, highest = (parameters.get(f"ssl_{end}_protocol_version") for end in ("min", "max"))
    if lowest and highest and _TLS_VERSIONS.index(lowest) > _TLS_VERSIONS.index(highest):
        raise ValueError("has an ssl_min_protocol_version above its ssl_max_protocol_version")
