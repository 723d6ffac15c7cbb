"""Runs the command line: `python -m gateway` is the same as `gateway`.

What runs until a signal must end well at one from here on, also while the other modules are imported.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType

RUN_UNTIL_SIGNALLED = "serve", "simulate"


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)  # an exception could be swallowed by the import that it interrupts; nothing is open yet


if sys.argv[1:2] == ["serve"]:
    gc.disable()  # imports leave hardly any garbage, but much to walk; enabled again once the gateway has started
if sys.argv[1:] and sys.argv[1] in RUN_UNTIL_SIGNALLED:
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, _exit)
    if "--worker" in sys.argv:
        from gateway.server import heartbeat

        heartbeat.starting()


def main() -> None:
    from gateway.cli.commands import main as run  # noqa: PLC0415 - its imports take long

    run()


if __name__ == "__main__":
    main()
