"""Two ports that lead nowhere: one refuses connections, one never completes them."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

FILLING = 4  # connections that fill a queue of none, with some to spare


class DeadEnds:
    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sockets = [socket.socket(family, socket.SOCK_STREAM) for _ in range(2 + FILLING)]
        refusing, silent, *fillers = self._sockets
        # Bound and not listening: nobody else gets the port, and a connection to it is refused.
        refusing.bind((host, 0))
        silent.bind((host, 0))
        silent.listen(0)
        # Nobody accepts; once the queue is full the kernel drops what else knocks.
        for filler in fillers:
            filler.settimeout(0)
            with contextlib.suppress(OSError):
                filler.connect(silent.getsockname())
        self.refusing: int = refusing.getsockname()[1]
        self.silent: int = silent.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in self._sockets:
            opened.close()
