"""`gateway jobs`: a live table on a terminal, plain lines elsewhere, and what it knows between the two."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from fcntl import ioctl
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from rich.cells import cell_len

from gateway.cli import display
from gateway.cli import jobs as cli_jobs
from gateway.cli.jobs import Jobs, JobTable
from gateway.cli.table import Layout, age, heading, row
from gateway.simulator import Simulator, running
from tests.cli.test_commands import simulated
from tests.support import commands
from tests.support.commands import gateway
from tests.support.harness import OPERATOR_KEY, TOKEN, Process, free_port, tail

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def job(name: str, status: str, at: str = "2026-11-25T11:59:00.000Z", **more: Any) -> dict[str, Any]:
    return {"jobId": name, "status": status, "percentageComplete": 50.0, "at": at, **more}


def test_the_newer_word_of_a_job_counts() -> None:
    """Whether it came by the list or by a stream, and nothing follows an end."""
    table = JobTable()
    table.listed([job("b", "inProgress", "2"), job("a", "notStarted", "1")])
    assert table.running == ["b", "a"]
    table.update(job("b", "waiting", "3"))
    table.listed([job("c", "notStarted", "4"), job("b", "inProgress", "2"), job("a", "notStarted", "1")])
    assert [state["status"] for state in table.states.values()] == ["notStarted", "waiting", "notStarted"]
    table.update(job("a", "completed", "5"))
    table.update(job("a", "inProgress", "6"))
    assert table.running == ["c", "b"]
    table.update(job("nobody", "inProgress", "7"))
    table.gone("c")
    assert list(table.states) == ["b", "a"]


def test_a_stream_of_other_jobs_goes_on_where_each_was() -> None:
    """A new one from its start; ids of another number of jobs, or of one that is gone, move nobody."""
    table = JobTable()
    table.listed([job(name, "inProgress") for name in "abc"])
    table.read_up_to(["b", "c"], "7,9")
    assert table.last_id(["a", "b", "c"]) == "0,7,9"
    table.read_up_to(["a", "b", "c"], "1,-,10")
    table.read_up_to(["a"], "5,5")
    assert table.last_id(["c", "b", "a"]) == "10,7,1"
    table.listed([job("a", "inProgress")])
    assert table.last_id(["a", "b"]) == "1,0"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_row_fits(width: int) -> None:
    """Whatever upstream said; why a job failed is there as a whole, and nothing in it is markup or steers."""
    message = "[bold]Größe[/bold] [link=x]語語語[/link] \x1b[2J:smile: " + "words " * 10
    error = {"code": "quotaLimitReached", "message": message, "origin": "upstream"}
    room = Layout.of(width)
    states = [
        job("x" * 24, "failed", error=error),
        job("y" * 24, "inProgress", statusDescription="22/40; " * 20),
        job("z" * 24, "語" * 30, at="never"),
    ]
    for state in states:
        lines = list(row(state, room, NOW))
        for line in (heading(room), *lines):
            line.truncate(width, overflow="ellipsis")  # as the terminal's table does with what no line has room for
            assert cell_len(line.plain) <= width
        text = " ".join(" ".join(line.plain.split()) for line in lines)
        assert state["jobId"] in text
        assert "\x1b" not in text
        if state is states[0]:
            assert "[bold]Größe[/bold] [link=x]語語語[/link] \ufffd[2J:smile:" in text
            assert "Make room in the target drive" in text


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("status", ["completedWithErrors", "partiallySucceeded", "unknownFutureValue", "inProgress"])
def test_a_label_titles_the_row(status: str, width: int) -> None:
    """The id stands among the details, and no word of Graph's is cut, nor is a word that is too long let through."""
    state = job("x" * 24, status, label="Größe 日本.docx")
    other = job("y" * 24, "z" * 64)
    room = Layout.of(width, [state, other])
    lines = []
    for line in row(state, room, NOW):
        line.truncate(width, overflow="ellipsis")
        lines.append(line.plain)
    assert lines[0].startswith("Größe 日本")
    assert f" {status} " in lines[0]
    assert "x" * 24 in "\n".join(lines)
    assert all(cell_len(line) <= width for line in lines)
    assert "z" * 20 not in next(row(other, room, NOW)).plain


