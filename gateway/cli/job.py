"""What the commands for single jobs do: start a job, follow it to its end, change it. Each ends the process."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import aiohttp
import anyio
import typer

from gateway.cli.arguments import command, job_key, parsed, printable, secret
from gateway.cli.calls import call
from gateway.cli.display import clean, display, ending, needs_token, on_terminal, stderr_line
from gateway.cli.follow import Tail, json_object, verdict
from gateway.cli.run import COMPLETED, INTERRUPTED, exit_status, until_done, until_interrupted
from gateway.cli.start import Answered, start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from gateway.cli.display import Display
    from gateway.cli.follow import Job, State


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
    follow_job(begin, patience, as_json=as_json, interrupted=interrupted)


def at_gateway(gateway: str, job: Job) -> Job:
    """Return the job at the gateway that answered: its GATEWAY_PUBLIC_URL may not lead there from this machine."""
    return job._replace(url=f"{gateway}/jobs/{quote(str(job.answer['jobId']), safe='')}")


def follow_job(
    begin: Callable[[aiohttp.ClientSession, Display], Awaitable[Job]],
    patience: float,
    *,
    as_json: bool,
    interrupted: str = "",
) -> NoReturn:
    """Follow the job that `begin` returns to its end, and exit with the status of that end.

    `interrupted` is printed when a signal arrives before `begin` has returned.
    """
    job = ""

    async def run() -> State | Answered:
        nonlocal job
        needed = False
        with display(as_json=as_json) as shown:

            def show(state: State) -> None:
                nonlocal needed
                shown.state(state)
                if needs_token(state) and not needed:
                    shown.notice(f"The job waits for a token. Hand in a fresh one: {command()} token {job}")
                needed = needs_token(state)

            async with aiohttp.ClientSession() as session:
                try:
                    job = (await begin(session, shown)).url
                except Answered as answered:
                    return answered
                return await Tail(session, job, patience=patience, show=show, notice=shown.notice).ended()

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
