"""What arrives at a receiver, held against the libraries of Standard Webhooks for Python and for Node."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
import standardwebhooks
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.simulator import Simulator
from gateway.simulator import running as simulating
from tests.support import node
from tests.support.callers import calling
from tests.support.fake_receiver import ALLOWED, SECRET, Post, in_turn, receiving, saying
from tests.support.fake_upstream import faking
from tests.support.harness import Process, lines_of_the_readme, tail

ALL = ["progress", "completed", "failed"]
TEXTS = ["Größe 12 %", "コピー中 🚚", 'a "quote", a \\ and </script>', "line\u2028separator", "100 %"]
"""Where JSON's writers differ, and where bytes and characters do."""

NODE_VERIFIER = """
import { text } from "node:stream/consumers";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const messages = [], refused = [];
for (const { secret, headers, body } of JSON.parse(await text(process.stdin))) {
  const webhook = new Webhook(secret);
  const arrived = Buffer.from(body, "base64");
  messages.push(webhook.verify(arrived, headers));
  try {
    webhook.verify(Buffer.concat([arrived, Buffer.from(" ")]), headers);
  } catch (error) {
    refused.push(error instanceof WebhookVerificationError);
  }
}
console.log(JSON.stringify({ messages, refused }));
"""

NODE_RECEIVER = """
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.WEBHOOK_SECRET);

const server = createServer(async (request, response) => {
  try {
    const message = webhook.verify(await text(request), request.headers);
    console.log(JSON.stringify(message));
    response.writeHead(204).end();
  } catch {
    response.writeHead(400).end();
  }
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""

PYTHON_RECEIVER = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["WEBHOOK_SECRET"])

class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            message = webhook.verify(body, dict(self.headers))
        except WebhookVerificationError:
            self.send_response(400)
        else:
            print(json.dumps(message), flush=True)
            self.send_response(204)
        self.end_headers()

server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
"""


async def arrived(folder: Path) -> list[tuple[str, Post]]:
    """Every post of two jobs with several callbacks, and the secret it was signed under. One attempt failed, so
    that one message was signed twice.
    """
    secrets = {
        "/24": "whsec_" + base64.b64encode(bytes(range(24))).decode(),
        "/64": "whsec_" + base64.b64encode(bytes(range(191, 255))).decode(),
        "/shared": SECRET,
    }
    async with faking() as upstream, receiving() as receiver:
        polled: dict[str, int] = {}

        async def poll(request: web.Request) -> web.StreamResponse:
            step = polled[request.path] = polled.get(request.path, -1) + 1
            if step < len(TEXTS):
                told = {"status": "inProgress", "statusDescription": TEXTS[step], "percentageComplete": step}
                return web.json_response(told, status=202)
            if request.path.endswith("/1"):
                return web.json_response({"status": "completed", "resourceId": "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"})
            return web.json_response({"status": "failed", "error": {"code": "nameAlreadyExists", "message": TEXTS[2]}})

        upstream.on_poll = poll
        ended = in_turn(saying(503, Retry_After="1"), saying(204))

        async def answer(request: web.Request) -> web.StreamResponse:
            return await (ended if receiver.posts[-1].kind == "completed" else saying(204))(request)

        receiver.answer = answer
        async with calling(Process(upstream.url, folder, secret_key="a key for secrets at rest", **ALLOWED)) as caller:
            for number in range(2):
                job = await caller.copy(f"{receiver.url}/made{number}", "progress, completed, failed")
                secrets[f"/made{number}"] = job["callback"]["secret"]
                for path in ("/24", "/64", "/shared"):
                    await caller.register(job, url=receiver.url + path, secret=secrets[path], events=ALL)
                made = await caller.register(job, url=f"{receiver.url}/later{number}")
                secrets[f"/later{number}"] = made["secret"]
            await caller.all_settled()
            posts = list(receiver.posts)
    assert {post.path for post in posts} == set(secrets)
    assert {post.kind for post in posts} == set(ALL)
    assert any(text.encode() in post.body for text in TEXTS[:2] for post in posts)
    assert len(posts) == len({post.id for post in posts}) + 1
    return [(secrets[post.path], post) for post in posts]


