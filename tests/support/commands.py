"""The gateway's commands, as a person or a script runs them, each in a process that is forked from one that has
imported it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from tempfile import TemporaryFile
from typing import IO

import anyio

from tests.support.forking import Forked

SECONDS = 60


class Command:
    """One that is running."""

    def __init__(self, process: Forked | subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self.send_signal = process.send_signal
        self._process = process

    async def wait(self) -> int:
        """The exit status."""
        return await anyio.to_thread.run_sync(self._process.wait, SECONDS)


def spawned(
    arguments: Sequence[str], environment: Mapping[str, str], streams: tuple[int, ...], *, fresh: bool = False
) -> Forked | subprocess.Popen[bytes]:
    """`streams` are where its output and its errors go, and what it reads, if anything.

    `fresh` gives it a Python of its own, as has one whose coverage is measured.
    """
    if not fresh and not any(name.startswith("COVERAGE_") for name in environment):
        return Forked(arguments, environment, *streams)
    output, errors, given = (*streams, subprocess.DEVNULL)[:3]
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.Popen(command, env=environment, stdin=given, stdout=output, stderr=errors)


@asynccontextmanager
async def running(
    arguments: Sequence[str], environment: Mapping[str, str], *streams: int, fresh: bool = False
) -> AsyncIterator[Command]:
    """A command as `spawned` starts it; it is killed at the end if it still runs."""
    process = spawned(arguments, environment, streams, fresh=fresh)
    try:
        yield Command(process)
    finally:
        process.kill()
        process.wait(SECONDS)


async def gateway(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command."""
    return await _ran(arguments, environment, fresh=False)


async def fresh_gateway(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """The same with a Python of its own."""
    return await _ran(arguments, environment, fresh=True)


async def _ran(arguments: Sequence[str], environment: Mapping[str, str], *, fresh: bool) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    own = {**clean, "COLUMNS": "100", **environment}
    with TemporaryFile() as output, TemporaryFile() as errors:
        async with running(arguments, own, output.fileno(), errors.fileno(), fresh=fresh) as command:
            status = await command.wait()
        said = text_of(errors)
        assert "Traceback" not in said, said
        return status, text_of(output), said


class Following:
    """A command that is running, read line by line."""

    def __init__(self, process: Command, output: int, errors: IO[bytes]) -> None:
        self.process = process
        self.output = self._lines(output)
        self._errors = errors

    async def line(self) -> str:
        with anyio.fail_after(20):
            return await anext(self.output)

    def errors(self) -> str:
        """All of them, once it has ended."""
        return text_of(self._errors)

    async def _lines(self, output: int) -> AsyncIterator[str]:
        rest = b""
        while True:
            await anyio.wait_readable(output)
            piece = os.read(output, 1 << 16)
            if not piece:
                return
            *whole, rest = (rest + piece).split(b"\n")
            for text in whole:
                yield text.decode()


@asynccontextmanager
async def following(*arguments: str, **environment: str) -> AsyncIterator[Following]:
    ours, theirs = os.pipe()
    try:
        with TemporaryFile() as errors:
            async with running(arguments, {**os.environ, **environment}, theirs, errors.fileno()) as command:
                os.close(theirs)
                yield Following(command, ours, errors)
    finally:
        os.close(ours)


def text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()