@pytest.mark.parametrize(("operation", "title"), [("archiveTeam", "archiveTeam"), ("ItemCopy", "x" * 24)])
def test_a_job_without_a_label(operation: str, title: str) -> None:
    """Is titled by what it does, in the table and on a line; a copy, which most are, by its id."""
    state = job("x" * 24, "inProgress", operation=operation)
    assert next(row(state, Layout.of(80), NOW)).plain.startswith(title)
    assert display.line(state).endswith("%" if operation == "ItemCopy" else f"%  {title}")


def test_the_next_look_counts_down() -> None:
    """Each drawing says how long it is to the next poll."""
    trouble = {"code": "throttled", "since": "2026-11-25T11:59:00Z", "retryAt": "2026-11-25T12:00:29Z"}
    (line,) = row(job("x" * 24, "inProgress", trouble=trouble), Layout.of(80), NOW)
    assert line.plain[:80].endswith("throttled, next look in 29 s: u")


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("2026-11-25T12:00:30Z", "0 s"),  # a gateway whose clock goes before
        ("2026-11-25T11:59:01Z", "59 s"),
        ("2026-11-25T11:00:01Z", "59 min"),
        ("2026-11-24T12:00:01Z", "23 h"),
        ("2026-11-20T12:00:00Z", "5 d"),
        ("2026-11-20T12:00:00", ""),
        (None, ""),
    ],
)
def test_ages(at: str | None, words: str) -> None:
    """In their largest unit."""
    assert age(at, NOW) == words


async def test_plain_lines(tmp_path: Path) -> None:
    """Piped: a line for each, newest first, its id in front; by status, at most so many, or as JSON. Of several keys,
    as a gateway has them while they are changed, the first is sent.
    """
    async with simulated(tmp_path) as served:
        asked = {"GATEWAY_URL": served.url, "GATEWAY_OPERATOR_KEY": f"{OPERATOR_KEY},another-key-for-tests"}
        assert await gateway("jobs", **asked) == (0, "", "")
        jobs = [await served.copy(f"/v1.0/me/drive/items/{item}") for item in ("copy", "failed", "stuck")]
        started = [job["jobId"] for job in jobs]
        for job in jobs[:2]:
            await tail(served.session, job["events"])
        ended, output, errors = await gateway("jobs", **asked)
        lines = output.splitlines()
        assert (ended, errors) == (0, "")
        assert [line.split()[0] for line in lines] == started[::-1]
        assert re.fullmatch(rf"{started[0]}  \S+Z  completed     100\.0 %  a copy  /v1\.0/\S+", lines[2])
        assert re.fullmatch(
            rf"{started[1]}  \S+Z  failed +\S+ %  a copy  nameAlreadyExists: .*Give it another name: .*", lines[1]
        )
        _, failed, _ = await gateway("jobs", "--status", "FAILED", **asked)
        assert failed == lines[1] + "\n"
        _, newest, counted = await gateway("jobs", "--once", "--limit", "1", **asked)
        assert counted == "gateway: these are the newest 1 of more; --limit shows more of them\n"
        assert newest.startswith(started[2])
        assert newest.count("\n") == 1
        _, text, _ = await gateway("jobs", "--json", **asked)
        states = [json.loads(line) for line in text.splitlines()]
        assert [state["jobId"] for state in states] == started[::-1]
        assert states[1]["error"]["code"] == "nameAlreadyExists"


