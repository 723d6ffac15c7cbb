"""How a command runs and exits: signals, the exit status, and the error line."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, TypeVar

import anyio

from gateway.cli.display import advice, stderr_line
from gateway.cli.follow import LostError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

COMPLETED, FAILED, WRONG_USE, LOST = 0, 1, 2, 3
INTERRUPTED = 130
PIPE_CLOSED = 141


async def until_interrupted(work: Callable[[], Awaitable[T]]) -> T | None:
    """Run `work` and return its result, or None when SIGINT, SIGTERM or SIGHUP arrives first.

    On a signal `work` is cancelled, so that it closes its resources. Raises its LostError, RefusedError and OSError.
    """
    result: T | None = None
    failure: Exception | None = None

    async def stage() -> None:
        nonlocal result, failure
        try:
            result = await work()
        except (LostError, RefusedError, OSError) as error:
            failure = error
        everything.cancel_scope.cancel()

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as everything:
            everything.start_soon(stage)
            async for _ in signals:
                break
            everything.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


def until_done(work: Callable[[], Awaitable[None]]) -> int:
    """Run `work`. Returns COMPLETED, or INTERRUPTED when a signal came first. Raises its errors."""

    async def run() -> bool:
        await work()
        return True

    return COMPLETED if anyio.run(until_interrupted, run) else INTERRUPTED


def exit_status(run: Callable[[], int]) -> int:
    """Return the result of `run`, or the exit status of its error, which is printed as one line."""
    try:
        return run()
    except RefusedError as error:
        stderr_line(advice(str(error)))
        return WRONG_USE
    except LostError as error:
        stderr_line(advice(str(error)))
        return LOST
    except BrokenPipeError:
        # The reader of the output has closed the pipe; the interpreter must not flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
