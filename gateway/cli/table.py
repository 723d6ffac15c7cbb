"""A live table of a gateway's jobs on a terminal, laid out for the terminal's size."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Self

import aiohttp
import anyio
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gateway.cli.display import clean, console, known, percentage, title
from gateway.cli.follow import ENDED, State
from gateway.cli.jobs import PAGE, Jobs, Watch
from gateway.core.job import COMPLETED, FAILED, STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REDRAW = 0.1  # shortest time between two drawings, in seconds
TICK = 1.0  # … and the longest, as ages grow
TITLE, PERCENT, AGE, BAR = 24, 4, 7, 16  # cells; a title is an id or longer
SHORTEST_STATUS, LONGEST_STATUS = len("inProgress"), max(map(len, STATUSES))
AGES = ((86400, "d"), (3600, "h"), (60, "min"), (0, "s"))
OTHER_LINES = 3  # title, heading, last line
INDENT = 2
FAILURE = 6  # the most lines below a failed job

_PLAIN = Console(color_system=None)  # Text.wrap requires a console, and uses only its tab size


class Layout(NamedTuple):
    """The width in cells: in total, of the title and of the status column, which the longest status fits.

    `age` and `bar` are whether those columns are shown. `beside` is whether the details of a job stand beside it
    instead of below. Details that do not fit beside are cut, except those of a failure, which continue below in up to
    `FAILURE` lines.
    """

    width: int
    title: int
    status: int
    age: bool
    bar: bool
    beside: bool

    @classmethod
    def of(cls, width: int, states: Iterable[State] = ()) -> Layout:
        words = [len(clean(state.get("status", ""))) for state in states]
        status = min(max(SHORTEST_STATUS, *words, 0), LONGEST_STATUS)
        age, bar = width >= 60, width >= 110
        left = width - status - PERCENT - 2 - (AGE + 1) * age - (BAR + 1) * bar
        beside = left > 2 * TITLE  # an id fits there
        return cls(width, TITLE + 12 * bar if beside else left, status, age, bar, beside)


async def watch_jobs(origin: str, operator_key: str, *, status: str | None, limit: int, patience: float) -> NoReturn:
    """Show the newest jobs, at most `limit`, until cancelled. Raises RefusedError and LostError."""
    nothing = "No jobs yet" if status is None else f"No job has the status {status}"
    title = origin if status is None else f"{origin}, status {status}"
    async with aiohttp.ClientSession() as session:
        with LiveTable(clean(title), clean(nothing)) as table:
            jobs = Jobs(session, origin, operator_key, status=status, limit=min(limit, PAGE))
            watch = Watch(jobs, patience=patience, changed=table.changed)
            await watch.run(lambda: table.show(watch))


class LiveTable:
    """Draws on the terminal's alternate screen. At the end the table is printed on the former screen."""

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
        """Draw the table of `watch` at every change and at least once per `TICK`."""
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
            last = _line(("Ctrl-C closes this table; the jobs continue", "dim"))
        return Group(*self._lines(), last)

    def _lines(self) -> list[Text]:
        """Return the lines of the table that fit on the screen, without the last line of the screen."""
        states = list(self._watch.table.states.values()) if self._watch is not None else []
        if not states:
            return [_line((self._nothing, "bold"), (f"at {self._title}", ""))]
        width, height = self._console.size
        room, now = Layout.of(width, states), datetime.now(UTC)
        lines: list[Text] = []
        shown = 0
        for state in states:
            rows = list(row(state, room, now))
            if len(lines) + len(rows) > height - OTHER_LINES:
                break
            lines += rows
            shown += 1
        running = sum(state.get("status") not in ENDED for state in states)
        newest = self._watch is not None and self._watch.more
        counted = f"newest {len(states)} of more" if newest else f"{len(states)} job{'s' * (len(states) > 1)}"
        counted += f", {running} running"
        if shown < len(states):
            counted += f", the newest {shown} shown"
        return [_line((counted, "bold"), (f"at {self._title}", "")), heading(room), *lines]


def heading(room: Layout) -> Text:
    cells = [f"{'JOB':<{room.title}}", f"{'STATUS':<{room.status}}", f"{'%':>{PERCENT}}"]
    cells += [" " * BAR] * room.bar + [f"{'CHANGED':>{AGE}}"] * room.age + ["DETAILS"] * room.beside
    return _line((" ".join(cells).rstrip(), "dim"))


def row(state: State, room: Layout, now: datetime) -> Iterator[Text]:
    """Yield the lines of one job: its row, and its details below when they do not stand beside."""
    job, status = (clean(state.get(name) or "") for name in ("jobId", "status"))
    name = title(state)
    done = percentage(state)
    failed = status in FAILED
    style = "red" if failed else "green" if status in COMPLETED else "cyan"
    cells = [
        (set_cell_size(name or job, room.title), ""),
        (set_cell_size(status, room.status), style),
        (f"{done:3.0f}%", style),
    ]
    if room.bar:
        filled = round(min(done, 100) / 100 * BAR)
        cells.append(("#" * filled + "." * (BAR - filled), style))
    if room.age:
        cells.append((f"{age(state.get('at'), now):>{AGE}}", "dim"))
    line = _line(*cells)
    words = "  ".join(told for told in (known(state, now), job if name else "") if told)
    left = room.width - line.cell_len - 1
    if words and room.beside and (cell_len(words) <= left or not failed):
        line.append(" ").append(words, "red" if failed else "dim")
        words = ""
    yield line
    if words:
        details = Text(words, "red" if failed else "dim")
        for below in details.wrap(_PLAIN, room.width - INDENT)[: FAILURE if failed else 1]:
            below.pad_left(INDENT)
            yield below


def age(at: object, now: datetime) -> str:
    """Return the time since `at` in its largest unit, "" when `at` is not a time. A time in the future is 0 s."""
    try:
        seconds = max(0, int((now - datetime.fromisoformat(str(at))).total_seconds()))
    except (ValueError, TypeError):
        return ""
    size, unit = next((size, unit) for size, unit in AGES if seconds >= size)
    return f"{seconds // max(size, 1)} {unit}"


def _line(*cells: tuple[str, str]) -> Text:
    """Join (text, style) cells with spaces; the line is cut at the width. Markup is not interpreted."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for words, style in cells:
        text.append(" " if text else "").append(words, style or None)
    return text
