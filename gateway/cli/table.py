"""A gateway's jobs on a terminal: a table that keeps up with them, in as much room as there is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Self

import aiohttp
import anyio
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gateway.cli.display import clean, console, known, percentage
from gateway.cli.follow import ENDED, State
from gateway.cli.jobs import PAGE, Jobs, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

REDRAW = 0.1  # seconds at least between two pictures
TICK = 1.0  # … and at most, as ages grow
JOB, PERCENT, AGE, BAR = 24, 4, 7, 16  # cells
AGES = ((86400, "d"), (3600, "h"), (60, "min"), (0, "s"))
OTHER_LINES = 3  # title, heading, last line
INDENT = 2
FAILURE = 6  # most lines below a job

_PLAIN = Console(color_system=None)  # which wrapping asks for its tabs only


class Layout(NamedTuple):
    """Cells in all and for a status, and whether there are any for what else can be shown.

    What is known of a job stands beside it, or below; why one failed is always shown as a whole, or nearly.
    """

    width: int
    status: int
    age: bool
    bar: bool
    beside: bool

    @classmethod
    def of(cls, width: int) -> Layout:
        return cls(width, status=13 if width >= 60 else 10, age=width >= 60, bar=width >= 110, beside=width >= 80)


async def watch_jobs(origin: str, operator_key: str, *, status: str | None, limit: int, patience: float) -> NoReturn:
    """Show them until cancelled. Raises RefusedError and LostError."""
    nothing = "No jobs yet" if status is None else f"No job is {status}"
    title = origin if status is None else f"{origin}, only {status}"
    async with aiohttp.ClientSession() as session:
        with LiveTable(clean(title), clean(nothing)) as table:
            jobs = Jobs(session, origin, operator_key, status=status, limit=min(limit, PAGE))
            watch = Watch(jobs, patience=patience, changed=table.changed)
            await watch.run(lambda: table.show(watch))


class LiveTable:
    """Has the terminal to itself; at the end that is as it was before, with the last picture on it."""

    def __init__(self, title: str, nothing: str) -> None:
        self._title = title
        self._nothing = nothing
        self._console = console()
        self._news = anyio.Event()
        self._watch: Watch | None = None
        self._live = Live(console=self._console, screen=True, auto_refresh=False, get_renderable=self._screen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        if self._live.is_started:
            self._live.stop()
            self._console.print(Group(*self._lines()))

    def changed(self) -> None:
        self._news.set()

    async def show(self, watch: Watch) -> NoReturn:
        """Draw what it knows when that changes, and as time goes by."""
        self._watch = watch
        self._live.start()
        while True:
            self._news = anyio.Event()
            self._live.refresh()
            await anyio.sleep(REDRAW)
            with anyio.move_on_after(TICK - REDRAW):
                await self._news.wait()

    def _screen(self) -> Group:
        if self._watch is None:
            return Group()
        patience = self._watch.patience
        if patience.away:
            last = _line((f"reconnecting: {patience.away}; gives up after {patience.seconds:g} s", "bold yellow"))
        else:
            last = _line(("Ctrl-C ends this, not the copies", "dim"))
        return Group(*self._lines(), last)

    def _lines(self) -> list[Text]:
        """The table as far as it fits, without the last line of the screen."""
        states = list(self._watch.table.states.values()) if self._watch is not None else []
        if not states:
            return [_line((self._nothing, "bold"), (f"at {self._title}", ""))]
        width, height = self._console.size
        room, now = Layout.of(width), datetime.now(UTC)
        lines: list[Text] = []
        shown = 0
        for state in states:
            one = list(row(state, room, now))
            if len(lines) + len(one) > height - OTHER_LINES:
                break
            lines += one
            shown += 1
        running = sum(state.get("status") not in ENDED for state in states)
        counted = f"{len(states)} job{'s' * (len(states) > 1)}, {running} running"
        if shown < len(states):
            counted += f", the newest {shown} shown"
        return [_line((counted, "bold"), (f"at {self._title}", "")), heading(room), *lines]


def heading(room: Layout) -> Text:
    cells = [f"{'JOB':<{JOB}}", f"{'STATUS':<{room.status}}", f"{'%':>{PERCENT}}"]
    cells += [" " * BAR] * room.bar + [f"{'CHANGED':>{AGE}}"] * room.age + ["WHAT IS KNOWN"] * room.beside
    return _line((" ".join(cells).rstrip(), "dim"))


def row(state: State, room: Layout, now: datetime) -> Iterator[Text]:
    """One job: a line, and a second one when there is more to say than room beside."""
    status, done = clean(state.get("status", "")), percentage(state)
    style = {"completed": "green"}.get(status, "red" if status in ENDED else "cyan")
    cells = [
        (set_cell_size(clean(state.get("jobId", "")), JOB), ""),
        (set_cell_size(status, room.status), style),
        (f"{done:3.0f}%", style),
    ]
    if room.bar:
        filled = round(min(done, 100) / 100 * BAR)
        cells.append(("#" * filled + "." * (BAR - filled), style))
    if room.age:
        cells.append((f"{age(state.get('at'), now):>{AGE}}", "dim"))
    line, words = _line(*cells), known(state)
    failed = status in ENDED and status != "completed"
    left = room.width - line.cell_len - 1
    if words and room.beside and (cell_len(words) <= left or not failed):
        line.append(" ").append(words, "red" if failed else "dim")
        words = ""
    yield line
    if words:
        told = Text(words, "red" if failed else "dim")
        for below in told.wrap(_PLAIN, room.width - INDENT)[: FAILURE if failed else 1]:
            below.pad_left(INDENT)
            yield below


def age(at: object, now: datetime) -> str:
    """How long ago, in its largest unit; a clock that goes before ours makes no time of its own."""
    try:
        seconds = max(0, int((now - datetime.fromisoformat(str(at))).total_seconds()))
    except (ValueError, TypeError):
        return ""
    size, unit = next((size, unit) for size, unit in AGES if seconds >= size)
    return f"{seconds // max(size, 1)} {unit}"


def _line(*cells: tuple[str, str]) -> Text:
    """Cells beside each other; what does not fit is cut. No text in it is read as markup."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for words, style in cells:
        text.append(" " if text else "").append(words, style or None)
    return text
