"""What a person sees of a job: a progress bar on a terminal, a plain line per event elsewhere, errors in words."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType

    from gateway.cli_follow import State

ADVICE = {
    "accessDenied": "The token may not read the item or not write to the target.",
    "activityLimitReached": "Upstream throttles; try again later.",
    "InvalidAuthenticationToken": "Set GRAPH_TOKEN to a token that is still valid.",
    "itemNotFound": "Check the item and the target: one of them is not there.",
    "nameAlreadyExists": "Try another --name, or --conflict rename.",
    "quotaLimitReached": "Make room in the target drive, or choose another one.",
    "serviceNotAvailable": "Nothing was started; try again.",
    "unauthenticated": "Set GRAPH_TOKEN to a token that is still valid.",
}


class PlainLines:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        pass

    def state(self, state: State) -> None:
        print(line(state), flush=True)

    def notice(self, text: str) -> None:
        say(text)


class ProgressBar:
    """One line with the bar, below it what upstream says of the copy."""

    def __init__(self) -> None:
        from rich.live import Live  # 60 ms
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.fields[status]}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:5.1f} %", markup=False),
            TimeElapsedColumn(),
            expand=True,
        )
        self._task = self._bar.add_task("", total=100.0, status="…", start=False)
        self._described = ""
        self._live = Live(get_renderable=self._picture, refresh_per_second=10)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def state(self, state: State) -> None:
        self._bar.start_task(self._task)
        self._bar.update(self._task, completed=percentage(state), status=clean(state.get("status", "")))
        self._described = clean(state.get("statusDescription", ""))
        self._live.refresh()

    def notice(self, text: str) -> None:
        self._live.console.print(clean(text), markup=False, highlight=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        if not self._described:
            return self._bar
        return Group(self._bar, Text(self._described, style="dim", no_wrap=True, overflow="ellipsis"))


def line(state: State) -> str:
    """An event in one line: time, status, percentage, and what else there is to say."""
    error = state.get("error")
    if isinstance(error, dict):
        told = f"{error.get('code', '')}: {error.get('message', '')}"
    else:
        told = state.get("resource") or state.get("statusDescription") or ""
    at, status = clean(state.get("at", "")), clean(state.get("status", ""))
    return f"{at:<24}  {status:<13} {percentage(state):5.1f} %  {clean(told)}".rstrip()


def ending(state: State) -> str:
    """How a job ended, in words; a failure with what to do next."""
    if state.get("status") == "completed":
        found = state.get("resource") or state.get("resourceId")
        return "The copy is complete" + (f": {clean(found)}" if found else ".")
    error = state.get("error")
    error = error if isinstance(error, dict) else {}
    code = clean(error.get("code", "")) or clean(state.get("status", ""))
    message = clean(error.get("message", "")).rstrip(".")
    failed = f"{message} ({code})." if message else f"{code}."
    if error.get("origin") == "gateway":
        return f"The gateway lost sight of the copy: {failed}"
    return f"The copy failed: {failed} {ADVICE.get(code, '')}".rstrip()


def advice(words: str) -> str:
    """An error in words, with what to do about its code if we know that."""
    code = words.rpartition("(")[2].rstrip(")")
    return f"{words.rstrip('.')}. {ADVICE.get(code, '')}".rstrip()


def percentage(state: State) -> float:
    value = state.get("percentageComplete", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def clean(text: Any) -> str:
    """A text from outside, for a terminal: whatever could steer it is replaced."""
    return "".join(character if character.isprintable() else "\ufffd" for character in str(text))


def say(text: str) -> None:
    """A line for the person, beside the output."""
    print(f"gateway: {clean(text)}", file=sys.stderr, flush=True)


def command() -> str:
    """How this program is called again from the same shell."""
    called = Path(sys.argv[0])
    if called.name != "gateway":
        return f"{shlex.quote(sys.executable)} -m gateway"
    return "gateway" if shutil.which("gateway") else shlex.quote(str(called))


Display = PlainLines | ProgressBar


def display() -> Display:
    """The one that suits the output."""
    return ProgressBar() if sys.stdout.isatty() else PlainLines()
