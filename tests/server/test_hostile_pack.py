"""A pack of hostile requests on one gateway, each with its answer, while others are served as ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from aiohttp import web

from gateway.server.heads import FIELDS_LIMIT, HEAD_LIMIT
from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import COPY_BODY, TOKEN, Process, tail
from tests.support.hostile import COPY, GET, Case, all_cases, of_length, of_size, post, request

CASES = all_cases()
HOLD_LIMIT = 0.05
"""Most seconds of work for which one connection may keep the others waiting."""
MEMORY_LIMIT = 1 << 20
"""Most bytes that one connection may take."""
CROWD = 100


def test_the_pack_is_large() -> None:
    """And of every kind."""
    assert len(CASES) >= 200
    assert {answer.split()[0] for case in CASES.values() for answer in case.answers} >= {
        *("200", "400", "401", "404", "405", "413", "414", "415", "431", "505")
    }


class Watched:
    """A gateway of a process of its own, whose memory and holds are watched.

    `hold` is the longest work, in CPU seconds of its main thread, that stood between another client's request and its
    answer: unlike time, that does not depend on what else the machine does.
    """

    def __init__(self, process: Process, upstream: FakeUpstream, jobs: dict[bytes, bytes]) -> None:
        self.process = process
        self.upstream = upstream
        self.jobs = jobs
        self.hold = 0.0
        self.peak = 0

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.process.pid}/statm").read_text().split()[1]) * 4096

    def work(self) -> float:
        return int(Path(f"/proc/{self.process.process.pid}/schedstat").read_text().split()[0]) / 1e9

    async def probe(self) -> None:
        """Ask again and again, on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.process.port)
        try:
            while True:
                before = self.work()
                writer.write(GET)
                await reader.readuntil(b"}")
                self.hold = max(self.hold, self.work() - before)
                self.peak = max(self.peak, self.memory)
                await asyncio.sleep(0.001)
        finally:
            writer.transport.abort()

    def filled(self, data: bytes) -> bytes:
        for placeholder, job in self.jobs.items():
            data = data.replace(placeholder, job)
        return data


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    async with faking() as upstream:

        async def poll(asked: web.Request) -> web.StreamResponse:
            status = "completed" if asked.path.endswith("/1") else "inProgress"
            return web.json_response({"status": status}, status=202)

        upstream.on_poll = poll
        async with (
            Process(upstream.url, folder, busy=True, log_level="warning") as process,
            aiohttp.ClientSession(process.url) as session,
        ):
            jobs = {}
            for name in (b"{ended}", b"{running}"):
                async with session.post(COPY.decode(), json=COPY_BODY, headers=TOKEN) as answer:
                    job = await answer.json()
                    jobs[name] = job["jobId"].encode()
                if name == b"{ended}":
                    await tail(session, job["events"])
            async with anyio.create_task_group() as tasks:
                found = Watched(process, upstream, jobs)
                tasks.start_soon(found.probe)
                yield found
                tasks.cancel_scope.cancel()
        assert "Traceback" not in process.output()
        assert '"error"' not in process.output().replace('"error":', ""), process.output()


class Answers:
    """Reads answers from the wire."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def read(self, *, to_head: bool) -> str:
        """The status of the next answer, and the code of its error, whose form is checked; `cut` if it breaks off."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().rstrip("\r\n").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        if status == "100":
            return status
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert len(headers) == len(lines)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"].startswith("no-store")
        if to_head:
            return status
        try:
            body = await self._body(headers)
        except asyncio.IncompleteReadError:
            return f"{status} cut"
        if int(status) < 400:
            return status
        error = json.loads(body)["error"]
        assert error["message"]
        assert error["innerError"]["request-id"] == headers["request-id"]
        assert error["innerError"]["client-request-id"] == headers["client-request-id"]
        return f"{status} {error['code']}"

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        found = b""
        while size := int((await self._reader.readuntil(b"\r\n"))[:-2], 16):
            found += await self._reader.readexactly(size)
            assert await self._reader.readexactly(2) == b"\r\n"
        assert await self._reader.readexactly(2) == b"\r\n"
        return found


