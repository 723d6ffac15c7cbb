"""The demo: a simulated upstream and receiver in this process, real gateways beside them, one copy, and its stream."""

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
from gateway.cli.follow import ENDED, LostError, State, Tail, answer_text, broken, start, verdict
from gateway.cli.run import INTERRUPTED, until_interrupted
from gateway.core.keys import new_webhook_secret
from gateway.simulator import Receiver, Simulator, running

if TYPE_CHECKING:
    from collections.abc import Callable

AUTHORIZED = {"Authorization": "Bearer demo"}  # any token will do for the simulator
ITEM = "/v1.0/me/drive/items/01MOWKYVLARGEFOLDER1"
BODY = {"parentReference": {"driveId": "b!personal", "id": "01MOWKYVDOCUMENTS"}, "name": "Copy of LargeFolder1"}
STEPS = 20
SECONDS = 8.0
SECONDS_REPLICAS = 12.0  # of which some pass between a kill and what comes after it
CALLBACK = 10.0  # seconds for the gateway to call back
HALF = 50.0


async def demonstrate(once: bool, seconds: float | None, replicas: int) -> int:
    """The exit status: 0 when the copy was shown to its end, 130 when a signal came before that.

    With several `replicas`, one of them is killed in the middle.
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
        # It keeps its connection, by which the worker that takes the copy, and so polls it, serves the stream as well.
        session = await opened.enter_async_context(aiohttp.ClientSession())
        receiver = Receiver()
        simulator = await opened.enter_async_context(
            running(Simulator(seconds=seconds, steps=STEPS, receiver=receiver))
        )
        operator_key = secrets.token_urlsafe(18)
        given = _settings(simulator.url, operator_key)
        gateways = await opened.enter_async_context(serving(replicas, folder, given, session))
        _say_who_is_there(simulator.url, gateways)
        job = await _show(gateways, session, f"{simulator.url}/receiver", operator_key, receiver)
        ended()
        if not once:
            _say_what_next(gateways, job, simulator.url, operator_key)
            raise LostError(await gateways.ended())


async def _show(
    gateways: Gateways, session: aiohttp.ClientSession, receiver_url: str, operator_key: str, receiver: Receiver
) -> str:
    """One copy as curl would see it: started, followed, called back, read. Returns the job's URL."""
    url = gateways.url
    data = json.dumps(BODY, separators=(",", ":"))
    _print(
        "",
        "A copy is started as with Graph itself:",
        "",
        f"$ curl -i -X POST {url}{ITEM}/copy \\",
        "    -H 'Authorization: Bearer demo' -H 'Content-Type: application/json' \\",
        f"    -d '{data}'",
    )
    job = await start(session, f"{url}{ITEM}/copy", BODY, AUTHORIZED["Authorization"].split()[1], patience=10)
    _print("202 Accepted", f"Location: {job}")
    await _register(session, job, receiver_url, operator_key, receiver)
    _print("", f"In a browser: {_page(url, job)}")
    _print("", "Instead of polling, listen:", "", f"$ curl -N {job}/events")
    state = await _follow(gateways, session, job)
    resource = state.get("resource")
    if verdict(state) != 0 or not isinstance(resource, str):
        raise LostError(ending(state))
    if gateways.killed:
        await gateways.answering(session)
        _print(f"({gateways.killed} runs again: serve --workers has started it anew)", "")
    elif gateways.database:
        stderr_line("the copy ended before a gateway could be killed in its middle; give it longer with --seconds")
    await _called_back(receiver)
    _print("The last step of the flow reads the new item:", "")
    _print(
        f"$ curl {shlex.quote(url + resource)} -H 'Authorization: Bearer demo'", await _item(session, url + resource)
    )
    return job


async def _follow(gateways: Gateways, session: aiohttp.ClientSession, job: str) -> State:
    """Show the stream as it comes, from its first event to its last, and kill a gateway of several in the middle."""
    text = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def as_it_comes(chunk: bytes) -> None:
        sys.stdout.write(text.decode(chunk))
        sys.stdout.flush()

    def kill_in_the_middle(state: State) -> None:
        if not gateways.killed and percentage(state) >= HALF and state.get("status") not in ENDED:
            killed = gateways.kill_server_of_stream()
            if killed:
                _print(f"({killed}, was killed; the stream is opened again with its last id)", "")

    return await Tail(session, job, patience=10, show=kill_in_the_middle, notice=stderr_line, raw=as_it_comes).ended()


async def _register(
    session: aiohttp.ClientSession, job: str, receiver_url: str, operator_key: str, receiver: Receiver
) -> None:
    wish = {"url": receiver_url, "secret": new_webhook_secret()}
    receiver.learn(wish["secret"])
    _print(
        "",
        "A back end would rather be called when it has ended:",
        "",
        f"$ curl -X POST {job}/callbacks -H 'Authorization: Bearer {operator_key}' \\",
        f"    -d '{json.dumps(wish, separators=(',', ':'))}'",
    )
    headers = {"Authorization": f"Bearer {operator_key}"}
    try:
        async with session.post(URL(f"{job}/callbacks", encoded=True), json=wish, headers=headers) as response:
            body = await response.read()
            if response.status != 201:
                raise LostError(f"the callback was not registered: {answer_text(response, body)}")
    except aiohttp.ClientError as error:
        raise LostError(f"the callback was not registered: {broken(error)}") from None
    _print("201 Created")


async def _called_back(receiver: Receiver) -> None:
    with anyio.move_on_after(CALLBACK):
        while not receiver.received:  # noqa: ASYNC110 - it keeps what comes, and wakes nobody
            await anyio.sleep(0.02)
    if not receiver.received:
        raise LostError(f"no callback came within {CALLBACK:g} s")
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


def _say_who_is_there(simulator: str, gateways: Gateways) -> None:
    _print(f"The simulated Microsoft Graph: {simulator}")
    if gateways.database:
        _print(f"PostgreSQL:                    {gateways.database}")
    _print(*(f"{f'{name.capitalize()}:':<30} {url}" for name, url in gateways.urls.items()))
    if gateways.database:
        _print(f"The port they share:           {gateways.url}")


def _say_what_next(gateways: Gateways, job: str, simulator: str, operator_key: str) -> None:
    url = gateways.url
    copy = f"{command()} copy --to /Documents"
    _print(
        "",
        f"{'All' if gateways.database else 'Both'} stay open until Ctrl-C. What to try next, in another terminal:",
        "",
        f"  the page for people     {_page(url, job)}",
        f"  all jobs, live          GATEWAY_OPERATOR_KEY={operator_key} {command()} jobs --gateway {url}",
        f"  the stream from event 3 curl -N -H 'Last-Event-ID: 3' {job}/events",
        f"  the same as JSON        curl -H 'Authorization: Bearer {operator_key}' {url}/jobs",
        f"  the simulated scenarios curl {simulator}/",
        f"  what was called back    curl {simulator}/receiver",
    )
    for name, worker in list(gateways.workers.items())[-1:]:
        _print(
            f"  one gateway's metrics   curl {gateways.urls[name]}/metrics",
            f"  one killed, and back    kill -9 {worker.pid}  # {name}",
        )
    _print(
        "",
        f"  export GRAPH_TOKEN=demo GATEWAY_URL={url}",
        f"  a copy with a bar       {copy} rich",
        f"  one that fails          {copy} failed",
        f"  one that is throttled   {copy} retry-after",
    )


def _page(url: str, job: str) -> str:
    """The page for people, at a job."""
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
