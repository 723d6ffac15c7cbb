"""How a database's URL becomes a connection: the arguments of asyncpg, with the files that TLS needs checked."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg

from gateway.core.database_url import DatabaseURL, parse

CONNECT_SECONDS = 4.0
"""Timeout of a connection, unless the URL has a connect_timeout."""
_FILES = {"sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslcrl": "PGSSLCRL"}
"""The files of TLS, with the variable of the environment that names each by default."""
_OPTIONS = {
    name: getattr(socket, option, None)
    for name, option in (
        ("keepalives_idle", "TCP_KEEPIDLE"),
        ("keepalives_interval", "TCP_KEEPINTVL"),
        ("keepalives_count", "TCP_KEEPCNT"),
        ("tcp_user_timeout", "TCP_USER_TIMEOUT"),
    )
}
"""The socket options of TCP, None where the system has none: as with libpq, the parameter then has no effect."""


class UnusableFile(Exception):
    """A file that the URL names cannot be used; the text says which one and why."""


def arguments(url: str) -> dict[str, Any]:
    """The arguments of `asyncpg.connect` and `create_pool` for a checked URL. Raises UnusableFile."""
    database = parse(url)
    parameters = dict(database.parameters)
    passfile = parameters.pop("passfile", None)
    context = _context(parameters)
    return {
        "dsn": f"postgresql://?{urlencode(parameters)}" if parameters else None,
        "host": list(database.hosts) or None,
        "port": list(database.ports) or None,
        "user": database.user,
        "password": database.password,
        "passfile": passfile,
        "database": database.database,
        "ssl": context,
        "server_settings": dict(database.settings),
        "timeout": CONNECT_SECONDS if database.timeout is None else database.timeout * max(1, len(database.hosts)),
        "connection_class": _connection_class(database),
    }


def _context(parameters: dict[str, str]) -> ssl.SSLContext | None:
    """The TLS context with the system's certificates, which asyncpg makes for no parameter; None when it makes its own.

    Removes from the parameters what the context has. Raises UnusableFile, since asyncpg would take a file that is
    missing for a server that is away.
    """
    named = {name: parameters.get(name) or os.environ.get(variable) for name, variable in _FILES.items()}
    mode = parameters.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"
    if mode == "disable":
        return None
    system = named["sslrootcert"] == "system"
    if mode in ("verify-ca", "verify-full") and named["sslrootcert"] is None and not _in_home("root.crt"):
        raise UnusableFile(
            f"sslmode={mode} needs the certificate that signed the server's: name its file with sslrootcert, or write "
            "sslrootcert=system for those that this machine trusts"
        )
    context = ssl.create_default_context() if system else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, "sslrootcert", None if system else named["sslrootcert"])
    _load(context, "sslcrl", named["sslcrl"])
    certificate, key = named["sslcert"] or _in_home("postgresql.crt"), named["sslkey"] or _in_home("postgresql.key")
    if certificate:
        password = parameters.get("sslpassword", "")
        try:
            context.load_cert_chain(certificate, key, password=lambda: password)
        except (OSError, ValueError) as error:
            raise UnusableFile(f"sslcert and sslkey cannot be used: {_why(error)}") from None
    if not system:
        return None
    for name, attribute in (
        ("ssl_min_protocol_version", "minimum_version"),
        ("ssl_max_protocol_version", "maximum_version"),
    ):
        if version := parameters.pop(name, None):
            setattr(context, attribute, ssl.TLSVersion[version.replace(".", "_")])
    if named["sslcrl"]:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    context.set_alpn_protocols(["postgresql"])
    for name in ("sslmode", "sslpassword", *_FILES):
        parameters.pop(name, None)
    return context


def _load(context: ssl.SSLContext, name: str, path: str | None) -> None:
    if path is None:
        return
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        raise UnusableFile(f"{name} names a file that cannot be used: {_why(error)}") from None


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "it is no PEM file of that kind, or its password is another"
    return (error.strerror if isinstance(error, OSError) and error.strerror else "it cannot be read").lower()


def _in_home(name: str) -> str | None:
    """The file of that name which PostgreSQL's clients look for in the user's folder, if it is there."""
    try:
        path = Path.home() / ".postgresql" / name
    except RuntimeError:  # a user without a home folder
        return None
    return str(path) if path.exists() else None


def _connection_class(database: DatabaseURL) -> type[asyncpg.Connection[asyncpg.Record]]:
    """A class of connections whose sockets have the options that the URL asks for; asyncpg has no argument for them."""
    options = _socket_options(database.keepalive)
    if not options:
        return asyncpg.Connection

    class Connection(asyncpg.Connection):
        __slots__ = ()

        def __init__(self, protocol: Any, transport: Any, *others: Any, **named: Any) -> None:
            super().__init__(protocol, transport, *others, **named)
            own = transport.get_extra_info("socket")
            if own.family != socket.AF_UNIX:
                for level, option, value in options:
                    own.setsockopt(level, option, value)

    return Connection


def _socket_options(keepalive: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """Level, option and value of each; 0 leaves the system's own. Without keepalives its numbers have no effect."""
    alive = keepalive.get("keepalives", 1)
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, alive)] if keepalive else []
    for name, option in _OPTIONS.items():
        if option is not None and keepalive.get(name) and (alive or name == "tcp_user_timeout"):
            options.append((socket.IPPROTO_TCP, option, keepalive[name]))
    return options
