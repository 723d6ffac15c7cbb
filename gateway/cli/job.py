"""What the commands for single jobs do: start a job, follow it to its end, change it. Each ends the process."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import quote

import aiohttp
import anyio
import typer

from gateway.cli.arguments import STDIN, command, job_key, parsed, printable, secret
from gateway.cli.calls import call
from gateway.cli.display import clean, display, ending, needs_token, on_terminal, stderr_line
from gateway.cli.follow import LostError, RefusedError, Tail, json_object, verdict
from gateway.cli.run import COMPLETED, INTERRUPTED, exit_status, until_done, until_interrupted
from gateway.cli.start import Answered, start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path

    from gateway.cli.display import Display
    from gateway.cli.follow import Job, State

T = TypeVar("T")

READ_AGAIN = 0.5  # seconds between two looks at the file of a token


def change(
    url: str,
    method: str,
    below: str,
    body: Mapping[str, Any] | None,
    job_key_file: Path | None,
    operator_key_file: Path | None,
    told: str,
) -> NoReturn:
    """Send a request to a job, or to a resource `below` it, under its key; print `told`, and exit."""
    key = job_key(job_key_file, operator_key_file)

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            await call(session, method, f"{url}{below}", key, body)
        print(told)

    raise typer.Exit(exit_status(lambda: until_done(run)))


def start_and_follow(
    gateway: str,
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    token_file: Path | None,
    *,
    label: str | None,
    as_json: bool,
    patience: float,
) -> None:
    """Send the request that starts a job, follow the job to its end, and exit with the status of that end."""
    title = None if label is None else parsed(printable, label, "--label")
    token = secret(token_file, "GRAPH_TOKEN", "--token-file")

    async def begin(session: aiohttp.ClientSession, shown: Display) -> Job:
        job = await start(
            *(session, method, url, body, token),
            headers=headers,
            label=title,
            patience=patience,
            notice=shown.notice,
        )
        shown.started(job)
        return at_gateway(gateway, job)

    interrupted = "Interrupted before the gateway answered: it may have been started."
    source = None
    if token_file is not None and token_file != STDIN and token_file.is_file():  # a pipe cannot be read again
        source = TokenFile(token_file, token)
    follow_job(begin, patience, as_json=as_json, interrupted=interrupted, token_file=source)


def at_gateway(gateway: str, job: Job) -> Job:
    """Return the job at the gateway that answered: its GATEWAY_PUBLIC_URL may not lead there from this machine."""
    return job._replace(url=f"{gateway}/jobs/{quote(str(job.answer['jobId']), safe='')}")


class TokenFile:
    """A file from which a token was read, and from which fresh ones are handed in."""

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self._token = token

    async def hand_in(
        self, session: aiohttp.ClientSession, job: Job, waits: Callable[[], bool], notice: Callable[[str], None]
    ) -> None:
        """While the job waits, hand in the file's token each time that it is another one. It ends when cancelled."""
        while True:
            await anyio.sleep(READ_AGAIN)
            with suppress(typer.BadParameter, LostError):  # the file is being written, or the gateway is away
                if not waits() or (token := secret(self.path, "GRAPH_TOKEN", "--token-file")) == self._token:
                    continue
                try:
                    await call(session, "PUT", f"{job.url}/token", str(job.answer["jobKey"]), {"token": token})
                    notice(f"handed in the token of {self.path}")
                except RefusedError as error:
                    notice(f"the token of {self.path} is refused: {error}")
                self._token = token


class _States:
    """Shows a job's states, and says what to do when the job begins to wait for a token."""

    def __init__(self, shown: Display, job: str, token_file: TokenFile | None) -> None:
        self._shown = shown
        do = "Hand in a fresh one" if token_file is None else f"Write a fresh one to {token_file.path}, or hand it in"
        self._advice = f"The job waits for a token. {do} under its jobKey or the operator key: {command()} token {job}"
        self._waiting = False

    def waits(self) -> bool:
        """Return whether the job waits for a token now."""
        return self._waiting

    def show(self, state: State) -> None:
        self._shown.state(state)
        waited, self._waiting = self._waiting, needs_token(state)
        if self._waiting and not waited:
            self._shown.notice(self._advice)


async def _beside(work: Callable[[], Awaitable[T]], other: Callable[[], Coroutine[Any, Any, None]]) -> T:
    """Return the result of `work`, and run `other` until then. Raises what `work` raises."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        try:
            result, failure = await work(), None
        except (LostError, RefusedError, OSError) as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


def follow_job(
    begin: Callable[[aiohttp.ClientSession, Display], Awaitable[Job]],
    patience: float,
    *,
    as_json: bool,
    interrupted: str = "",
    token_file: TokenFile | None = None,
) -> NoReturn:
    """Follow the job that `begin` returns to its end, and exit with the status of that end.

    `interrupted` is printed when a signal arrives before `begin` has returned. While the job waits for a token, that of
    `token_file` is handed in once it is another one.
    """
    job = ""

    async def run() -> State | Answered:
        nonlocal job
        with display(as_json=as_json) as shown:
            async with aiohttp.ClientSession() as session:
                try:
                    begun = await begin(session, shown)
                except Answered as answered:
                    return answered
                job = begun.url
                states = _States(shown, job, token_file)
                tail = Tail(session, job, patience=patience, show=states.show, notice=shown.notice)
                if token_file is None:
                    return await tail.ended()
                return await _beside(tail.ended, lambda: token_file.hand_in(session, begun, states.waits, shown.notice))

    def follow() -> int:
        state = anyio.run(until_interrupted, run)
        if state is None:
            stderr_line(f"The job continues. Follow it again: {command()} tail {job}" if job else interrupted)
            return INTERRUPTED
        if isinstance(state, Answered):
            _show_answer(state, as_json=as_json)
            return COMPLETED
        status = verdict(state)
        if status != COMPLETED:
            stderr_line(ending(state))
        elif on_terminal() and not as_json:
            print(ending(state))
        return status

    raise typer.Exit(exit_status(follow))


def _show_answer(answered: Answered, *, as_json: bool) -> None:
    """Print what upstream answered at once: its body on stdout, as it came; its status on stderr."""
    stderr_line(f"done at once, so there is no job to follow: {answered}")
    if as_json:
        print(json.dumps(json_object(answered.body)), flush=True)
    elif sys.stdout.isatty():
        print("\n".join(clean(text) for text in answered.body.decode(errors="replace").splitlines()))
    else:
        sys.stdout.buffer.write(answered.body)
        sys.stdout.flush()
