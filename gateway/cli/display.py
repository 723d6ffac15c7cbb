"""What a person sees of one job: a progress bar on a terminal, a plain line per event elsewhere."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Self

from gateway.cli.words import clean, line, percentage, say

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType

    from gateway.cli.follow import State


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
        self._begun = False
        self._live = Live(console=console(), get_renderable=self._picture, refresh_per_second=10)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.transient = not self._begun  # a bar that never moved tells nothing
        self._live.stop()

    def state(self, state: State) -> None:
        self._begun = True
        self._bar.start_task(self._task)
        self._bar.update(self._task, completed=percentage(state), status=clean(state.get("status", "")))
        self._described = clean(state.get("statusDescription", ""))
        self._live.refresh()

    def notice(self, text: str) -> None:
        self._live.console.print(clean(text), markup=False, highlight=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        if not self._begun:
            return Text("waiting for the gateway", style="dim")
        if not self._described:
            return self._bar
        return Group(self._bar, Text(self._described, style="dim", no_wrap=True, overflow="ellipsis"))


Display = PlainLines | ProgressBar


def display() -> Display:
    """The one that suits the output."""
    return ProgressBar() if on_terminal() else PlainLines()


def on_terminal() -> bool:
    """Whether the output can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def console() -> Console:
    """One that draws: whether it can was asked of `on_terminal`, and is not guessed anew from the environment."""
    from rich.console import Console

    return Console(force_terminal=True, force_interactive=True)