async def outcome(gateway: Watched, case: Case) -> tuple[tuple[str, ...], str]:
    """What the case has got: its answers, and how the connection ended, or `open`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.process.port, limit=1 << 20)
    answers = Answers(reader)
    got: list[str] = []
    try:
        async with asyncio.timeout(20):
            for piece in case.pieces:
                writer.write(gateway.filled(piece))
                await asyncio.sleep(0)
            to_head = case.pieces[0].startswith(b"HEAD ")
            while len(got) < len(case.answers):
                got.append(await answers.read(to_head=to_head))
            if case.end == "closed":
                return tuple(got), "closed" if await reader.read(1) == b"" else "more answers"
            writer.write(request(first=b"GET /the-end HTTP/1.1"))
            return tuple(got), "open" if await answers.read(to_head=False) == "404 notFound" else "out of step"
    except TimeoutError:
        return tuple(got), "silent"
    except asyncio.IncompleteReadError as error:
        return tuple(got), "closed" if not error.partial else f"closed within {error.partial[:40]!r}"
    except ConnectionError as error:
        return tuple(got), type(error).__name__
    finally:
        writer.transport.abort()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not tell of a thread's work")
async def test_every_request_of_the_pack_gets_its_answer(tmp_path: Path) -> None:
    """None reaches upstream, none holds up or costs the others anything."""
    async with watched(tmp_path) as gateway:
        await outcome(gateway, CASES["pipelines: a thousand"])  # what is made once is made
        begun, gateway.hold, gateway.peak = gateway.memory, 0.0, 0
        wrong: dict[str, tuple[tuple[str, ...], str]] = {}
        slow: dict[str, float] = {}
        for name, case in CASES.items():
            for _ in range(3):  # beside other load the same work takes more
                gateway.hold = 0.0
                got = await outcome(gateway, case)
                if got != (case.answers, case.end):
                    wrong[name] = got
                if gateway.hold <= HOLD_LIMIT:
                    break
            else:
                slow[name] = gateway.hold
        assert wrong == {}
        assert slow == {}
        assert gateway.peak - begun < 16 * MEMORY_LIMIT
        assert gateway.upstream.copies() == 2


CROWDS = {
    "half heads": (of_size(HEAD_LIMIT)[:-10],),
    "half heads of many lines": (request(*[b"a: " + b"b" * 500] * (FIELDS_LIMIT - 1))[:-2],),
    "heads whose streams are open": (request(b"A: " + b"a" * 120_000, first=b"GET /jobs/{running}/events HTTP/1.1"),),
    "heads that wait": (
        request(
            b"Prefer: wait=60",
            b"If-None-Match: " + b",".join(b'"%d"' % number for number in range(100_000, 113_000)),
            first=b"GET /jobs/{running} HTTP/1.1",
        ),
    ),
    "many headers that wait": (
        request(b"Prefer: wait=60", *[b"A: b"] * (FIELDS_LIMIT - 2), first=b"GET /jobs/{running} HTTP/1.1"),
    ),
    "half bodies": (of_length(60_000, b"x" * 59_000),),
    "half bodies of chunks": (post(b"Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 9_000),
    "requests behind one that waits": (
        request(b"Prefer: wait=60", first=b"GET /jobs/{running} HTTP/1.1"),
        *[GET * 1000] * 50,
    ),
    "requests behind half a body": (of_length(60_000, b"x" * 100),),
    "refused, and no end": (of_length(1 << 30, b"x" * 100_000),),
}
"""What many clients send at once and then keep open: nothing of it is a whole request, or its answer waits."""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not tell of a thread's work")
async def test_no_connection_of_a_crowd_takes_much(tmp_path: Path) -> None:
    """Of memory; and the others are served."""
    async with watched(tmp_path) as gateway:
        begun, each = gateway.memory, {}
        for name, pieces in CROWDS.items():
            gateway.peak = 0
            writers = []
            for _ in range(CROWD):
                _, writer = await asyncio.open_connection("127.0.0.1", gateway.process.port)
                for piece in pieces:
                    writer.write(gateway.filled(piece))
                writers.append(writer)
            await outcome(gateway, Case((GET,) * 20, ("200",) * 20, "open"))  # behind all that was sent before
            each[name] = (max(gateway.peak, gateway.memory) - begun) // CROWD
            for writer in writers:
                writer.transport.abort()
        assert {name: taken for name, taken in each.items() if taken > MEMORY_LIMIT} == {}
        assert gateway.upstream.copies() == 2
