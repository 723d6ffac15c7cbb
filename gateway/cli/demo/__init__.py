"""The demo: a simulated upstream and a receiver in this process, real gateways as child processes, and one copy."""

from __future__ import annotations

import codecs
import json
import secrets
import shlex
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import aiohttp
import anyio
from yarl import URL

from gateway.cli.arguments import command
from gateway.cli.demo.gateways import Gateways, serving
from gateway.cli.demo.postgres import HOST
from gateway.cli.display import ending, percentage, stderr_line
from gateway.cli.follow import ENDED, LostError, State, Tail, answer_text, broken, verdict
from gateway.cli.run import INTERRUPTED, until_interrupted
from gateway.cli.start import start
from gateway.core.keys import new_webhook_secret
from gateway.simulator import Receiver, Simulator, running

if TYPE_CHECKING:
    from collections.abc import Callable

AUTHORIZED = {"Authorization": "Bearer demo"}  # the simulator accepts any token
ITEM = "/v1.0/me/drive/items/01MOWKYVLARGEFOLDER1"
BODY = {"parentReference": {"driveId": "b!personal", "id": "01MOWKYVDOCUMENTS"}, "name": "Copy of LargeFolder1"}
STEPS = 20
SECONDS = 8.0
SECONDS_REPLICAS = 12.0  # some of them pass between the kill and the next event
CALLBACK = 10.0  # seconds for the callback to arrive
HALF = 50.0


async def demonstrate(once: bool, seconds: float | None, replicas: int) -> int:
    """Run the demo and return the exit status: 0 after the end of the copy, 130 when a signal arrived before it.

    With several `replicas`, one of them is killed during the copy. Raises LostError and RefusedError.
    """
    status = INTERRUPTED

    def ended() -> None:
        nonlocal status
        status = 0

    await until_interrupted(lambda: _play(once, seconds, replicas, ended))
    return status


async def _play(once: bool, seconds: float | None, replicas: int, ended: Callable[[], None]) -> None:
    if seconds is None:
        seconds = SECONDS if replicas == 1 else SECONDS_REPLICAS
    async with AsyncExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory(prefix="gateway-demo-")))
        # One session, which keeps its connection: the worker that starts and polls the copy also serves the stream.
        session = await opened.enter_async_context(aiohttp.ClientSession())
        receiver = Receiver()
        simulator = await opened.enter_async_context(
            running(Simulator(seconds=seconds, steps=STEPS, receiver=receiver))
        )
        operator_key = secrets.token_urlsafe(18)
        settings = _settings(simulator.url, operator_key)
        gateways = await opened.enter_async_context(serving(replicas, folder, settings, session))
        _print_addresses(simulator.url, gateways)
        job = await _show(gateways, session, f"{simulator.url}/receiver", operator_key, receiver)
        ended()
        if not once:
            _print_next_steps(gateways, job, simulator.url, operator_key)
            raise LostError(await gateways.ended())


async def _show(
    gateways: Gateways, session: aiohttp.ClientSession, receiver_url: str, operator_key: str, receiver: Receiver
) -> str:
    """Show one copy as curl commands and responses: POST, callback, stream, new item. Returns the job's URL."""
    url = gateways.url
    data = json.dumps(BODY, separators=(",", ":"))
    _print(
        "",
        "Start a copy with the same request as to Graph:",
        "",
        f"$ curl -i -X POST {url}{ITEM}/copy \\",
        "    -H 'Authorization: Bearer demo' -H 'Content-Type: application/json' \\",
        f"    -d '{data}'",
    )
    token = AUTHORIZED["Authorization"].split()[1]
    job, _ = await start(session, "POST", f"{url}{ITEM}/copy", data.encode(), token, patience=10)
    _print("202 Accepted", f"Location: {job}")
    await _register(session, job, receiver_url, operator_key, receiver)
    _print("", f"In a browser: {_page(url, job)}")
    _print("", "Instead of polling, read the event stream:", "", f"$ curl -N {job}/events")
    state = await _follow(gateways, session, job)
    resource = state.get("resource")
    if verdict(state) != 0 or not isinstance(resource, str):
        raise LostError(ending(state))
    if gateways.killed:
        await gateways.answering(session)
        _print(f"({gateways.killed} runs again: serve --workers has restarted it)", "")
    elif gateways.database:
        stderr_line("the copy ended before a gateway could be killed; choose a longer copy with --seconds")
    await _called_back(receiver)
    _print("The last step reads the new item:", "")
    _print(
        f"$ curl {shlex.quote(url + resource)} -H 'Authorization: Bearer demo'", await _item(session, url + resource)
    )
    return job


