"""The client for a gateway's list of jobs and their progress.

The list is polled, as no event announces a new job. The progress of the running jobs arrives on one stream for all of
them. If the list and the stream both have a state of a job, the newer state counts. Only the list decides whether the
gateway is reachable: a broken stream causes an immediate poll of the list.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import aiohttp
import anyio
from yarl import URL

from gateway.cli.display import clean, line, stderr_line
from gateway.cli.follow import (
    CONNECT,
    ENDED,
    PASSING,
    RETRY,
    SILENCE,
    UNREACHABLE,
    AwayError,
    EventStream,
    LostError,
    Patience,
    RefusedError,
    State,
    answer_text,
    broken,
    json_object,
    retry_after,
    state_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

LOOK_EVERY = 2.0  # seconds between two polls of the list
LOOK_AGAIN = 1.0  # … while the gateway is away
PAGE = 200  # jobs in one response, and on one stream
GONE = "-"  # in a stream's last id: the job was deleted


class JobTable:
    """The states of the jobs, newest job first, and the last event id read of each."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self._read: dict[str, str] = {}

    @property
    def running(self) -> list[str]:
        return [job for job, state in self.states.items() if state.get("status") not in ENDED]

    def listed(self, states: Sequence[State]) -> None:
        """Replace the jobs by those of the list; a newer state that is already known stays."""
        self.states = {job: self._newer(job, state) for state in states if (job := str(state.get("jobId")))}
        self._read = {job: number for job, number in self._read.items() if job in self.states}

    def update(self, state: State) -> None:
        """Take the state of an event; other jobs than those of the list are ignored."""
        job = str(state.get("jobId"))
        if job in self.states:
            self.states[job] = self._newer(job, state)

    def gone(self, job: str) -> None:
        self.states.pop(job, None)

    def read_up_to(self, jobs: Sequence[str], last_id: str) -> None:
        """Take a stream's last id: a number for each of `jobs`, separated by commas. Any other length is ignored."""
        numbers = last_id.split(",")
        if len(numbers) == len(jobs):
            self._read |= {job: number for job, number in zip(jobs, numbers, strict=True) if number != GONE}

    def last_id(self, jobs: Sequence[str]) -> str:
        """Return the Last-Event-ID for a stream of `jobs`; a job that was never read has 0."""
        return ",".join(self._read.get(job, "0") for job in jobs)

    def _newer(self, job: str, state: State) -> State:
        have = self.states.get(job, state)
        if have.get("status") in ENDED:
            return have
        return have if str(have.get("at", "")) > str(state.get("at", "")) else state


class Jobs:
    """Lists the newest jobs of the gateway at `origin`, at most `limit`. `status` None selects all jobs.

    `more` is whether the gateway has more of them than the last list.
    """

    def __init__(
        self, session: aiohttp.ClientSession, origin: str, operator_key: str, *, status: str | None, limit: int
    ) -> None:
        self.origin = origin
        self.session = session
        self._headers = {"Authorization": f"Bearer {operator_key}", "Accept": "application/json"}
        self._query = {} if status is None else {"status": status}
        self._limit = limit
        self.more = False

    async def newest(self) -> list[State]:
        """Fetch the states, newest job first. Raises AwayError, RefusedError, and aiohttp's and timeout errors."""
        found: list[State] = []
        query = dict(self._query)
        while True:
            query["limit"] = str(min(PAGE, self._limit - len(found)))
            page = await self._page(URL(f"{self.origin}/jobs?{urlencode(query)}", encoded=True))
            value = page.get("value")
            found += [state for state in value if isinstance(state, dict)] if isinstance(value, list) else []
            following = parse_qs(urlsplit(str(page.get("nextLink", ""))).query).get("cursor")
            if not following or len(found) >= self._limit:
                self.more = bool(following)
                return found
            query["cursor"] = following[0]

    async def _page(self, url: URL) -> State:
        timeout = aiohttp.ClientTimeout(total=CONNECT)
        async with self.session.get(url, headers=self._headers, timeout=timeout, allow_redirects=False) as response:
            body = await response.read()
        if response.status == 401:
            raise RefusedError(
                f"the gateway at {self.origin} rejects this operator key. Use the GATEWAY_OPERATOR_KEY that it "
                "was started with, or the key it printed at its first start; a gateway without a key lists no jobs"
            )
        if response.status in PASSING:
            raise AwayError(answer_text(response, body), retry_after(response.headers))
        answer = json_object(body)
        if response.status != 200 or not isinstance(answer.get("value"), list):
            raise RefusedError(f"{self.origin} does not seem to be a gateway: {answer_text(response, body)}")
        return answer

    async def once(self) -> list[State]:
        """Fetch the states as `newest` does, without another attempt. Raises RefusedError and LostError."""
        try:
            return await self.newest()
        except AwayError as error:
            raise LostError(str(error)) from None
        except UNREACHABLE as error:
            raise LostError(f"no gateway reachable at {self.origin}: {broken(error)}") from None


