"""Streams and waits under any interleaving of appends, stalls, resumptions, departures: each sees its log, in order."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from gateway.core.job import Answer, Event, Job, Target, accepted, advance
from gateway.store.sqlite import SQLiteStore
from gateway.streams.stream import Stream, Subscriber
from gateway.streams.tails import Tails
from gateway.streams.wait import HOLD, Wait
from gateway.telemetry.metrics import Metrics
from tests.support.examples import examples
from tests.support.stores import open_sqlite
from tests.support.virtual_time import VirtualLoop


class Client:
    """The server's side of one connection: written bytes go to the peer, unless it is stalled."""

    timed_out = False

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.written = asyncio.Event()
        self.full = False
        self.has_ended = False
        self.aborted = False
        self._owner: Subscriber | Wait | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._left = asyncio.Event()

    def stall(self) -> None:
        self.full = True
        self._writable.clear()

    def resume(self) -> None:
        self.full = False
        self._writable.set()

    def leave(self) -> None:
        self._left.set()
        self.resume()
        if self._owner is not None:
            self._owner.released()
            self._owner = None

    def abort(self) -> None:
        self.aborted = self.aborted or not self._left.is_set()
        self.leave()

    def hand_back(self, _flush_seconds: float) -> None:
        self.leave()

    def hijack(self, owner: Subscriber | Wait) -> None:
        self._owner = owner

    async def writable(self) -> None:
        await self._writable.wait()

    def write(self, data: bytes) -> None:
        assert not self.full
        assert not self._left.is_set()
        self.chunks += unchunked(data)
        self.written.set()

    @property
    def ended(self) -> bool:
        return self.chunks[-1:] == [b""]

    async def send(self, message: Any) -> None:
        assert message["type"] == "http.response.start"
        if HOLD in message:
            message[HOLD](lambda _status, headers: headers)

    def respond(self, status: int, _headers: Any, body: bytes, flush_seconds: float) -> None:
        assert (status, body) == (200, b"the answer")
        self.hand_back(flush_seconds)

    async def left(self) -> None:
        await self._left.wait()

    async def receive(self) -> Any:
        raise AssertionError("a stream reads nothing")

    @property
    def ids(self) -> list[int]:
        return [int(line[4:]) for line in b"".join(self.chunks).split(b"\n") if line.startswith(b"id: ")]


async def waited(tails: Tails, known: int, is_news: Callable[[int, bool], bool], seconds: float) -> Event:
    """The event with which a wait is answered. `known` is the number of the newest event when its request came."""
    client = Client()
    answers: list[Event] = []

    def answer(newest: Event, is_held: bool) -> Response:
        assert is_held
        answers.append(newest)
        return Response(b"the answer")

    event = Event(known, "progress", status_changed=False, data=b"{}")
    wait = Wait(tails, Metrics(), "j", event, is_news, answer, seconds=seconds, send_timeout=50)
    await wait({"type": "http", "method": "GET", "gateway.connection": client}, client.receive, client.send)
    await client.left()
    assert len(answers) == 1
    return answers[0]


def unchunked(data: bytes) -> list[bytes]:
    """The pieces that were written as chunks; the last one of all is empty."""
    found = []
    while data:
        size, _, data = data.partition(b"\r\n")
        piece, end, data = data[: int(size, 16)], data[int(size, 16) :][:2], data[int(size, 16) + 2 :]
        assert end == b"\r\n"
        found.append(piece)
    return found


class Post:
    """Brings wake-ups and their events from the store to the tails, as well or badly as it is told."""

    def __init__(self, tails: Tails) -> None:
        self._tails = tails
        self._way = "as they are"
        self._held: list[tuple[str, Sequence[Event]]] = []

    def go(self, way: str) -> None:
        """Deliver in this way from now on; what was held back comes now, the newest first."""
        self._way = way
        while self._held:
            self._tails.wake(*self._held.pop())

    def __call__(self, job_id: str, events: Sequence[Event]) -> None:
        match self._way:
            case "lost":
                return
            case "late":
                self._held.append((job_id, events))
            case "every other one is lost" if events and events[-1].seq % 2:
                return
            case "without events":
                self._tails.wake(job_id)
            case "twice":
                self._tails.wake(job_id, events)
                self._tails.wake(job_id, events)
            case _:
                self._tails.wake(job_id, events)