async def _follow(gateways: Gateways, session: aiohttp.ClientSession, job: str) -> State:
    """Print the raw stream from its first event to its last, and kill one of several gateways in the middle."""
    text = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def print_raw(chunk: bytes) -> None:
        sys.stdout.write(text.decode(chunk))
        sys.stdout.flush()

    def kill_in_the_middle(state: State) -> None:
        due = percentage(state) >= HALF and state.get("status") not in ENDED
        if gateways.workers and not gateways.killed and due:
            killed = gateways.kill_server_of_stream()
            if killed:
                _print(f"({killed}, was killed; the client resumes the stream with its last event id)", "")

    return await Tail(session, job, patience=10, show=kill_in_the_middle, notice=stderr_line, raw=print_raw).ended()


async def _register(
    session: aiohttp.ClientSession, job: str, receiver_url: str, operator_key: str, receiver: Receiver
) -> None:
    registration = {"url": receiver_url, "secret": new_webhook_secret()}
    receiver.learn(registration["secret"])
    _print(
        "",
        "Register a callback (webhook) for a back end:",
        "",
        f"$ curl -X POST {job}/callbacks -H 'Authorization: Bearer {operator_key}' \\",
        f"    -d '{json.dumps(registration, separators=(',', ':'))}'",
    )
    headers = {"Authorization": f"Bearer {operator_key}"}
    try:
        async with session.post(URL(f"{job}/callbacks", encoded=True), json=registration, headers=headers) as response:
            body = await response.read()
            if response.status != 201:
                raise LostError(f"the callback was not registered: {answer_text(response, body)}")
    except aiohttp.ClientError as error:
        raise LostError(f"the callback was not registered: {broken(error)}") from None
    _print("201 Created")


async def _called_back(receiver: Receiver) -> None:
    with anyio.move_on_after(CALLBACK):
        while not receiver.received:  # noqa: ASYNC110 - the receiver has no event to wait for
            await anyio.sleep(0.02)
    if not receiver.received:
        raise LostError(f"no callback arrived within {CALLBACK:g} s")
    shown = receiver.as_json(receiver.received[-1])
    if shown["signature"] != "holds":
        raise LostError(f"the callback's signature {shown['signature']}")
    _print(
        f"The receiver got {shown['message']['type']} as {shown['webhook-id']}; its signature holds.",
        "",
    )


async def _item(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(URL(url, encoded=True), headers=AUTHORIZED) as response:
            body = await response.read()
            if response.status != 200:
                raise LostError(f"the new item cannot be read: {answer_text(response, body)}")
            return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except aiohttp.ClientError as error:
        raise LostError(f"the new item cannot be read: {broken(error)}") from None


def _print_addresses(simulator: str, gateways: Gateways) -> None:
    _print(f"The simulated Microsoft Graph: {simulator}")
    if gateways.database:
        _print(f"PostgreSQL:                    {gateways.database}")
    _print(*(f"{f'{name.capitalize()}:':<30} {url}" for name, url in gateways.urls.items()))
    if gateways.database:
        _print(f"Shared port:                   {gateways.url}")


def _print_next_steps(gateways: Gateways, job: str, simulator: str, operator_key: str) -> None:
    url = gateways.url
    copy = f"{command()} copy --to /Documents"
    _print(
        "",
        f"{'All' if gateways.database else 'Both'} keep running until Ctrl-C. Try next, in another terminal:",
        "",
        f"  the web page            {_page(url, job)}",
        f"  all jobs, live          GATEWAY_OPERATOR_KEY={operator_key} {command()} jobs --gateway {url}",
        f"  the stream from event 3 curl -N -H 'Last-Event-ID: 3' {job}/events",
        f"  all jobs, as JSON       curl -H 'Authorization: Bearer {operator_key}' {url}/jobs",
        f"  the simulated scenarios curl {simulator}/",
        f"  the received callbacks  curl {simulator}/receiver",
    )
    for name, worker in list(gateways.workers.items())[-1:]:
        _print(
            f"  one gateway's metrics   curl {gateways.urls[name]}/metrics",
            f"  kill one; it restarts   kill -9 {worker.pid}  # {name}",
        )
    _print(
        "",
        f"  export GRAPH_TOKEN=demo GATEWAY_URL={url}",
        f"  a progress bar          {copy} rich",
        f"  a copy that fails       {copy} failed",
        f"  a throttled copy        {copy} retry-after",
        f"  another operation       {command()} start POST me/onenote/notebooks/1-2/copyNotebook",
    )


def _page(url: str, job: str) -> str:
    """Return the URL of the web page that shows a job."""
    return f"{url}/#{job.rpartition('/')[2]}"


def _settings(upstream: str, operator_key: str) -> dict[str, str]:
    return {
        "GATEWAY_UPSTREAM_URL": upstream,
        "GATEWAY_HOST": HOST,
        "GATEWAY_OPERATOR_KEY": operator_key,
        "GATEWAY_CALLBACK_ALLOW": "127.0.0.1/32",
    }


def _print(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)
