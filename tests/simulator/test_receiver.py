"""The simulator's receiver: what it shows, and how it misbehaves when it is asked to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from standardwebhooks import Webhook

from gateway.core.keys import new_webhook_secret, webhook_headers
from gateway.simulator import Receiver, Simulator, running
from tests.support import node
from tests.support.harness import COPY_BODY, FOLDER, OPERATOR, TOKEN, Process, lines_of_the_readme, serving, tail

BODY = b'{"type":"job.completed","timestamp":"2026-01-01T00:00:00.000Z","data":{"status":"completed"}}'
SECRET = new_webhook_secret()
UNKNOWN = "cannot be checked: the secret is unknown, send it with PUT to /receiver/secrets"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with running(Simulator(receiver=Receiver(), seconds=0.3)) as simulator:
        yield simulator


async def post(
    client: aiohttp.ClientSession, simulator: Simulator, query: str = "", *, message: str = "msg_1", **changes: str
) -> aiohttp.ClientResponse:
    """The answer, read to its end."""
    headers = webhook_headers(SECRET, message, int(time.time()), BODY)
    url = f"{simulator.url}/receiver{query}"
    async with client.post(url, data=BODY, headers={**headers, **changes}, allow_redirects=False) as response:
        await response.read()
        return response


async def received(client: aiohttp.ClientSession, simulator: Simulator) -> list[dict[str, Any]]:
    async with client.get(f"{simulator.url}/receiver") as response:
        found: list[dict[str, Any]] = (await response.json())["received"]
        return found


async def test_what_came_and_whether_it_is_signed(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """By any secret it was told; each double is known as one; DELETE forgets."""
    await post(client, simulator)
    (first,) = await received(client, simulator)
    assert first["signature"] == UNKNOWN
    for secret in (new_webhook_secret(), SECRET):
        async with client.put(f"{simulator.url}/receiver/secrets", data=secret) as response:
            assert response.status == 204
    await post(client, simulator)
    await post(client, simulator, message="msg_2", **{"webhook-signature": "v1,AAAA"})
    await post(client, simulator, message="msg_3", **{"webhook-timestamp": "1000000000"})
    await post(client, simulator, message="msg_4", **{"webhook-signature": ""})
    shown = await received(client, simulator)
    assert [one["signature"] for one in shown] == [
        "holds",
        "holds",
        "is wrong",
        "is too old or too new",
        "is missing",
    ]
    assert [one["repeated"] for one in shown] == [False, True, False, False, False]
    assert shown[0]["message"] == json.loads(BODY)
    async with client.delete(f"{simulator.url}/receiver") as response:
        assert response.status == 204
    assert await received(client, simulator) == []


async def test_an_unknown_secret_and_a_wrong_signature(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """A callback of which no message was ever signed with a known secret has another one, which can be taught."""
    assert simulator.receiver is not None
    simulator.receiver.learn(SECRET)
    theirs = new_webhook_secret()
    await post(client, simulator, message="msg_mine_1")
    for message, secret in (("msg_theirs_1", theirs), ("msg_mine_2", theirs)):
        signed = webhook_headers(secret, message, int(time.time()), BODY)
        await post(client, simulator, message=message, **signed)
    await post(client, simulator, message="msg_theirs_2", **{"webhook-signature": "v1,AAAA"})
    assert [one["signature"] for one in await received(client, simulator)] == ["holds", UNKNOWN, "is wrong", "is wrong"]
    async with client.put(f"{simulator.url}/receiver/secrets", data=theirs) as response:
        assert response.status == 204
    assert [one["signature"] for one in await received(client, simulator)] == ["holds", "holds", "holds", "is wrong"]


@pytest.mark.parametrize(
    ("query", "codes", "headers"),
    [
        ("", [204, 204], {}),
        ("?fail=500", [500, 500], {}),
        ("?fail=500&times=1", [500, 204], {}),
        ("?throttle=7", [429], {"Retry-After": "7"}),
        ("?unavailable=7", [503], {"Retry-After": "7"}),
        ("?redirect", [307], {"Location": "/receiver?redirected"}),
        ("?gone", [410], {}),
        ("?large", [200], {"Content-Length": str(1 << 20)}),
        ("?fail=200", [400], {}),
        ("?fail", [400], {}),
        ("?throttle=soon", [400], {}),
        ("?gone&times=x", [400], {}),
        ("?unheard-of", [400], {}),
    ],
)
async def test_it_answers_as_its_url_says(
    simulator: Simulator, client: aiohttp.ClientSession, query: str, codes: list[int], headers: dict[str, str]
) -> None:
    """What it cannot mean is a 400 that says so."""
    answers = [await post(client, simulator, query) for _ in codes]
    assert [answer.status for answer in answers] == codes
    assert headers.items() <= dict(answers[0].headers).items()


async def test_it_breaks_off_or_never_answers(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """Both are on record, as not answered."""
    with pytest.raises(aiohttp.ClientError):
        await post(client, simulator, "?drop")
    with anyio.move_on_after(0.2) as waited:
        await post(client, simulator, "?hang")
    assert waited.cancelled_caught
    async with client.post(f"{simulator.url}/receiver?drip", data=BODY) as response:
        assert await response.content.readany() == b"."
    assert [one["answered"] for one in await received(client, simulator)] == [None, None, 200]


async def test_what_is_not_there(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """No such page, no such method, no secret; and without a receiver there is none."""
    for method, path, code in (
        ("GET", "/receiver/x", 404),
        ("PATCH", "/receiver", 405),
        ("PUT", "/receiver/secrets", 400),
    ):
        async with client.request(method, simulator.url + path, data="no secret") as response:
            assert response.status == code
    async with running(Simulator()) as alone, client.post(f"{alone.url}/receiver") as response:
        assert response.status == 404
    async with client.get(simulator.url) as response:
        assert "?unavailable=2" in await response.text()


async def test_the_command_shows_what_comes(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    """With the gateway and the callback that its first lines tell to try."""
    command = [sys.executable, "-u", "-m", "gateway", "simulate", "--port", "0", "--receiver", "--seconds", "0.3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - read in a thread
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5)]
        url = next(word for word in said[0].split() if word.startswith("http"))
        assert "GATEWAY_CALLBACK_ALLOW=127.0.0.1/32" in said[1]
        wish = json.loads(said[2].partition("-d '")[2].rstrip("'\n"))
        async with Process(url, tmp_path, callback_allow="127.0.0.1/32") as gateway:
            async with client.post(f"{gateway.url}{FOLDER}/copy", json=COPY_BODY, headers=TOKEN) as response:
                job = await response.json()
            key = {"Authorization": f"Bearer {job['jobKey']}"}
            async with client.post(f"{gateway.url}/jobs/{job['jobId']}/callbacks", json=wish, headers=key) as response:
                assert response.status == 201
            line = await anyio.to_thread.run_sync(process.stdout.readline)
        assert line.startswith("job.completed (msg_")
        assert line.endswith("its signature holds; answered 204\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


async def test_the_command_takes_a_secret(client: aiohttp.ClientSession) -> None:
    """It verifies with it, and does not print it."""
    command = [sys.executable, "-u", "-m", "gateway", "simulate", "--port", "0", "--receiver"]
    environment = {**os.environ, "GATEWAY_WEBHOOK_SECRET": SECRET}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:  # noqa: ASYNC220 - as above
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5)]
        url = next(word for word in said[0].split() if word.startswith("http"))
        headers = webhook_headers(SECRET, "msg_1", int(time.time()), BODY)
        async with client.post(f"{url}/receiver", data=BODY, headers=headers) as response:
            assert response.status == 204
        line = await anyio.to_thread.run_sync(process.stdout.readline)
        assert line == "job.completed (msg_1): its signature holds; answered 204\n"
        assert SECRET not in "".join(said)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


async def test_the_three_lines_of_the_readme(simulator: Simulator, tmp_path: Path, capsys: Any) -> None:
    """In Python and in Node, on a message that really came."""
    assert simulator.receiver is not None
    async with serving(simulator.url, tmp_path, callback_allow="127.0.0.1/32") as gateway:
        job = await gateway.copy()
        wish = {"url": f"{simulator.url}/receiver", "secret": SECRET}
        async with gateway.session.post(
            f"{gateway.url}/jobs/{job['jobId']}/callbacks", json=wish, headers=OPERATOR
        ) as response:
            assert response.status == 201
        await tail(gateway.session, job["events"])
        with anyio.fail_after(5):
            while not simulator.receiver.received:  # noqa: ASYNC110 - it keeps what comes, and wakes nobody
                await anyio.sleep(0.01)
    (one,) = simulator.receiver.received
    headers = {
        "webhook-id": one.message_id,
        "webhook-timestamp": one.timestamp,
        "webhook-signature": one.signatures,
    }
    capsys.readouterr()
    names = {"standardwebhooks": sys.modules[Webhook.__module__.partition(".")[0]], "secret": SECRET, "seen": set()}
    exec(lines_of_the_readme("message = standardwebhooks"), {**names, "body": one.body, "headers": headers})  # noqa: S102
    assert capsys.readouterr().out == "job.completed completed\n"
    script = (
        'import { Webhook } from "standardwebhooks";\n'
        f"const secret = {json.dumps(SECRET)}, body = {json.dumps(one.body.decode())};\n"
        f"const headers = {json.dumps(headers)}, seen = new Set();\n"
        + lines_of_the_readme("const message = new Webhook")
    )
    ended = await anyio.run_process(node.running(script), cwd=node.FOLDER)
    assert ended.stdout == b"job.completed completed\n"
