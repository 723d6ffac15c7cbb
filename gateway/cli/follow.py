"""The client that follows a job to its end, as EventSource would.

Once the gateway has answered, a failing connection is retried until `patience` seconds have passed without news of the
job. An event is news, and so is a stream that stayed open for `SETTLED` seconds. A connection that opens and closes
again is not.
"""

from __future__ import annotations

import codecs
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import anyio
from yarl import URL

from gateway.core.job import COMPLETED, FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

State = dict[str, Any]

TERMINAL_EVENTS = frozenset({"completed", "failed"})
UNREACHABLE = (aiohttp.ClientError, TimeoutError)
ENDED = frozenset({*COMPLETED, *FAILED})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # temporary: the same request may succeed later
CONNECT = 10.0  # seconds
ANSWER = 90.0  # seconds; the gateway allows 60 for the request upstream, by default
SILENCE = 60.0  # seconds without a byte; the gateway's heartbeat is every 15, by default
SETTLED = 5.0  # seconds after which an open stream counts as news of the job
RETRY = 2.0  # seconds between connections, until the stream sends its own `retry:`
BROKEN_OFF = "the stream ended"


class Job(NamedTuple):
    """A job: its `url`, and the `answer` that named it, which holds its jobKey; empty if the user named the job."""

    url: str
    answer: State


class RefusedError(Exception):
    """The request was refused; repeating it does not help."""


class LostError(Exception):
    """The gateway is unreachable or its answer unusable: the outcome of the job is unknown."""


class AwayError(Exception):
    """A temporary refusal. `wait` is the gateway's Retry-After in seconds, None without one."""

    def __init__(self, words: str, wait: float | None) -> None:
        super().__init__(words)
        self.wait = wait


class Patience:
    """Limits how long the gateway may be unreachable, to `seconds`.

    `met` is whether it was ever reached; `away` is the reason why it is unreachable now, else empty.
    """

    def __init__(self, seconds: float, notice: Callable[[str], None]) -> None:
        self.seconds = seconds
        self.met = False
        self.away = ""
        self._notice = notice
        self._lost_at: float | None = None

    def renew(self) -> None:
        """Note that the gateway is reachable, and allow the whole time again."""
        if self.away:
            self._notice("connected again")
        self.met, self._lost_at, self.away = True, None, ""

    async def wait(self, words: str, seconds: float) -> None:
        """Wait up to `seconds` before the next attempt. The regular end of a stream causes no notice.

        Raises LostError when the gateway has been unreachable for too long.
        """
        now = anyio.current_time()
        if self._lost_at is None:
            self._lost_at = now
        elif now - self._lost_at >= self.seconds:
            raise LostError(f"{words}; gave up after {self.seconds:g} s")
        if not self.away and words != BROKEN_OFF:
            self.away = words
            self._notice(f"{words}; reconnecting, for {self.seconds:g} s at most")
        await anyio.sleep(max(0.0, min(seconds, self._lost_at + self.seconds - now)))