class Watch:
    """Keeps the table of `jobs` up to date. `changed` is called after every change of the table or the connection."""

    def __init__(self, jobs: Jobs, *, patience: float, changed: Callable[[], None]) -> None:
        self.table = JobTable()
        self.patience = Patience(patience, lambda _: changed())
        self._jobs = jobs
        self._changed = changed
        self._look = anyio.Event()
        self._listed = anyio.Event()
        self._following: list[str] = []
        self._reading = anyio.CancelScope()

    @property
    def more(self) -> bool:
        """Whether the gateway has more jobs than the table."""
        return self._jobs.more

    async def run(self, show: Callable[[], Coroutine[Any, Any, object]]) -> NoReturn:
        """Run until cancelled; `show` is started after the first list has arrived.

        Raises RefusedError, and LostError when the gateway is not reachable or stays away.
        """
        self._list_is(await self._jobs.once())
        failure: Exception
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow)
            tasks.start_soon(show)
            try:
                await self._keep_listing()
            except (LostError, RefusedError) as error:
                failure = error
            tasks.cancel_scope.cancel()
        raise failure

    async def _keep_listing(self) -> NoReturn:
        while True:
            with anyio.move_on_after(LOOK_EVERY):
                await self._look.wait()
            self._look = anyio.Event()
            try:
                states = await self._jobs.newest()
            except AwayError as away:
                await self.patience.wait(str(away), away.wait or LOOK_AGAIN)
                self._look.set()
            except UNREACHABLE as error:
                await self.patience.wait(broken(error), LOOK_AGAIN)
                self._look.set()
            else:
                self._list_is(states)

    def _list_is(self, states: Sequence[State]) -> None:
        self.patience.renew()
        self.table.listed(states)
        self._listed.set()
        self._listed = anyio.Event()
        if not {*self.table.running} <= {*self._following}:
            self._reading.cancel()
        self._changed()

    async def _follow(self) -> NoReturn:
        """Read one stream of all running jobs after another; a new job ends the current stream."""
        while True:
            self._following = self.table.running[:PAGE]
            if not self._following:
                await self._listed.wait()
                continue
            with anyio.CancelScope() as self._reading:
                try:
                    wait = await self._read(self._following)
                except (*UNREACHABLE, LostError):
                    wait = RETRY
                self._look.set()
                await anyio.sleep(wait)

    async def _read(self, jobs: Sequence[str]) -> float:
        """Read a stream of `jobs` to its end, and return the seconds to wait before the next one."""
        stream = EventStream()
        stream.last_id = self.table.last_id(jobs)
        query = "&".join(f"job={quote(job, safe='')}" for job in jobs)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": stream.last_id}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
        url = URL(f"{self._jobs.origin}/events?{query}", encoded=True)
        async with self._jobs.session.get(url, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                return retry_after(response.headers) or RETRY
            stream.connect()
            async for chunk in response.content.iter_any():
                for message in stream.feed(chunk):
                    state = state_of(message)
                    if message.event == "gone":
                        self.table.gone(str(state.get("jobId")))
                    else:
                        self.table.update(state)
                    self.table.read_up_to(jobs, message.id)
                    self._changed()
        return stream.retry


async def print_jobs(origin: str, operator_key: str, *, status: str | None, limit: int, as_json: bool) -> None:
    """Print one line for each job: its id and state, or the state as JSON.

    Raises RefusedError and LostError.
    """
    async with aiohttp.ClientSession() as session:
        jobs = Jobs(session, origin, operator_key, status=status, limit=limit)
        states = await jobs.once()
    for state in states:
        print(json.dumps(state) if as_json else f"{clean(state.get('jobId', ''))}  {line(state, advise=True)}")
    sys.stdout.flush()
    if jobs.more:
        stderr_line(f"these are the newest {len(states)} of more; --limit shows more of them")
