"""The sockets that a gateway listens on."""

from __future__ import annotations

import errno
import socket

SEND_BUFFER = 64 << 10
"""Bytes that the kernel may buffer for a slow consumer; its default may grow to megabytes per stream."""
BACKLOG = 2048
LOOPBACK = "127.0.0.1"


def listen(host: str, port: int, send_timeout: float, *, shared: bool = False) -> list[socket.socket]:
    """One listening socket for each address of the host, all on one port. Raises OSError.

    On a `shared` port other processes listen too; the kernel distributes the connections among them. So the sockets of
    a shared port are only bound here, and listen once the server accepts.

    Accepted sockets inherit the options, so that the kernel, too, drops a peer that has read nothing, or was
    unreachable, for `send_timeout` seconds.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    unavailable: OSError | None = None
    try:
        for family, _, protocol, _, address in dict.fromkeys(found):
            common_port = listening[0].getsockname()[1] if listening else port
            try:
                listener = bound(family, protocol, (address[0], common_port, *address[2:]), send_timeout, shared=shared)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                unavailable = error  # a name may have an IPv6 address that this machine lacks
            else:
                listening.append(listener)
                if not shared:
                    listener.listen(BACKLOG)
    except BaseException:
        close_all(listening)
        raise
    if unavailable is not None and not listening:
        raise unavailable
    return listening


def bound(
    family: int, protocol: int, address: tuple[object, ...], send_timeout: float, *, shared: bool
) -> socket.socket:
    """A bound, non-blocking socket with the gateway's options, which does not listen yet. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(send_timeout * 1000))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.setblocking(False)  # noqa: FBT003 - its signature
    except BaseException:
        sock.close()
        raise
    return sock


def close_all(listening: list[socket.socket]) -> None:
    for listener in listening:
        listener.close()