async def test_more_than_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page after page, up to the limit."""
    monkeypatch.setattr(cli_jobs, "PAGE", 2)
    async with simulated(tmp_path) as served:
        started = [(await served.copy("/v1.0/me/drive/items/stuck"))["jobId"] for _ in range(5)]
        for limit in (2, 3, 4, 5, 9):
            asked = Jobs(served.session, served.url, OPERATOR_KEY, status=None, limit=limit)
            assert [state["jobId"] for state in await asked.once()] == started[::-1][:limit]


async def test_who_is_refused(tmp_path: Path) -> None:
    """No key, a wrong one, no gateway, a wrong status: exit status and words say what to do."""
    key = tmp_path / "key"
    key.write_text(OPERATOR_KEY + "\n")
    async with simulated(tmp_path) as served:
        for arguments, given, status, words in (
            ((), "another-key-for-tests", 2, "rejects this operator key. Use the GATEWAY_OPERATOR_KEY"),
            (("--status", "faild"), OPERATOR_KEY, 2, "did you mean failed?"),
            (("--gateway", f"http://127.0.0.1:{free_port()}"), OPERATOR_KEY, 3, "no gateway reachable at"),
            (("--gateway", f"{served.url}/v1.0"), OPERATOR_KEY, 2, "does not seem to be a gateway"),
            (("--operator-key-file", str(key)), "", 0, ""),
        ):
            asked = {"GATEWAY_URL": served.url, "GATEWAY_OPERATOR_KEY": given, "COLUMNS": "300"}
            ended, output, errors = await gateway("jobs", *arguments, **asked)
            assert (ended, output, words in errors) == (status, "", True), errors
            assert "another-key-for-tests" not in errors


class Terminal:
    """A program on a terminal of its own, and all that it has drawn so far."""

    def __init__(self, process: commands.Command, ours: int) -> None:
        self.process = process
        self.drawn = ""
        self._ours = ours

    async def until(self, pattern: str) -> str:
        """Wait for a picture that has it, and return that picture."""
        with anyio.fail_after(30):
            while not re.search(pattern, picture := self.picture()):
                await self._more()
        return picture

    def picture(self) -> str:
        """The last one that began."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.drawn.rpartition("\x1b[H")[2])

    async def end(self) -> str:
        """All that it drew up to its end."""
        with anyio.fail_after(30):
            while await self._more():
                pass
        return self.drawn

    def resize(self, columns: int, lines: int) -> None:
        ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._ours)

    async def _more(self) -> bool:
        await anyio.wait_readable(self._ours)
        try:
            piece = os.read(self._ours, 1 << 16)
        except OSError:  # how Linux tells the end of a terminal
            return False
        self.drawn += piece.decode(errors="replace")
        return bool(piece)


@asynccontextmanager
async def on_terminal(*arguments: str, **environment: str) -> AsyncIterator[Terminal]:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    own = {**clean, "TERM": "xterm", **environment}
    try:
        async with commands.running(arguments, own, theirs, theirs, theirs) as process:
            os.close(theirs)
            yield Terminal(process, ours)
    finally:
        os.close(ours)


async def start(session: aiohttp.ClientSession, url: str, item: str) -> str:
    async with session.post(f"{url}/v1.0/me/drive/items/{item}/copy", json={}, headers=TOKEN) as response:
        return str((await response.json())["jobId"])


