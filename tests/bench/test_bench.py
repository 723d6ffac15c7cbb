"""The benchmark itself: what it makes of figures, that its load client counts right, and a run of its cheapest row."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.core.job import iso
from tests.bench import row
from tests.bench.__main__ import arguments
from tests.bench.chart import HEIGHT, LABEL_HEIGHT, WIDTH, Axis, Chart
from tests.bench.lives import KINDS
from tests.bench.load import Load, compiled
from tests.bench.machine import cpu_seconds, on_cpu, resident
from tests.bench.posts import post
from tests.bench.report import Report, as_json, table
from tests.bench.row import Case, Figures, Line, Result, Row, Target
from tests.bench.rows import ROWS
from tests.bench.upstream import Doing, Upstream
from tests.support.harness import FOLDER
from tests.support.programs import program

MORE = Line("deliveries", "", "own", "figure", peer="other", target=Target(1.5, "at least"))
RUNS: dict[str, list[Figures]] = {
    "own": [{"figure": 200.0}, {"figure": 20.0}, {"figure": 300.0}],
    "other": [{"figure": 100.0}, {"figure": 10.0}, {"figure": 100.0}],
}


async def measured(number: Row, runs: int, folder: Path) -> Result:
    return await row.run(number, runs, folder, random.Random(1), lambda _: None)


def test_a_ratio_is_taken_run_by_run() -> None:
    """What slows a whole run slows both, and leaves the ratio as it is."""
    told = MORE.told(RUNS)
    assert told.comparisons == [2.0, 2.0, 3.0]
    assert told.met is True
    assert msgspec.structs.replace(MORE, target=Target(1.5)).told(RUNS).met is False


def test_a_figure_alone_and_a_difference_are_held_against_their_target() -> None:
    """At most and at least, both with what is just enough."""
    alone = Line("memory", "KiB", "own", "figure", target=Target(200.0))
    assert alone.told(RUNS).met is True
    more = Line("wait", "ms", "own", "figure", peer="other", compared="difference", target=Target(99.0))
    assert more.told(RUNS).comparisons == [100.0, 10.0, 200.0]
    assert more.told(RUNS).met is False
    assert Target(2.0, "at least").met(2.0)


def test_a_peer_that_is_missing_leaves_the_figure_and_no_verdict() -> None:
    """The own figure is told, and that there was nothing to hold it against."""
    told = MORE.told({"own": RUNS["own"]})
    assert (told.values, told.met) == ([200.0, 20.0, 300.0], None)
    (line,) = [
        line
        for line in table(Result("row", "about", [told], ["other: it is missing"], {})).splitlines()
        if "del" in line
    ]
    assert [cell.strip() for cell in line.split("|")[1:5]] == ["deliveries", "200", "no other", ""]


def test_the_table_tells_all_and_json_keeps_every_run() -> None:
    """Figure, peer, ratio, spread, target and verdict; and why something was not measured."""
    result = Result("row", "about it", [MORE.told(RUNS)], ["third: not here"], RUNS)
    *_, line, missing = table(result).splitlines()
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["deliveries", "200", "100 (other)", "2", "2 to 3", "at least 1.5", "yes"]
    assert missing == "Not measured: third: not here"
    kept = json.loads(as_json(Report({"CPU": "one"}, 3, [result])))
    assert kept["results"][0]["runs"]["own"] == RUNS["own"]
    assert kept["results"][0]["lines"][0]["comparisons"] == [2.0, 2.0, 3.0]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells a process its CPUs")
def test_what_is_measured_has_a_cpu_of_its_own() -> None:
    """Also where all that measures was given the others before."""
    every = os.sched_getaffinity(0)
    with on_cpu(server=False):
        others = os.sched_getaffinity(0)
        with on_cpu(server=True):
            own = os.sched_getaffinity(0)
        with on_cpu(server=None):
            assert os.sched_getaffinity(0) == every
        assert os.sched_getaffinity(0) == others
    assert os.sched_getaffinity(0) == every
    assert len(own) == 1
    assert others == (every - own or own)


async def test_each_round_runs_every_case_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    """Those that cannot be run are named once with the reason; each run has an empty folder."""
    order: list[str] = []
    empty: list[bool] = []

    def case(name: str, **options: object) -> Case:
        async def note(folder: Path, _run: int) -> Figures:
            empty.append(is_empty(folder))
            order.append(name)
            return {"figure": 1.0}

        return Case(name, note, **options)  # type: ignore[arg-type]

    away = (lambda: "it is not here",)
    cases = [case("a"), case("b"), case("c"), case("once", once=True), case("x", needs=away), case("y", needs=away)]
    result = await measured(Row("row", "about", cases, []), 20, tmp_path)
    assert result.missing == ["x, y: it is not here"]
    assert {name: len(runs) for name, runs in result.runs.items()} == {"a": 20, "b": 20, "c": 20, "once": 1}
    assert all(empty)
    order.remove("once")
    rounds = [tuple(order[first : first + 3]) for first in range(0, 60, 3)]
    assert all(set(one) == {"a", "b", "c"} for one in rounds)
    assert len(set(rounds)) > 3


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


def test_every_line_names_cases_that_there_are() -> None:
    """A line that nothing is measured for would be empty for ever."""
    for one in ROWS.values():
        cases = {case.name for case in one.cases}
        assert {line.case for line in one.lines} | {line.peer for line in one.lines if line.peer} <= cases, one.name


@pytest.mark.parametrize("log", [False, True])
def test_a_chart_is_drawn_within_its_frame(*, log: bool) -> None:
    """Well-formed, every point inside, no name over another, and colours for a dark page."""
    series = {"one": [(500.0, 60_000.0), (5000.0, 61_000.0)], "two": [(500.0, 5000.0)], "<three>": [(2000.0, 5100.0)]}
    text = Chart("name", "What & why", Axis("x", log=log), Axis("y", log=log), series).svg()
    assert "prefers-color-scheme: dark" in text
    drawn = ET.fromstring(text)  # noqa: S314 - it was made here
    name = "{http://www.w3.org/2000/svg}"
    circles = [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in drawn.iter(f"{name}circle")]
    assert len(circles) == 4
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in circles)
    assert circles[0][1] < circles[2][1]  # more is higher
    labels = {one.text: float(one.attrib["y"]) for one in drawn.iter(f"{name}text") if one.text in series}
    assert len(labels) == 3
    assert abs(labels["two"] - labels["<three>"]) >= LABEL_HEIGHT


def test_the_charts_of_the_rows_take_what_the_rows_measure() -> None:
    """Also when a peer is missing."""
    streams, lives = ROWS["streams"].chart, ROWS["lives"].chart
    assert streams is not None
    assert lives is not None
    seen: list[Figures] = [{"deliveries a CPU s": 50_000.0, "polls": 100.0, "lag": 2.0}]
    assert "sse-starlette" in streams({case.name: seen for case in ROWS["streams"].cases}).svg()
    alone = streams({case.name: seen for case in ROWS["streams"].cases if "nchan" not in case.name})
    assert list(alone.series) == ["gateway", "sse-starlette"]
    drawn = lives({case.name: seen for case in ROWS["lives"].cases})
    assert {len(points) for points in drawn.series.values()} == {len(KINDS)}


@asynccontextmanager
async def telling() -> AsyncIterator[tuple[int, list[asyncio.StreamWriter]]]:
    """A server whose streams begin with an old event; the port, and the streams."""
    streams: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event(0.0))
        streams.append(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], streams
    for writer in streams:
        writer.close()
    server.close()
    await server.wait_closed()


def event(at: float) -> bytes:
    return b'id: 7\nevent: progress\ndata: {"jobId":"job","at":"%b"}\n\n' % iso(at).encode()


async def test_the_load_client_counts_each_event_once_however_it_is_cut(tmp_path: Path) -> None:
    """Pieces of any size; the window begins with an event that is new, and ends with the last of those asked for."""
    program("cc", package="gcc")
    begun = asyncio.Event()
    async with telling() as (port, streams), Load.start(compiled(tmp_path), port, "/events") as client:
        opened = await client.open(3, events=1)
        assert (opened.served, opened.level, opened.lost) == (3, 3, 0)
        window = asyncio.create_task(client.measure(20, seconds=20, begun=begun.set))
        sent = 0
        while not window.done():
            sent += 1
            told = event(1_000_000.0 + sent)
            size = sent % len(told) + 1
            for piece in range(0, len(told), size):
                for stream in streams:
                    stream.write(told[piece : piece + size])
                await asyncio.gather(*(stream.drain() for stream in streams))
            await asyncio.sleep(0)
        result = await window
        assert begun.is_set()
        assert result.deliveries >= 60
        assert result.deliveries - result.completed * 3 < 6  # the last may be under way
        assert result.lost == 0
        await client.close()
        assert (await client.open(2)).served == 2


async def test_upstream_costs_little_and_tells_what_it_saw() -> None:
    """Copies have monitors of their own, of which the first moves when told to; usage of its process can be read."""
    async with Upstream.start() as upstream:
        answered = await post(upstream.port, f"{FOLDER}/copy", b"{}", number=20, at_once=4, status=202)
        assert len(answered.waits) == 20
        assert {one.rpartition("/")[2] for one in answered.locations} == {str(number) for number in range(1, 21)}
        with pytest.raises(AssertionError, match="202, not 200"):
            await post(upstream.port, f"{FOLDER}/copy", b"{}", number=1, at_once=1, status=200)
        await upstream.set(Doing(moving=True))
        for monitor in (1, 1, 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
            writer.write(b"GET /monitor/%d HTTP/1.1\r\nHost: h\r\n\r\n" % monitor)
            head = await reader.readuntil(b"}")
            assert head.endswith({1: b"0.01}", 2: b":0.00}"}[monitor]) or b"0.02" in head
            writer.close()
        seen = await upstream.seen()
        assert [monitor for monitor, _ in seen.polls] == ["1", "1", "2"]
        assert 0 < cpu_seconds(upstream.pid) < 60
        assert resident(upstream.pid) > 1 << 20


def test_a_row_from_the_command_line(tmp_path: Path) -> None:
    """The machine, the table, and the file with the figures."""
    kept = tmp_path / "figures.json"
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bench", "start", "--runs", "1", "--json", str(kept)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "Python: " in ran.stdout
    assert "| until ready " in ran.stdout
    (result,) = json.loads(kept.read_bytes())["results"]
    assert result["lines"][0]["values"][0] > 0


def test_a_row_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    """Refused, with what there is; none named means all."""
    with pytest.raises(SystemExit, match="2"):
        arguments().parse_args(["speed"])
    assert "streams" in capsys.readouterr().err
    assert arguments().parse_args([]).rows == []