async def test_the_python_library(tmp_path: Path) -> None:
    """Accepts all that arrived, and nothing else."""
    for secret, post in await arrived(tmp_path):
        webhook = Webhook(secret)
        assert webhook.verify(post.body, dict(post.headers)) == post.message
        with pytest.raises(WebhookVerificationError):
            webhook.verify(post.body + b" ", dict(post.headers))
        with pytest.raises(WebhookVerificationError):
            Webhook("whsec_" + base64.b64encode(b"another secret of this size").decode()).verify(
                post.body, dict(post.headers)
            )


async def test_the_node_library(tmp_path: Path) -> None:
    """Accepts all that arrived, reads the same in it, and refuses it when one byte is added."""
    command = node.running(NODE_VERIFIER)
    posts = await arrived(tmp_path)
    given = [
        {"secret": secret, "headers": dict(post.headers), "body": base64.b64encode(post.body).decode()}
        for secret, post in posts
    ]
    ran = await anyio.run_process(command, input=json.dumps(given).encode(), cwd=node.FOLDER, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    found = json.loads(ran.stdout)
    assert found["messages"] == [post.message for _, post in posts]
    assert found["refused"] == [True] * len(posts)


async def test_the_lines_of_the_readme_drop_what_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    """In Python and in Node: a message that comes twice is taken once, and another all the same."""
    webhook, now = Webhook(SECRET), datetime.now(UTC).replace(microsecond=0)
    body = json.dumps({"type": "job.completed", "data": {"status": "completed"}})
    came = [
        {
            "webhook-id": name,
            "webhook-timestamp": f"{now.timestamp():.0f}",
            "webhook-signature": webhook.sign(name, now, body),
        }
        for name in ("msg_1", "msg_1", "msg_2")
    ]
    seen: set[str] = set()
    for headers in came:
        names = {"standardwebhooks": standardwebhooks, "secret": SECRET, "seen": seen, "body": body, "headers": headers}
        exec(lines_of_the_readme("message = standardwebhooks"), names)  # noqa: S102
    assert capsys.readouterr().out == "job.completed completed\n" * 2
    script = (
        'import { Webhook } from "standardwebhooks";\n'
        f"const secret = {json.dumps(SECRET)}, body = {json.dumps(body)}, seen = new Set();\n"
        f"for (const headers of {json.dumps(came)}) {{\n" + lines_of_the_readme("const message = new Webhook") + "\n}"
    )
    ended = await anyio.run_process(node.running(script), cwd=node.FOLDER)
    assert ended.stdout == b"job.completed completed\n" * 2


class Receiver:
    """A receiver's process; `url` is where it listens."""

    def __init__(self, url: str, process: asyncio.subprocess.Process) -> None:
        self.url = url
        self._process = process

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """The next messages that it took for genuine."""
        return [json.loads(await line(self._process)) for _ in range(count)]


async def line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    assert process.stderr is not None
    said = await process.stdout.readline()
    assert said, (await process.stderr.read()).decode()
    return said


@asynccontextmanager
async def receiver_of(language: str) -> AsyncIterator[Receiver]:
    if language == "node":
        command, folder = node.running(NODE_RECEIVER), node.FOLDER
    else:
        command, folder = [sys.executable, "-c", PYTHON_RECEIVER], Path.cwd()
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "WEBHOOK_SECRET": SECRET},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        port = int(await line(process))
        yield Receiver(f"http://127.0.0.1:{port}/webhook", process)
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("language", ["python", "node"])
async def test_a_receiver_as_one_writes_it(language: str, tmp_path: Path) -> None:
    """It takes the whole log of a copy; what is signed under another secret it refuses, and the gateway says so."""
    async with (
        receiver_of(language) as receiver,
        simulating(Simulator(seconds=1, steps=4)) as upstream,
        calling(Process(upstream.url, tmp_path, **ALLOWED)) as caller,
    ):
        job = await caller.copy()
        await caller.register(job, url=receiver.url, secret=SECRET, events=ALL)
        log = await tail(caller.session, job["events"])
        messages = await receiver.messages(len(log))
        assert [(message["type"], message["data"]) for message in messages] == [
            (f"job.{event.name}", event.data) for event in log
        ]
        assert log[-1].name == "completed"
        await caller.all_settled()
        assert [callback["state"] for callback in await caller.callbacks(job)] == ["delivered"]

        await caller.register(job, url=receiver.url)
        failing = await caller.failing(job)
        assert (failing["state"], failing["lastError"]) == ("active", "answered 400")
