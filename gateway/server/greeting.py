"""What `gateway serve` says to whoever started it: where it is and what to try, or why it is not there."""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING

from gateway.invocation import DEFAULT_URL, command
from gateway.settings import PREFIX, Settings

if TYPE_CHECKING:
    from gateway.store.postgres.database import Database
    from gateway.store.sqlite.file import StoreFile


def greet(settings: Settings, source: StoreFile | Database, sockets: list[socket.socket]) -> None:
    """Once it answers."""
    host, port = sockets[0].getsockname()[:2]
    listens = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    base = settings.public_url or listens
    say(f"gateway listens on {listens}" + (f", and is called {base}" if base != listens else ""))
    say(f"  upstream      {settings.upstream_url}")
    say(f"  store         {source.place}")
    if source.new_operator_key is not None:
        say(f"  operator key  {source.new_operator_key}   (made for this store, and shown only now: keep it)")
    elif settings.operator_key is None and source.operator_hash is None:
        say(f"  operator key  none, so the operator's routes are shut: set {PREFIX}OPERATOR_KEY to open them")
    there = "" if base == DEFAULT_URL else f" --gateway {base}"
    say("Try next:")
    say(f"  the page      {base}/")
    say(f"  a copy        GRAPH_TOKEN=… {command()} copy ITEM-ID --to /Documents{there}")
    say(f"  all jobs      {PREFIX}OPERATOR_KEY=… {command()} jobs{there}")
    say(f"  is it well?   curl {base}/readyz")


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Why not, and what to do."""
    if error.errno == errno.EADDRINUSE:
        why = f"the port is taken. Stop what listens there, or set {PREFIX}PORT to another one; 0 takes a free one."
    elif error.errno == errno.EACCES:
        why = (
            f"a port this low is not for everybody. Set {PREFIX}PORT to one from 1024 on, behind a proxy that has "
            "the low one."
        )
    elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        why = (
            f"this machine has no such address. Set {PREFIX}HOST to one that it has, such as 127.0.0.1, or to 0.0.0.0 "
            "for all of them."
        )
    else:
        why = f"{error.strerror or error}."
    return f"Cannot listen on {host}, port {port}: {why}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the first words of a command
