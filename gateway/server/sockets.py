"""The sockets that a gateway listens on."""

from __future__ import annotations

import errno
import socket

SEND_BUFFER = 64 << 10
"""Bytes the kernel may hold for a reader that is behind; the default may grow to megabytes a stream."""
BACKLOG = 2048
LOOPBACK = "127.0.0.1"


def listen(host: str, port: int, send_timeout: float, *, shared: bool = False) -> list[socket.socket]:
    """A listening socket for each address of the host, all on one port. Raises OSError.

    A `shared` port is one that other processes listen on too: the kernel deals out the connections.

    Accepted sockets inherit the options, so that a reader that takes nothing, or is gone without a word, is cut by the
    kernel too.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, _, protocol, _, address in dict.fromkeys(found):
            taken = listening[0].getsockname()[1] if listening else port
            try:
                one = bound(family, protocol, (address[0], taken, *address[2:]), send_timeout, shared=shared)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error  # a name may have an IPv6 address that this machine has not
            else:
                listening.append(one)
                one.listen(BACKLOG)
    except BaseException:
        close_all(listening)
        raise
    if absent is not None and not listening:
        raise absent
    return listening


def bound(
    family: int, protocol: int, address: tuple[object, ...], send_timeout: float, *, shared: bool
) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(send_timeout * 1000))
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.setblocking(False)  # noqa: FBT003 - its signature
    except BaseException:
        one.close()
        raise
    return one


def close_all(listening: list[socket.socket]) -> None:
    for one in listening:
        one.close()
