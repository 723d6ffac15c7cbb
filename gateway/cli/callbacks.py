"""`gateway callbacks`: a job's callbacks (webhooks), their last attempts, and another try."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gateway.cli.arguments import DEFAULT_URL
from gateway.cli.options import GatewayOption, JobArgument, JobKeyOption, JsonOption, OperatorKeyOption, TakesIds

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=TakesIds, epilog="Exit status: 0 done, 2 wrong use or refused, 3 gateway unreachable.")
def callbacks(
    *,
    job: JobArgument,
    action: Annotated[
        Literal["retry"] | None,
        typer.Argument(metavar="retry", help="Deliver what is not delivered now, on a new retry schedule."),
    ] = None,
    callback: Annotated[str | None, typer.Argument(metavar="ID", help="The callback to retry.")] = None,
    as_json: JsonOption = False,
    gateway: GatewayOption = DEFAULT_URL,
    job_key_file: JobKeyOption = None,
    operator_key_file: OperatorKeyOption = None,
) -> None:
    """Show a job's callbacks (webhooks), or retry one of them.

    Each is shown with its last attempts.

    GATEWAY_JOB_KEY=… gateway callbacks JOB retry ID
    """
    import aiohttp

    from gateway.cli.arguments import job_key, job_url, parsed
    from gateway.cli.calls import call
    from gateway.cli.display import stderr_line
    from gateway.cli.follow import RefusedError
    from gateway.cli.run import exit_status, until_done

    url = f"{parsed(lambda text: job_url(text, gateway), job, 'JOB')}/callbacks"
    if action is not None and callback is None:
        raise typer.BadParameter("name the callback to retry; gateway callbacks JOB lists them", param_hint="ID")
    if callback is not None:
        url += f"/{parsed(_id, callback, 'ID')}/retry"
    key = job_key(job_key_file, operator_key_file)

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            _headers, answer = await call(session, "GET" if callback is None else "POST", url, key)
        listed = answer.get("value") if callback is None else [answer]
        if not isinstance(listed, list):
            raise RefusedError(f"{url} does not seem to be a gateway's: it answered without a list")
        for found in listed:
            print(json.dumps(found) if as_json else "\n".join(described(found)))
        if not listed:
            stderr_line("this job has no callbacks")

    raise typer.Exit(exit_status(lambda: until_done(run)))


def described(callback: dict[str, Any]) -> Iterator[str]:
    """Yield the lines for one callback: its state, what follows, and its attempts, the oldest first."""
    from gateway.cli.display import clean

    attempts = callback.get("attempts", 0)
    counted = f"{attempts} attempt{'' if attempts == 1 else 's'}"
    events = ", ".join(callback.get("events", []))
    yield clean(f"{callback.get('id')}  {callback.get('state'):<9}  {counted}  {callback.get('url')}  {events}")
    if "lastError" in callback:
        due = f"; next attempt at {callback['nextAttemptAt']}" if "nextAttemptAt" in callback else ""
        yield clean(f"  last error: {callback['lastError']}{due}")
    for attempt in callback.get("history", []):
        result = attempt.get("status", attempt.get("error"))
        yield clean(f"  {attempt.get('at')}  {result}  {attempt.get('durationMs')} ms")


def _id(text: str) -> str:
    if not re.fullmatch(r"[\w-]+", text, re.ASCII):
        raise ValueError("is not a callback's id; gateway callbacks JOB lists them")
    return text