WAYS = ["as they are", "lost", "late", "every other one is lost", "without events", "twice"]


class Scene:
    """One job that grows, and the clients of its streams."""

    def __init__(self, store: SQLiteStore, tails: Tails, post: Post, job: Job, tasks: Any) -> None:
        self.store, self.tails, self.post, self.job, self.tasks = store, tails, post, job, tasks
        self.clients: list[tuple[Client, int]] = []
        self.pollers: list[list[int]] = []

    async def append(self, status: str = "inProgress") -> None:
        percentage = min(99.0, self.job.state.percentage_complete + 0.01)
        job, events = advance(self.job, Answer(status=status, percentage=percentage), 1.0)
        if events and await self.store.append(job, events):
            self.job = job

    async def join(self, after: int, client: Client | None = None) -> None:
        (head,) = await self.store.heads(["j"])
        assert head is not None
        after = min(after, head.head)
        stream = Stream(self.tails, Metrics(), ["j"], [head], [after], send_timeout=50, max_age=1e9)
        client = client or Client()
        self.clients.append((client, after))
        scope = {"type": "http", "method": "GET", "gateway.connection": client}
        self.tasks.start_soon(stream, scope, client.receive, client.send)

    async def poll(self, late: int) -> None:
        """Follow the job by waits alone; what was read of it is so many turns of the loop old when a wait begins."""
        seen = [0]
        self.pollers.append(seen)

        def is_news(seq: int, _ended: bool) -> bool:
            return seq > seen[-1]

        ended = False
        while not ended:
            (head,) = await self.store.heads(["j"])
            assert head is not None
            for _ in range(late):
                await asyncio.sleep(0)
            newest, ended = head.head, head.ended
            if not is_news(newest, ended):
                event = await waited(self.tails, newest, is_news, seconds=1000)
                newest, ended = event.seq, event.terminal
            seen.append(newest)

    def client(self, number: int) -> Client | None:
        return self.clients[number % len(self.clients)][0] if self.clients else None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5)),
        st.tuples(st.just("burst"), st.integers(60, 90)),
        st.tuples(st.just("join"), st.integers(0, 40)),
        st.tuples(st.just("poll"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["stall", "resume", "leave"]), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 20])),
        st.tuples(st.just("post"), st.integers(0, len(WAYS) - 1)),
    ),
    max_size=30,
)


@asynccontextmanager
async def staged(folder: Path, *, heartbeat: float) -> AsyncIterator[Scene]:
    """A scene on a store of its own, with a job that has just begun."""
    store = open_sqlite(folder / "s.db", 10_000)
    job, first = accepted("j", monitor="https://h/m", target=Target(), now=1.0)
    await store.create(job, first, None)
    tails = Tails(store, Metrics(), heartbeat=heartbeat, limit=1000)
    post = store.on_change = Post(tails)
    async with anyio.create_task_group() as tasks:
        tails.start(tasks)
        yield Scene(store, tails, post, job, tasks)
        tasks.cancel_scope.cancel()
    await store.close()


async def play(steps: list[tuple[str, int]], folder: Path) -> None:
    async with staged(folder, heartbeat=7) as scene:
        for what, number in steps:
            client = scene.client(number)
            match what:
                case "append" | "burst":
                    for _ in range(number):
                        await scene.append()
                case "join":
                    await scene.join(number)
                case "poll":
                    scene.tasks.start_soon(scene.poll, number)
                case "stall" if client:
                    client.stall()
                case "resume" if client:
                    client.resume()
                case "leave" if client:
                    client.leave()
                case "wait":
                    await anyio.sleep(number)
                case "post":
                    scene.post.go(WAYS[number])
        stayed = [(client, after) for client, after in scene.clients if not client._left.is_set()]
        for client, _ in stayed:
            client.resume()
        await scene.append("completed")
        await anyio.sleep(60)
        for client, after in stayed:
            assert client.ended
            assert client.ids == list(range(after + 1, scene.job.seq + 1))
        for client, after in scene.clients:
            assert client.ids == list(range(after + 1, after + 1 + len(client.ids)))
        for seen in scene.pollers:
            assert seen == sorted(set(seen))
            assert seen[-1] == scene.job.seq
        assert scene.tails.open == 0
        assert scene.tails._tails == {}


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(STEPS)
def test_any_interleaving(steps: list[tuple[str, int]]) -> None:
    """None lost, none doubled, the end seen by all who stayed, and nothing left behind.

    Whether what is stored is handed over well, late, twice, in another order, in part or not at all.
    """
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play(steps, Path(folder)))


