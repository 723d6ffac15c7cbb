"""The gateway as a process that is forked from one that has imported it: a start takes a fourth of the CPU.

What is forked runs `python -m gateway` from its first line, with an environment, a folder and standard streams of its
own.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

_LOADED = ("gateway.cli.commands", "gateway.server.server", "gateway.store.sqlite", "gateway.store.postgres")
_OF_COMMANDS = (
    *("gateway.cli.demo", "gateway.cli.display", "gateway.cli.follow", "gateway.cli.job", "gateway.cli.jobs"),
    *("gateway.cli.reseal", "gateway.cli.table", "gateway.simulator"),
)
"""What the other commands import, loaded when the first of them is asked for."""
_LONGEST = 1 << 20
_READY = b"ready"


class Forked:
    """As much of `subprocess.Popen` as tests need."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], output: int, *more: int) -> None:
        """`more` is where its errors go, if not to its output, and what it reads, if anything."""
        self.args = arguments
        self.returncode: int | None = None
        asked = json.dumps([list(arguments), dict(environment), str(Path.cwd())]).encode()
        self._status, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_loaded(os.getpid()), [asked], [theirs.fileno(), output, *(more or (output,))])
        self.pid = int(self._status.recv(32))

    def poll(self) -> int | None:
        """The exit status, negative after a signal; None while the process runs."""
        with suppress(BlockingIOError):
            self._receive(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. Raises TimeoutExpired."""
        try:
            return self._receive(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _receive(self, timeout: float | None) -> int:
        if self.returncode is None:
            self._status.settimeout(timeout)
            self.returncode = int(self._status.recv(32))
            self._status.close()
        return self.returncode


@cache
def _loaded(_pid: int) -> socket.socket:
    """The way to a process that has imported the gateway, one for each process of the tests; it ends with them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", __name__, str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(process.wait)
    atexit.register(ours.close)  # called first
    assert ours.recv(32) == _READY
    return ours


def _serve(way: socket.socket) -> None:
    """Fork until nobody asks any more, and tell how each process ended."""
    selector = selectors.DefaultSelector()
    selector.register(way, selectors.EVENT_READ)
    way.send(_READY)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                pid, status = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(BrokenPipeError):
                    status.send(b"%d" % ended)
                status.close()
                continue
            asked, descriptors, _, _ = socket.recv_fds(way, _LONGEST, 4)
            if not asked:
                return
            arguments, environment, folder = json.loads(asked)
            for name in () if arguments[0] == "serve" else _OF_COMMANDS:
                __import__(name)
            pid = os.fork()
            if pid == 0:
                _become(arguments, environment, folder, descriptors[1:])
            status = socket.socket(fileno=descriptors[0])
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))
            status.send(b"%d" % pid)


def _become(arguments: list[str], environment: dict[str, str], folder: str, standard: list[int]) -> NoReturn:
    """Run a command of the gateway, as `python -m` does."""
    for descriptor, own in zip(standard, (1, 2, 0), strict=False):
        os.dup2(descriptor, own)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["gateway", *arguments]
    runpy.run_module("gateway", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the tests, also at Ctrl-C
    for name in _LOADED:
        __import__(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
