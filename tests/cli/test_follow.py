"""The client against gateways that break off, go away, answer twice or not at all; in virtual time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.follow import EventStream, Job, LostError, RefusedError, State, Tail
from gateway.cli.job import TokenFile
from gateway.cli.start import start
from tests.support.fake_upstream import Answer, FakeUpstream, faking, reset

pytestmark = pytest.mark.virtual_time

PATIENCE = 60.0


@pytest.fixture
async def fake() -> AsyncIterator[FakeUpstream]:
    async with faking() as fake:
        yield fake


class Followed:
    """What one tail was shown, and told besides."""

    def __init__(self, fake: FakeUpstream) -> None:
        self.fake = fake
        self.states: list[State] = []
        self.notices: list[str] = []

    async def end(self, patience: float = PATIENCE) -> State:
        once = aiohttp.TCPConnector(force_close=True)  # aiohttp repeats a GET by itself when a kept connection breaks
        async with aiohttp.ClientSession(connector=once) as session:
            url = f"{self.fake.url}/jobs/1"
            tail = Tail(session, url, patience=patience, show=self.states.append, notice=self.notices.append)
            return await tail.ended()

    @property
    def last_ids(self) -> list[str | None]:
        return [headers.get("Last-Event-ID") for _, _, headers, _ in self.fake.asked]


@pytest.fixture
def followed(fake: FakeUpstream) -> Followed:
    return Followed(fake)


def frame(number: int, event: str = "progress", **state: Any) -> bytes:
    return f"id: {number}\nevent: {event}\ndata: {json.dumps({'status': event, 'n': number} | state)}\n\n".encode()


def stream(*frames: bytes, breaks: bool = False) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for sent in frames:
            await response.write(sent)
        return await reset(request) if breaks else response

    return answer


def answering(status: int, code: str = "some", message: str = "Some words.", **headers: str) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)

    return answer


def job(code: int, **values: Any) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"jobId": "1", **values}, status=code, headers={"Location": "/jobs/1"})

    return answer


async def no_content(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=204)


def one_after_the_other(*answers: Answer) -> Answer:
    """The last one for ever."""
    left = list(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (left.pop(0) if len(left) > 1 else left[0])(request)

    return answer


DONE = frame(3, "completed")


async def test_a_broken_stream_is_resumed_after_the_last_event(fake: FakeUpstream, followed: Followed) -> None:
    """By Last-Event-ID, after the time that `retry:` named, and without a word about a plain end."""
    fake.on_item = one_after_the_other(
        stream(b"retry: 7000\n\n" + frame(1)), stream(frame(2), b"id: 9\ndata: unfin"), stream(DONE)
    )
    began = anyio.current_time()
    assert (await followed.end())["n"] == 3
    assert followed.last_ids == [None, "1", "2"]
    assert [shown["n"] for shown in followed.states] == [1, 2, 3]
    assert 14 <= anyio.current_time() - began < 15
    assert followed.notices == []


@pytest.mark.parametrize(
    "trouble",
    [reset, answering(503), answering(502), answering(429, **{"Retry-After": "3"}), stream(frame(2), breaks=True)],
)
async def test_trouble_passes(trouble: Answer, fake: FakeUpstream, followed: Followed) -> None:
    """A gateway that was there once is waited for; the person hears of it once."""
    fake.on_item = one_after_the_other(stream(frame(1)), trouble, trouble, stream(DONE))
    assert (await followed.end())["n"] == 3
    lost, back = followed.notices
    assert lost.endswith("; reconnecting, for 60 s at most")
    assert back == "connected again"


@pytest.mark.parametrize(
    "trouble", [reset, answering(503), answering(503, **{"Retry-After": "86400"}), stream(b": hello\n\n")]
)
async def test_patience_ends(trouble: Answer, fake: FakeUpstream, followed: Followed) -> None:
    """Streams that open and bring nothing are no sign of life either."""
    fake.on_item = one_after_the_other(stream(frame(1)), trouble)
    began = anyio.current_time()
    with pytest.raises(LostError, match="gave up after 60 s"):
        await followed.end()
    assert 60 <= anyio.current_time() - began < 70


async def test_an_event_renews_patience(fake: FakeUpstream, followed: Followed) -> None:
    """A gateway that is away for most of the patience, ten times, loses nobody."""
    away = answering(503, **{"Retry-After": "50"})
    fake.on_item = one_after_the_other(
        *(answer for number in range(1, 11) for answer in (away, stream(frame(number)))), stream(frame(11, "failed"))
    )
    assert (await followed.end())["n"] == 11


async def test_204_tells_that_it_has_ended(fake: FakeUpstream, followed: Followed) -> None:
    """How, is read from the job's state."""
    fake.on_item = one_after_the_other(stream(frame(1)), no_content, job(200, status="completed"))
    assert (await followed.end())["status"] == "completed"
    fake.on_item = one_after_the_other(no_content, answering(404))
    with pytest.raises(LostError, match="its final status is missing"):
        await followed.end()


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([answering(404)], RefusedError),
        ([answering(400)], RefusedError),
        ([job(200)], RefusedError),  # no event stream
        ([stream(frame(1)), answering(404)], LostError),  # known, and then no more
        ([stream(b"data: no JSON\n\n")], LostError),
        ([stream(b"data: []\n\n")], LostError),
    ],
)
async def test_what_is_final(
    answers: list[Answer], error: type[Exception], fake: FakeUpstream, followed: Followed
) -> None:
    """No second try where none can help."""
    fake.on_item = one_after_the_other(*answers)
    with pytest.raises(error):
        await followed.end()
    assert len(fake.asked) == len(answers)