class Tail:
    """Follows one job. `show` gets each state, `message` each event of the stream, `notice` each notice, and `raw` each
    chunk of the stream as received.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        job: str,
        *,
        patience: float,
        show: Callable[[State], None],
        notice: Callable[[str], None] = lambda _: None,
        raw: Callable[[bytes], None] = lambda _: None,
        message: Callable[[Message], None] = lambda _: None,
    ) -> None:
        self._session = session
        self._job = URL(job, encoded=True)
        self._events = URL(f"{job}/events", encoded=True)
        self._patience = Patience(patience, notice)
        self._show = show
        self._raw = raw
        self._message = message
        self._stream = EventStream()

    async def ended(self) -> State:
        """Follow the job to its end and return its final state.

        Raises RefusedError when the URL is not a job's, LostError when the gateway cannot be reached any more.
        """
        while True:
            words, wait = BROKEN_OFF, None
            try:
                state = await self._read()
            except AwayError as away:
                words, wait, state = str(away), away.wait, None
            except UNREACHABLE as error:
                words, state = broken(error), None
                if not self._patience.met:
                    raise LostError(f"no gateway reachable at {self._job.origin()}: {words}") from None
            if state is not None:
                return state
            await self._patience.wait(words, self._stream.retry if wait is None else wait)

    async def _read(self) -> State | None:
        headers = {"Accept": "text/event-stream"}
        if self._stream.last_id:
            headers["Last-Event-ID"] = self._stream.last_id
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
        async with self._session.get(self._events, headers=headers, timeout=timeout) as response:
            if response.status == 204:
                return await self._outcome()
            if response.status != 200:
                raise self._answered(response, await response.read())
            if response.content_type != "text/event-stream":
                raise RefusedError(
                    f"{self._job} sends {response.content_type} instead of events: it is not a job's URL"
                )
            self._patience.met = True
            self._stream.connect()
            opened, last_id = anyio.current_time(), self._stream.last_id
            try:
                async for chunk in response.content.iter_any():
                    self._raw(chunk)
                    messages = self._stream.feed(chunk)
                    self._renew(opened, last_id)
                    for message in messages:
                        state = state_of(message)
                        self._show(state)
                        self._message(message)
                        if message.event in TERMINAL_EVENTS:
                            return state
            finally:
                self._renew(opened, last_id)
        return None

    def _renew(self, opened: float, last_id: str) -> None:
        if self._stream.last_id != last_id or anyio.current_time() - opened > SETTLED:
            self._patience.renew()

    def _answered(self, response: aiohttp.ClientResponse, body: bytes) -> Exception:
        words = answer_text(response, body)
        if response.status in PASSING:
            return AwayError(words, retry_after(response.headers))
        if self._patience.met:
            return LostError(f"the gateway no longer knows the job: {words}")
        return RefusedError(words)

    async def _outcome(self) -> State:
        """Fetch the final state of a job whose terminal event has already been received. Raises LostError."""
        timeout = aiohttp.ClientTimeout(total=CONNECT)
        async with self._session.get(self._job, headers={"Accept": "application/json"}, timeout=timeout) as response:
            body = await response.read()
        state = json_object(body)
        if response.status != 200 or state.get("status") not in ENDED:
            raise LostError(f"the job has ended, but its final status is missing: {answer_text(response, body)}")
        self._show(state)
        return state


def verdict(state: State) -> int:
    """Return the exit status for a final state: 0 completed, 1 failed, 3 lost track of."""
    if state.get("status") in COMPLETED:
        return 0
    error = state.get("error")
    return 3 if isinstance(error, dict) and error.get("origin") == "gateway" else 1


def answer_text(response: aiohttp.ClientResponse, body: bytes) -> str:
    """Describe a response: by its error's message and code if the body has Graph's shape, else by its status."""
    error = json_object(body).get("error")
    if isinstance(error, dict) and error.get("message"):
        code = error.get("code")
        return f"{str(error['message']).rstrip('.')} ({code})" if code else str(error["message"])
    return f"HTTP {response.status} {response.reason or ''}".rstrip()


def broken(error: Exception) -> str:
    """Describe the error of a connection."""
    if isinstance(error, TimeoutError):
        return "no response in time"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno:
        return (os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)).lower()
    lost = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError)
    return "the connection was lost" if lost else str(error)


def state_of(message: Message) -> State:
    """Return the job's state in an event. Raises LostError when the data is not a JSON object."""
    try:
        state = json.loads(message.data)
    except ValueError:
        state = None
    if not isinstance(state, dict):
        raise LostError(f"the stream's event {message.id!r} contains no job state")
    return state


def json_object(body: bytes) -> State:
    """Return the JSON object of a body, empty when the body is anything else."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header, None when it is missing or not a whole number."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None


@dataclass(frozen=True, slots=True)
class Message:
    """One event of a stream; `id` is the last event id after it."""

    event: str
    data: str
    id: str


class EventStream:
    """A parser of Server-Sent Events that outlives connections.

    `last_id` (the last event id) and `retry` (seconds) carry over to the next connection.
    """

    def __init__(self) -> None:
        self.last_id = ""
        self.retry = RETRY
        self.connect()

    def connect(self) -> None:
        """Begin a new response; an incomplete event of the previous one is dropped."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = True
        self._after_cr = False
        self._rest = ""
        self._forget()
        self._id = self.last_id

    def feed(self, chunk: bytes) -> list[Message]:
        """Return the messages that this chunk completes."""
        text = self._decoder.decode(chunk)
        if self._at_start and text:
            text, self._at_start = text.removeprefix("\ufeff"), False
        if self._after_cr and text:  # the CR has ended the line; this LF belongs to the same line end
            text, self._after_cr = text.removeprefix("\n"), False
        self._after_cr = self._after_cr or text.endswith("\r")
        *lines, self._rest = (self._rest + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return [message for line in lines if (message := self._take(line)) is not None]

    def _take(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")  # a comment is a field without a name
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value.lstrip("0")[:9] or "0") / 1000
        return None

    def _dispatch(self) -> Message | None:
        self.last_id = self._id
        message = Message(self._event or "message", "\n".join(self._data), self.last_id) if self._data else None
        self._forget()
        return message

    def _forget(self) -> None:
        self._event = ""
        self._data: list[str] = []