async def test_live(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    """New jobs appear and all move, also when the gateway was away; Ctrl-C gives the terminal back, with the table."""
    async with running(Simulator(seconds=4, steps=20)) as upstream:
        port = free_port()
        first = await Process(upstream.url, tmp_path, port=port).start()
        asked = {"GATEWAY_URL": first.url, "GATEWAY_OPERATOR_KEY": OPERATOR_KEY}
        stuck = await start(client, first.url, "stuck")
        async with on_terminal("jobs", **asked) as terminal:
            modes = terminal.modes()
            await terminal.until(rf"1 job, 1 running at {first.url}\s[^✗]*{stuck} inProgress [^✗]*Ctrl-C closes this")
            failing = await start(client, first.url, "failed")
            await terminal.until(rf"2 jobs, 2 running [^✗]*{failing} inProgress +\d+% [^✗]*{stuck}")
            first.kill()
            await terminal.until("reconnecting: connection refused; gives up after 60 s")
            async with Process(upstream.url, tmp_path, port=port):
                await terminal.until(rf"2 jobs, 1 running [^✗]*{failing} failed [^✗]*nameAlreadyExists: [^✗]*Ctrl-C")
                terminal.resize(40, 5)
                narrow = await terminal.until(r"the newest \d shown|2 jobs, 1 running at htt…")
                assert max(map(len, narrow.splitlines())) <= 40
                terminal.resize(200, 24)
                await terminal.until(rf"{failing} +failed +\d+% #+\.* +\d+ \w+ nameAlreadyExists: [^✗]*Give it another")
                terminal.process.send_signal(signal.SIGINT)
                drawn = await terminal.end()
                assert await terminal.process.wait() == 0
                assert terminal.modes() == modes
    before, _, after = drawn.rpartition("\x1b[?1049l")
    assert before.count("\x1b[?1049h") == 1
    assert before.rpartition("\x1b[?25l")[2].count("\x1b[?25h") + after.count("\x1b[?25h") >= 1
    assert stuck in after
    assert failing in after
    assert "Traceback" not in drawn


async def test_live_and_lost(tmp_path: Path) -> None:
    """A gateway that stays away: exit 3, said on a terminal that is as it was."""
    async with running(Simulator()) as upstream:
        served = await Process(upstream.url, tmp_path).start()
        asked = {"GATEWAY_URL": served.url, "GATEWAY_OPERATOR_KEY": OPERATOR_KEY}
        async with on_terminal("jobs", "--patience", "1", **asked) as terminal:
            await terminal.until("No jobs yet at ")
            served.kill()
            drawn = await terminal.end()
            assert await terminal.process.wait() == 3
    assert "gateway: connection refused; gave up after 1 s." in drawn.rpartition("\x1b[?1049l")[2]
    assert "Traceback" not in drawn


async def test_a_terminal_that_cannot_be_drawn_on(tmp_path: Path) -> None:
    """Plain lines, once, and no escape sequence."""
    async with simulated(tmp_path) as served:
        started = (await served.copy("/v1.0/me/drive/items/stuck"))["jobId"]
        asked = {"GATEWAY_URL": served.url, "GATEWAY_OPERATOR_KEY": OPERATOR_KEY, "TERM": "dumb"}
        async with on_terminal("jobs", **asked) as terminal:
            drawn = await terminal.end()
            assert await terminal.process.wait() == 0
    assert drawn.startswith(started)
    assert "\x1b" not in drawn


async def test_no_colour(tmp_path: Path) -> None:
    """NO_COLOR leaves weights, and the words say what colours would."""
    async with simulated(tmp_path) as served:
        await served.copy("/v1.0/me/drive/items/stuck")
        asked = {"GATEWAY_URL": served.url, "GATEWAY_OPERATOR_KEY": OPERATOR_KEY, "NO_COLOR": "1"}
        async with on_terminal("jobs", **asked) as terminal:
            await terminal.until("1 job, 1 running [^✗]*Ctrl-C")
            terminal.process.send_signal(signal.SIGTERM)
            drawn = await terminal.end()
            assert await terminal.process.wait() == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", drawn)


async def test_honest_counts(tmp_path: Path) -> None:
    """A table that is not all of the jobs says so, and shows each under its label."""
    async with simulated(tmp_path) as served:
        for _ in range(3):
            started = (await served.copy("/v1.0/me/drive/items/stuck"))["jobId"]
        asked = {"GATEWAY_URL": served.url, "GATEWAY_OPERATOR_KEY": OPERATOR_KEY}
        async with on_terminal("jobs", "--limit", "2", **asked) as terminal:
            await terminal.until(rf"newest 2 of more, 2 running at [^✗]*a copy +inProgress +\d+% [^✗]*{started}")
            terminal.process.send_signal(signal.SIGINT)
            await terminal.end()
            assert await terminal.process.wait() == 0