async def test_a_gateway_that_was_never_met_is_not_waited_for(fake: FakeUpstream, followed: Followed) -> None:
    """A wrong address is told at once."""
    fake.on_item = reset
    began = anyio.current_time()
    with pytest.raises(LostError, match="no gateway reachable at http"):
        await followed.end()
    assert anyio.current_time() - began < 1


async def begin(fake: FakeUpstream) -> str:
    async with aiohttp.ClientSession() as session:
        url = f"{fake.url}/v1.0/me/drive/items/1/copy"
        job = await start(session, "POST", url, b"{}", "token", patience=PATIENCE)
        return job.url


@pytest.mark.parametrize("status", [202, 200])
async def test_a_lost_answer_is_asked_for_under_the_same_key(status: int, fake: FakeUpstream) -> None:
    """And while the first request is still in flight, again; the copy may have ended by then."""
    fake.on_copy = one_after_the_other(reset, answering(409, "requestInProgress"), job(status))
    assert await begin(fake) == f"{fake.url}/jobs/1"
    assert fake.copies() == 3
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in fake.asked}) == 1
    assert {headers["Authorization"] for _, _, headers, _ in fake.asked} == {"Bearer token"}


async def test_lost_answers_without_end(fake: FakeUpstream) -> None:
    """The person learns that the copy may be running."""
    fake.on_copy = reset
    with pytest.raises(LostError, match="may be running"):
        await begin(fake)
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in fake.asked}) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (answering(401), RefusedError),
        (answering(409, "nameAlreadyExists"), RefusedError),
        (answering(409, "requestInProgress"), RefusedError),  # nothing was lost: it is another's
        (answering(429, **{"Retry-After": "1"}), RefusedError),
        (answering(500), LostError),
        (answering(502, "outcomeUnknown"), LostError),
        (answering(503, **{"Retry-After": "1"}), LostError),
        (answering(307, Location="http://127.0.0.1:9/"), LostError),  # the token goes nowhere else
        (answering(200, Location="/jobs/1"), LostError),  # no job in it: not a gateway's answer
        (answering(202, Location="/jobs/1"), LostError),
    ],
)
async def test_a_copy_is_asked_for_once(answer: Answer, error: type[Exception], fake: FakeUpstream) -> None:
    """Whatever is answered, the POST is not repeated."""
    fake.on_copy = answer
    with pytest.raises(error):
        await begin(fake)
    assert fake.copies() == 1


async def test_a_file_whose_token_is_refused(fake: FakeUpstream, tmp_path: Path) -> None:
    """It is not sent twice, unless the gateway was away; the next one is, and none while the job needs none."""
    token = tmp_path / "token"
    notices: list[str] = []
    waits: list[bool] = []
    fake.on_item = one_after_the_other(answering(503), answering(400), no_content)
    async with aiohttp.ClientSession() as session, anyio.create_task_group() as tasks:
        asking = Job(f"{fake.url}/jobs/1", {"jobKey": "its-key"})
        tasks.start_soon(TokenFile(token, "stale").hand_in, session, asking, lambda: bool(waits), notices.append)
        token.write_text("too-early")
        await anyio.sleep(10)
        waits.append(True)
        for text in ("stale", "", "second", "third"):
            token.write_text(text)
            await anyio.sleep(10)
        tasks.cancel_scope.cancel()
    assert [json.loads(body)["token"] for *_, body in fake.asked] == ["second", "second", "third"]
    assert {headers["Authorization"] for _, _, headers, _ in fake.asked} == {"Bearer its-key"}
    assert notices == [f"the token of {token} is refused: Some words (some)", f"handed in the token of {token}"]


@given(
    st.lists(
        st.sampled_from([b"data", b"id", b"event", b": ", b":", b"\r", b"\n", b"x", b"\xc3", b"\xa4", b"\0", b"1"])
    ),
    st.data(),
)
def test_where_the_bytes_are_cut_does_not_matter(pieces: list[bytes], data: st.DataObject) -> None:
    """One chunk, or any others: the same messages, the same place to resume from."""
    whole = b"\xef\xbb\xbf" + b"".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))))
    one, many = EventStream(), EventStream()
    messages = one.feed(whole)
    edges = [0, *cuts, len(whole)]
    assert [m for a, b in pairwise(edges) for m in many.feed(whole[a:b])] == messages
    assert (one.last_id, one.retry) == (many.last_id, many.retry)
