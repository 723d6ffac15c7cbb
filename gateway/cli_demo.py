"""The demo: a simulated upstream and receiver in this process, a real gateway beside them, one copy, and its stream."""

from __future__ import annotations

import codecs
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import aiohttp
import anyio
from yarl import URL

import gateway
from gateway.cli_display import command, ending, say
from gateway.cli_follow import LostError, RefusedError, Tail, broken, start, told, verdict
from gateway.signing import new_secret
from gateway.simulator import Receiver, Simulator, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from anyio.abc import Process

AUTHORIZED = {"Authorization": "Bearer demo"}  # any token will do for the simulator
ITEM = "/v1.0/me/drive/items/01MOWKYVLARGEFOLDER1"
BODY = {"parentReference": {"driveId": "b!personal", "id": "01MOWKYVDOCUMENTS"}, "name": "Copy of LargeFolder1"}
PREFERRED_PORT = 8000
STEPS = 20
START = 20.0  # seconds for the gateway to answer
STOP = 15.0  # … and to end
CALLBACK = 10.0  # … and to call back
INTERRUPTED = 130


async def demonstrate(once: bool, seconds: float) -> int:
    """The exit status: 0 when the copy was shown to its end, 130 when a signal came before that."""
    status = INTERRUPTED
    failure: Exception | None = None

    def ended() -> None:
        nonlocal status
        status = 0

    async def stage() -> None:
        nonlocal failure
        try:
            await _play(once, seconds, ended)
        except (LostError, RefusedError, OSError) as error:
            failure = error
        everything.cancel_scope.cancel()

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as everything:
            everything.start_soon(stage)
            async for _ in signals:
                break
            everything.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return status


async def _play(once: bool, seconds: float, ended: Callable[[], None]) -> None:
    async with AsyncExitStack() as opened:
        folder = opened.enter_context(TemporaryDirectory(prefix="gateway-demo-"))
        session = await opened.enter_async_context(aiohttp.ClientSession())
        receiver = Receiver()
        simulator = await opened.enter_async_context(
            running(Simulator(seconds=seconds, steps=STEPS, receiver=receiver))
        )
        operator_key = secrets.token_urlsafe(18)
        environment = _environment(Path(folder), simulator.url, operator_key)
        url = f"http://127.0.0.1:{environment['GATEWAY_PORT']}"
        process = await opened.enter_async_context(_serving(environment, Path(folder) / "gateway.log"))
        with _log_on_failure(Path(folder) / "gateway.log"):
            await _answering(session, url, process)
            _print(f"The simulated Microsoft Graph: {simulator.url}", f"The gateway:                   {url}")
            job = await _show(session, url, f"{simulator.url}/receiver", operator_key, receiver)
            ended()
            if not once:
                _say_what_next(url, job, simulator.url, operator_key)
                raise LostError(f"the gateway ended by itself, with {await process.wait()}")


async def _show(
    session: aiohttp.ClientSession, url: str, receiver_url: str, operator_key: str, receiver: Receiver
) -> str:
    """One copy as curl would see it: started, followed, called back, read. Returns the job's URL."""
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
    _print("", "Instead of polling, listen:", "", f"$ curl -N {job}/events")
    text = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def as_it_comes(chunk: bytes) -> None:
        sys.stdout.write(text.decode(chunk))
        sys.stdout.flush()

    state = await Tail(session, job, patience=10, show=lambda _: None, notice=say, raw=as_it_comes).ended()
    resource = state.get("resource")
    if verdict(state) != 0 or not isinstance(resource, str):
        raise LostError(ending(state))
    await _called_back(receiver)
    _print("The last step of the flow reads the new item:", "")
    _print(
        f"$ curl {shlex.quote(url + resource)} -H 'Authorization: Bearer demo'", await _item(session, url + resource)
    )
    return job


async def _register(
    session: aiohttp.ClientSession, job: str, receiver_url: str, operator_key: str, receiver: Receiver
) -> None:
    wish = {"url": receiver_url, "secret": new_secret()}
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
                raise LostError(f"the callback was not registered: {told(response, body)}")
    except aiohttp.ClientError as error:
        raise LostError(f"the callback was not registered: {broken(error)}") from None
    _print("201 Created")


async def _called_back(receiver: Receiver) -> None:
    with anyio.move_on_after(CALLBACK):
        while not receiver.received:  # noqa: ASYNC110 - it keeps what comes, and wakes nobody
            await anyio.sleep(0.02)
    if not receiver.received:
        raise LostError(f"no callback came within {CALLBACK:g} s")
    shown = receiver.shown(receiver.received[-1])
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
                raise LostError(f"the new item cannot be read: {told(response, body)}")
            return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except aiohttp.ClientError as error:
        raise LostError(f"the new item cannot be read: {broken(error)}") from None


def _say_what_next(url: str, job: str, simulator: str, operator_key: str) -> None:
    copy = f"{command()} copy --to /Documents"
    _print(
        "",
        "Both stay open until Ctrl-C. What to try next, in another terminal:",
        "",
        f"  the page for people     {url}/",
        f"  the stream from event 3 curl -N -H 'Last-Event-ID: 3' {job}/events",
        f"  all jobs                curl -H 'Authorization: Bearer {operator_key}' {url}/jobs",
        f"  the simulated scenarios curl {simulator}/",
        f"  what was called back    curl {simulator}/receiver",
        "",
        f"  export GRAPH_TOKEN=demo GATEWAY_URL={url}",
        f"  a copy with a bar       {copy} rich",
        f"  one that fails          {copy} failed",
        f"  one that is throttled   {copy} retry-after",
    )


@asynccontextmanager
async def _serving(environment: dict[str, str], log: Path) -> AsyncIterator[Process]:
    """The gateway as a process in a session of its own: it ends when it is told to, not by the same Ctrl-C."""
    with log.open("wb") as written:
        process = await anyio.open_process(
            [sys.executable, "-m", "gateway", "serve"],
            cwd=Path(gateway.__file__).parent.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                process.terminate()
            with anyio.move_on_after(STOP) as waiting:
                await process.wait()
            if waiting.cancelled_caught:
                process.kill()
            await process.aclose()


async def _answering(session: aiohttp.ClientSession, url: str, process: Process) -> None:
    with anyio.move_on_after(START):
        while process.returncode is None:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{url}/readyz") as response:
                    if response.status == 200:
                        return
            await anyio.sleep(0.05)
        raise LostError(f"the gateway ended with {process.returncode}")
    raise LostError(f"the gateway did not answer within {START:g} s")


def _environment(folder: Path, upstream: str, operator_key: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | {
        "GATEWAY_UPSTREAM_URL": upstream,
        "GATEWAY_STORE_URL": f"sqlite:///{folder / 'demo.db'}",
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(_free_port()),
        "GATEWAY_OPERATOR_KEY": operator_key,
        "GATEWAY_CALLBACK_ALLOW": "127.0.0.1/32",
    }


def _free_port() -> int:
    for port in (PREFERRED_PORT, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return int(found.getsockname()[1])
    raise LostError("no port is free on 127.0.0.1")


@contextmanager
def _log_on_failure(log: Path) -> Iterator[None]:
    """What the gateway last said, before its log goes with the folder."""
    try:
        yield
    except LostError:
        for line in log.read_text(errors="replace").splitlines()[-10:]:
            say(line)
        raise


def _print(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)
