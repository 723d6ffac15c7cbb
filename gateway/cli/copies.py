"""The commands for single jobs: start one, watch, follow or stop it, give it a token, forward its events."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    TokenOption,
    WithTable,
)

if TYPE_CHECKING:
    import aiohttp

    from gateway.cli.display import Display
    from gateway.cli.follow import Job

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
    token_file: TokenOption = None,
    patience: PatienceOption = 60.0,
) -> None:
    """Start a copy through a gateway and follow it. It is started at most once; an interrupt does not stop it.

    GRAPH_TOKEN=… gateway copy me/drive/items/01ABC --to /Documents
    """
    from gateway.cli.arguments import copy_path, origin, parsed, target
    from gateway.cli.job import start_and_follow

    where = parsed(origin, gateway, "--gateway")
    url = where + parsed(copy_path, item, "ITEM")
    if conflict is not None:
        url += f"?@microsoft.graph.conflictBehavior={conflict}"
    body: dict[str, Any] = {"parentReference": parsed(target, to, "--to")}
    if name is not None:
        body["name"] = name
    sent = json.dumps(body).encode()
    start_and_follow(where, "POST", url, sent, {}, token_file, label=label, as_json=as_json, patience=patience)


class _WithOperations(WithTable):
    title = "Operations; a path may begin with a version, which is v1.0 without, and hold a query"

    def rows(self) -> list[tuple[str, str]]:
        from gateway.graph.operations import OPERATIONS

        return [(operation.method, operation.path) for operation in OPERATIONS]


@app.command(cls=_WithOperations, epilog=STATUS)
def start(
    *,
    method: Annotated[
        Literal["POST", "PATCH"], typer.Argument(metavar="METHOD", help="Of Graph's request.", case_sensitive=False)
    ],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Graph's path, such as teams/ID/clone, or a Graph URL.")],
    json_body: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="The body: a JSON object, a file that holds one, or - for standard input."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="HEADER", help="A header for Graph, such as 'Prefer: respond-async'; may be repeated."),
    ] = None,
    label: LabelOption = None,
    as_json: StartedJsonOption = False,
    gateway: GatewayOption = DEFAULT_URL,
    token_file: TokenOption = None,
    patience: PatienceOption = 60.0,
) -> None:
    """Start any long-running operation of Graph and follow it. It is started at most once.

    GRAPH_TOKEN=… gateway start POST teams/ID/clone --json-body '{"displayName":"Team 2","partsToClone":"apps"}'

    What upstream does at once is printed as it answers. While the job waits for a token, a fresh one that is written to
    the file of --token-file is handed in. An interrupt does not stop the operation.
    """
    from gateway.cli import arguments
    from gateway.cli.arguments import graph_path, origin, parsed
    from gateway.cli.job import start_and_follow

    where = parsed(origin, gateway, "--gateway")
    url = where + parsed(graph_path, path, "PATH")
    body = None if json_body is None else parsed(arguments.json_body, json_body, "--json-body")
    headers = dict(parsed(arguments.header, text, "--header") for text in header or ())
    start_and_follow(where, method, url, body, headers, token_file, label=label, as_json=as_json, patience=patience)


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
    from gateway.cli.job import follow_job

    url = parsed(lambda text: job_url(text, gateway), job, "JOB")

    async def begin(_session: aiohttp.ClientSession, _shown: Display) -> Job:
        return Job(url, {})

    follow_job(begin, patience, as_json=as_json)


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

    A status that asks for a token, such as that of a team's operation, cannot be watched so: use gateway start.
    """
    from gateway.cli.arguments import operator_key, origin, parsed, printable
    from gateway.cli.calls import call
    from gateway.cli.follow import Job, LostError
    from gateway.cli.job import at_gateway, follow_job

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
        return at_gateway(where, job)

    interrupted = "Interrupted before the gateway answered: it may watch the copy already."
    follow_job(begin, patience, as_json=as_json, interrupted=interrupted)


@app.command(cls=TakesIds, epilog="Exit status: 0 it was handed in, 2 wrong use or refused, 3 gateway unreachable.")
def token(
    *,
    job: JobArgument,
    gateway: GatewayOption = DEFAULT_URL,
    token_file: TokenOption = None,
    job_key_file: JobKeyOption = None,
    operator_key_file: OperatorKeyOption = None,
) -> None:
    """Hand in a fresh token for a job that waits for one. The trouble of such a job is tokenRequired.

    GRAPH_TOKEN=… GATEWAY_JOB_KEY=… gateway token http://127.0.0.1:8000/jobs/…
    """
    from gateway.cli.arguments import job_url, parsed, secret
    from gateway.cli.job import change

    url = parsed(lambda text: job_url(text, gateway), job, "JOB")
    body = {"token": secret(token_file, "GRAPH_TOKEN", "--token-file")}
    told = (
        f"The gateway asks for the status of {url} under this token from now on. If the job still waits in a minute, "
        "Graph refuses this token too."
    )
    change(url, "PUT", "/token", body, job_key_file, operator_key_file, told)


@app.command(cls=TakesIds, epilog="Exit status: 0 it is not watched any more, 2 wrong use or refused, 3 unreachable.")
def stop(
    *,
    job: JobArgument,
    gateway: GatewayOption = DEFAULT_URL,
    job_key_file: JobKeyOption = None,
    operator_key_file: OperatorKeyOption = None,
) -> None:
    """Stop watching a job. What was started goes on: Graph cannot cancel it. A job that has ended stays as it is."""
    from gateway.cli.arguments import job_url, parsed
    from gateway.cli.job import change

    url = parsed(lambda text: job_url(text, gateway), job, "JOB")
    told = f"The gateway does not watch {url} any more. What was started may go on upstream."
    change(url, "DELETE", "", None, job_key_file, operator_key_file, told)


@app.command(
    cls=TakesIds,
    epilog="Exit status: 0 every event was delivered, 1 one was not accepted, 2 wrong use or refused, 3 lost "
    "track of a job, 130 interrupted.",
)
def listen(
    *,
    jobs: Annotated[list[str], typer.Argument(metavar="JOB…", help="The jobs' URLs, or ids.")],
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