@pytest.mark.parametrize("how", ["stalled", "expired", "drained", "drained while stalled"])
def test_how_a_stream_ends_before_its_job(how: str, tmp_path: Path) -> None:
    """Cut when it takes nothing, ended between events when it is too old or the gateway goes."""

    async def scene() -> Client:
        store = open_sqlite(tmp_path / "s.db", 100)
        job, first = accepted("j", monitor="https://h/m", target=Target(), now=1.0)
        await store.create(job, first, None)
        tails = Tails(store, Metrics(), heartbeat=1000, limit=10)
        store.on_change = tails.wake
        client = Client()
        async with anyio.create_task_group() as tasks:
            tails.start(tasks)
            heads = await store.heads(["j"])
            stream = Stream(tails, Metrics(), ["j"], heads, [0], send_timeout=10, max_age=100)
            scope = {"type": "http", "method": "GET", "gateway.connection": client}
            tasks.start_soon(stream, scope, client.receive, client.send)
            await anyio.sleep(1)
            if "stalled" in how:
                client.stall()
                job, more = advance(job, Answer(status="inProgress"), 2.0)
                await store.append(job, more)
                await anyio.sleep(1)
                assert tails.open == 1
            if "drained" in how:
                tails.drain(random.Random(1))
                await anyio.sleep(1)
            else:
                await anyio.sleep(101 if how == "expired" else 10)
            assert tails.open == 0
            tasks.cancel_scope.cancel()
        await store.close()
        return client

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        client = runner.run(scene())
    assert client.aborted == ("stalled" in how)
    assert client.ended == ("stalled" not in how)
    if how == "drained":
        assert client.chunks[-2].startswith(b"retry: ")


@pytest.mark.parametrize("other", ["none", "has seen it come", "has come since"])
def test_a_wait_that_begins_late(other: str, tmp_path: Path) -> None:
    """Of an event that came after the head was read, a wait hears at once, whichever readers the job has."""

    async def scene() -> None:
        async with staged(tmp_path, heartbeat=1000) as here:
            (old,) = await here.store.heads(["j"])
            assert old is not None
            if other == "has seen it come":
                await here.join(1)
                await anyio.sleep(1)
            await here.append()
            if other == "has come since":
                await here.join(2)
            await anyio.sleep(1)
            begun = anyio.current_time()
            event = await waited(here.tails, old.head, lambda seq, _ended: seq > old.head, seconds=100)
            assert event.seq == 2
            assert anyio.current_time() - begun < 0.1

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())


async def test_what_was_handed_over_is_pushed_without_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it follows the head; after a gap the log is read."""
    reads = 0
    read = SQLiteStore.read

    async def counted(self: SQLiteStore, wanted: Sequence[tuple[str, int]], limit: int) -> Any:
        nonlocal reads
        reads += 1
        return await read(self, wanted, limit)

    async with staged(tmp_path, heartbeat=1000) as here:
        await here.join(0)
        (client, _) = here.clients[0]
        pushed = await _pushed(client, 1)
        monkeypatch.setattr(SQLiteStore, "read", counted)
        await here.append()
        pushed = await _pushed(client, 2)
        assert (pushed, reads) == ([1, 2], 0)
        here.post.go("lost")
        await here.append()
        here.post.go("as they are")
        await here.append()
        pushed = await _pushed(client, 4)
        assert (pushed, reads) == ([1, 2, 3, 4], 1)


async def _pushed(client: Client, count: int) -> list[int]:
    with anyio.fail_after(4):
        while len(client.ids) < count:
            client.written.clear()
            await client.written.wait()
    return client.ids
