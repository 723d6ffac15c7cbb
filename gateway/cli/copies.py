"""The commands for single jobs: start or watch one, follow it, stop watching it, forward its events."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

import typer

from gateway.cli.arguments import DEFAULT_URL
from gateway.cli.options import (
    GatewayOption,
    JobArgument,
    JobKeyOption,
    JsonOption,
    OperatorKeyOption,
    PatienceOption,
    SecretOption,
    StartedJsonOption,
    TakesIds,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiohttp

    from gateway.cli.display import Display
    from gateway.cli.follow import Job, State

STATUS = "Exit status: 0 completed, 1 failed, 2 wrong use or refused, 3 lost track of, 130 interrupted."

LabelOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A name for people, shown wherever the job is shown.")
]

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog=STATUS)
def copy(
    *,
    item: Annotated[
        str,
        typer.Argument(
            metavar="ITEM",
            help="me/drive/items/ID, drives/ID/items/ID, me/drive/root:/path:, a Graph URL, or a bare id.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="DRIVE/FOLDER", help="The target folder: ids of drive and folder, or /path/in/your/drive."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The copy's name; by default upstream chooses it.")
    ] = None,
    label: LabelOption = None,
    conflict: Annotated[
        Literal["fail", "rename", "replace"] | None, typer.Option(help="What to do when the name is taken.")
    ] = None,
    as_json: StartedJsonOption = False,
    gateway: GatewayOption = DEFAULT_URL,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file with Graph's access token; default: the value of GRAPH_TOKEN."),
    ] = None,
    patience: PatienceOption = 60.0,
) -> None:
    """Start a copy through a gateway and follow it. It is started at most once; an interrupt does not stop it.

    GRAPH_TOKEN=… gateway copy me/drive/items/01ABC --to /Documents
    """
    from gateway.cli.arguments import copy_path, origin, parsed, printable, secret, target
    from gateway.cli.follow import start

    where = parsed(origin, gateway, "--gateway")
    url = where + parsed(copy_path, item, "ITEM")
    if conflict is not None:
        url += f"?@microsoft.graph.conflictBehavior={conflict}"
    body: dict[str, Any] = {"parentReference": parsed(target, to, "--to")}
    if name is not None:
        body["name"] = name
    title = None if label is None else parsed(printable, label, "--label")
    token = secret(token_file, "GRAPH_TOKEN", "--token-file")

    async def begin(session: aiohttp.ClientSession, shown: Display) -> Job:
        job = await start(session, url, body, token, label=title, patience=patience, notice=shown.notice)
        shown.started(job)
        return _at(where, job)

    interrupted = "Interrupted before the gateway answered: the copy may have been started."
    _follow(begin, patience, as_json=as_json, interrupted=interrupted)


@app.command(epilog=STATUS, cls=TakesIds)
def tail(
    *,
    job: JobArgument,
    as_json: JsonOption = False,
    gateway: GatewayOption = DEFAULT_URL,
    patience: PatienceOption = 60.0,
) -> None:
    """Follow one job to its end. Resumes after a lost connection or a restart of the gateway."""
    from gateway.cli.arguments import job_url, parsed
    from gateway.cli.follow import Job

    url = parsed(lambda text: job_url(text, gateway), job, "JOB")

    async def begin(_session: aiohttp.ClientSession, _shown: Display) -> Job:
        return Job(url, {})

    _follow(begin, patience, as_json=as_json)


@app.command(epilog=STATUS)
def watch(
    *,
    monitor: Annotated[
        str,
        typer.Argument(
            metavar="MONITOR-URL",
            help="The Location that Graph sent. It is a credential: - reads it from standard input instead.",
        ),
    ],
    label: LabelOption = None,
    as_json: StartedJsonOption = False,
    gateway: GatewayOption = DEFAULT_URL,
    operator_key_file: OperatorKeyOption = None,
    patience: PatienceOption = 60.0,
) -> None:
    """Watch and follow a copy that was started without the gateway.

    GATEWAY_OPERATOR_KEY=… gateway watch https://contoso.sharepoint.com/_api/v2.0/monitor/… --label Archive
    """
    from gateway.cli.arguments import operator_key, origin, parsed, printable
    from gateway.cli.calls import call
    from gateway.cli.follow import Job, LostError

    where = parsed(origin, gateway, "--gateway")
    url = f"{where}/jobs"
    body = {"monitorUrl": sys.stdin.readline().strip() if monitor == "-" else monitor}
    if label is not None:
        body["label"] = parsed(printable, label, "--label")
    key = operator_key(operator_key_file)

    async def begin(session: aiohttp.ClientSession, shown: Display) -> Job:
        headers, answer = await call(session, "POST", url, key, body)
        if "jobId" not in answer or "Location" not in headers:
            raise LostError(f"{url} does not seem to be a gateway's: it answered without a job")
        job = Job(headers["Location"], answer)
        shown.started(job)
        return _at(where, job)

    interrupted = "Interrupted before the gateway answered: it may watch the copy already."
    _follow(begin, patience, as_json=as_json, interrupted=interrupted)


@app.command(cls=TakesIds, epilog="Exit status: 0 it is not watched any more, 2 wrong use or refused, 3 unreachable.")
def stop(
    *,
    job: JobArgument,
    gateway: GatewayOption = DEFAULT_URL,
    job_key_file: JobKeyOption = None,
    operator_key_file: OperatorKeyOption = None,
) -> None:
    """Stop watching a job. The copy itself goes on: Graph cannot cancel it. A job that has ended stays as it is."""
    import aiohttp

    from gateway.cli.arguments import job_key, job_url, parsed
    from gateway.cli.calls import call
    from gateway.cli.run import exit_status, until_done

    url = parsed(lambda text: job_url(text, gateway), job, "JOB")
    key = job_key(job_key_file, operator_key_file)

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            await call(session, "DELETE", url, key)
        print(f"The gateway does not watch {url} any more. The copy itself may go on.")

    raise typer.Exit(exit_status(lambda: until_done(run)))


@app.command(
    cls=TakesIds,
    epilog="Exit status: 0 every event was delivered, 1 one was not accepted, 2 wrong use or refused, 3 lost "
    "track of a job, 130 interrupted.",
)
def listen(
    *,
    jobs: Annotated[list[str], typer.Argument(metavar="JOB…", help="The jobs' URLs (the Location of a copy), or ids.")],
    forward_to: Annotated[str, typer.Option(metavar="URL", help="The receiver: http://localhost:3000/hook")],
    events: Annotated[
        str, typer.Option(metavar="KINDS", help="What is forwarded: progress, completed, failed, with commas between.")
    ] = "completed,failed",
    secret_file: SecretOption = None,
    gateway: GatewayOption = DEFAULT_URL,
    patience: PatienceOption = 60.0,
) -> None:
    """Forward jobs' events to a webhook receiver on your machine.

    Each event is sent once, signed as the gateway signs callbacks, and not again when the receiver refuses it. The
    command ends when all of the jobs have ended; the same command again sends all of their events once more.
    """
    import anyio

    from gateway.cli.arguments import job_url, kinds, parsed, receiver_url, webhook_secret
    from gateway.cli.listen import Forwarding
    from gateway.cli.run import INTERRUPTED, exit_status, until_interrupted

    urls = [parsed(lambda text: job_url(text, gateway), job, "JOB") for job in dict.fromkeys(jobs)]
    wanted, receiver = parsed(kinds, events, "--events"), parsed(receiver_url, forward_to, "--forward-to")
    secret, is_new = webhook_secret(secret_file)
    if is_new:
        print(f"The secret of the signatures: {secret}", flush=True)
    forwarding = Forwarding(receiver, wanted, secret)

    def forward() -> int:
        ended = anyio.run(until_interrupted, lambda: forwarding.run(urls, patience))
        return INTERRUPTED if ended is None else ended

    raise typer.Exit(exit_status(forward))


def _at(gateway: str, job: Job) -> Job:
    """Return the job at the gateway that answered: its GATEWAY_PUBLIC_URL may not lead there from this machine."""
    return job._replace(url=f"{gateway}/jobs/{quote(str(job.answer['jobId']), safe='')}")


def _follow(
    begin: Callable[[aiohttp.ClientSession, Display], Awaitable[Job]],
    patience: float,
    *,
    as_json: bool,
    interrupted: str = "",
) -> None:
    """Follow the job that `begin` returns to its end, and exit with the status of that end.

    `interrupted` is printed when a signal arrives before `begin` has returned.
    """
    import aiohttp
    import anyio

    from gateway.cli.arguments import command
    from gateway.cli.display import display, ending, on_terminal, stderr_line
    from gateway.cli.follow import Tail, verdict
    from gateway.cli.run import COMPLETED, INTERRUPTED, exit_status, until_interrupted

    job = ""

    async def run() -> State:
        nonlocal job
        with display(as_json=as_json) as shown:
            async with aiohttp.ClientSession() as session:
                job = (await begin(session, shown)).url
                return await Tail(session, job, patience=patience, show=shown.state, notice=shown.notice).ended()

    def follow() -> int:
        state = anyio.run(until_interrupted, run)
        if state is None:
            stderr_line(f"The copy continues. Follow it again: {command()} tail {job}" if job else interrupted)
            return INTERRUPTED
        status = verdict(state)
        if status != COMPLETED:
            stderr_line(ending(state))
        elif on_terminal() and not as_json:
            print(ending(state))
        return status

    raise typer.Exit(exit_status(follow))
