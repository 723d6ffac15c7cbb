"""Programs of the field on Node: those that follow streams, Durable Functions' poller, a client generated from the
document, and a development server's proxy that compresses.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from gateway.simulator import Simulator, running
from tests.support import node
from tests.support.callers import calling
from tests.support.fake_receiver import going
from tests.support.fake_upstream import answering, faking
from tests.support.harness import FOLDER, OPERATOR, OPERATOR_KEY, Process, Running, serving
from tests.support.harness import events as events_of

FOLLOWERS = """
import { EventSource } from "eventsource";
import { createEventSource } from "eventsource-client";
import { EventSourceParserStream } from "eventsource-parser/stream";
import { fetchEventSource } from "@microsoft/fetch-event-source";

const delay = (ms) => new Promise((done) => setTimeout(done, ms));
const url = process.env.EVENTS;
const kinds = ["progress", "completed", "failed"];
const tell = (client, name, id, data) =>
  console.log(JSON.stringify({ client, name, id, state: JSON.parse(data) }));

const source = new EventSource(url);
for (const kind of kinds)
  source.addEventListener(kind, (event) => {
    tell("eventsource", kind, event.lastEventId, event.data);
    if (kind !== "progress") source.close();
  });

const client = createEventSource({
  url,
  onMessage({ event, id, data }) {
    tell("eventsource-client", event, id, data);
    if (event !== "progress") client.close();
  },
});

// It only parses: a loop around it comes back with the last id.
async function parsed() {
  for (let last, name; name !== "completed" && name !== "failed"; await delay(500)) {
    try {
      const { body } = await fetch(url, { headers: last ? { "Last-Event-ID": last } : {} });
      for await (const { event, id, data } of body
        .pipeThrough(new TextDecoderStream())
        .pipeThrough(new EventSourceParserStream())) {
        tell("eventsource-parser", event, id, data);
        [last, name] = [id, event];
      }
    } catch {
      // the gateway is away
    }
  }
}
parsed();

// It is written for browsers and asks them for two things: timers by `window`, and whether the tab is seen.
globalThis.window = globalThis;
globalThis.document = Object.assign(new EventTarget(), { hidden: false });
const over = new AbortController();
await fetchEventSource(url, {
  signal: over.signal,
  onmessage({ event, id, data }) {
    if (!data) return; // it hands out comments and `retry:` as messages without data
    tell("fetch-event-source", event, id, data);
    if (event !== "progress") over.abort();
  },
  onclose() {
    throw new Error("the stream ended before the job did"); // how one tells it to come back
  },
});
"""

CLIENTS = ("eventsource", "eventsource-client", "eventsource-parser", "fetch-event-source")

GENERATE = """
import { createClient } from "@hey-api/openapi-ts";

await createClient({
  input: process.env.DOCUMENT,
  output: { path: process.env.OUT, importFileExtension: ".ts" },
  plugins: ["@hey-api/client-fetch", "@hey-api/sdk", "@hey-api/typescript"],
  logs: { level: "silent" },
});
"""

USE = """
import {
  copyMyDriveItem, followJob, getJob, listCallbacks, listJobs, readDriveItem, stopJob, type State,
} from "./client/index.ts";

declare const process: { env: Record<string, string> };
const throwOnError = true;
const operator = () => process.env.OPERATOR_KEY;

const { data: job, response } = await copyMyDriveItem({
  path: { version: "v1.0", itemId: "01MOWKYVLARGEFOLDER1" },
  query: { "@microsoft.graph.conflictBehavior": "rename" },
  headers: { "Idempotency-Key": "generated-1" },
  body: { parentReference: { driveId: "b!personal", id: "01MOWKYVDOCUMENTS" }, name: "Copy of LargeFolder1" },
  auth: () => "a-token",
  throwOnError,
});
const path = { job: job.jobId };
const jobKey = () => job.jobKey;

const seen: State[] = [];
const { stream } = await followJob({ path });
for await (const data of stream) seen.push(data as unknown as State);

const { data: state } = await getJob({ path, throwOnError });
const { data: jobs } = await listJobs({ query: { limit: 1 }, auth: operator, throwOnError });
const { data: callbacks } = await listCallbacks({ path, auth: jobKey, throwOnError });
const { data: item } = await readDriveItem({
  path: { version: "v1.0", driveId: "b!personal", itemId: seen.at(-1)!.resourceId! },
  auth: () => "a-token",
  throwOnError,
});
const stopped = await stopJob({ path, auth: jobKey });
const refused = await stopJob({ path, auth: () => "another key" });
const unknown = await getJob({ path: { job: "nobody" } });

console.log(JSON.stringify({
  location: response.headers.get("Location"), job, seen, state, jobs, callbacks, item,
  stopped: stopped.response!.status,
  refused: refused.error!.error.code,
  unknown: unknown.error!.error.code,
}));
"""

DEVELOPMENT_SERVER = """
import compression from "compression";
import express from "express";
import { createProxyMiddleware } from "http-proxy-middleware";

const app = express().use(compression(), createProxyMiddleware({ target: process.env.GATEWAY }));
const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""


@asynccontextmanager
async def script(text: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Node running a script; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *node.running(text),
        cwd=node.FOLDER,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_followers_across_a_restart(tmp_path: Path) -> None:
    """The gateway is killed in the middle and comes back: each client has every event once, in order, to the end."""
    node.node()
    held = 5.0
    simulator = Simulator(seconds=18, steps=18, clock=lambda: min(float(len(simulator.polls())), held))
    async with (
        running(simulator) as upstream,
        calling(Process(upstream.url, tmp_path, poll_min=0.02, poll_max=0.05)) as caller,
    ):
        job = await caller.copy()
        async with script(FOLLOWERS, EVENTS=job["events"]) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            seen: dict[str, list[dict[str, Any]]] = {name: [] for name in CLIENTS}
            while not all(events and events[-1]["state"]["percentageComplete"] > 25 for events in seen.values()):
                line = await process.stdout.readline()
                assert line, (await process.stderr.read()).decode()
                event = json.loads(line)
                seen[event["client"]].append(event)
            caller.gateway.kill()
            held = 100.0
            await caller.gateway.start()
            async for line in process.stdout:
                event = json.loads(line)
                seen[event["client"]].append(event)
            assert await process.wait() == 0, (await process.stderr.read()).decode()
    for events in seen.values():
        assert [event["id"] for event in events] == [str(number) for number in range(1, len(events) + 1)]
        assert [event["name"] for event in events[-2:]] == ["progress", "completed"]
        assert events[-1]["state"]["percentageComplete"] == 100.0
        assert events == [{**event, "client": events[0]["client"]} for event in seen["eventsource"]]


@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_durable_functions(end: str, tmp_path: Path) -> None:
    """`callHttp` starts a copy, asks the Location of each 202 after the wait that it names, and returns the end."""
    node.node()
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_poll = going(10, end=None)
        told: list[dict[str, Any]] = []
        source = (node.LISTS / "durable.js").read_text()
        async with script(source, URL=f"{gateway.url}{FOLDER}/copy") as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            async for line in process.stdout:
                told.append(json.loads(line))
                if "waits" in told[-1]:
                    reached = {"percentageComplete": 60} if len(told) == 2 else {"status": end}
                    upstream.on_poll = going(60, end=None) if len(told) == 2 else going(end=end)
                    await reaches(gateway, reached)
                    process.stdin.write(b"\n")
            assert await process.wait() == 0, (await process.stderr.read()).decode()
        assert upstream.copies() == 1
        async with gateway.session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
            (state,) = (await response.json())["value"]
    asked, waits, output = told[:-1:2], told[1:-1:2], told[-1]["output"]
    job = f"{gateway.url}/jobs/{state['jobId']}"
    assert [(one["asks"], one["status"]) for one in asked] == [
        (f"{gateway.url}{FOLDER}/copy", 202),
        (job, 202),
        (job, 200),
    ]
    assert [one["waits"] for one in waits] == [int(one["retryAfter"]) for one in asked[:-1]]
    assert (output["statusCode"], json.loads(output["content"])) == (200, state)
    assert state["status"] == end


async def reaches(gateway: Running, state: dict[str, Any]) -> None:
    """Wait until the gateway's only job is there."""
    while True:
        async with gateway.session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
            (job,) = (await response.json())["value"]
        if state.items() <= job.items():
            return
        await anyio.sleep(0.01)


@pytest.mark.parametrize("path", ["/jobs/{job}/events", "/events?job={job}"])
async def test_a_proxy_that_compresses(path: str, tmp_path: Path) -> None:
    """Express compresses what a browser asks for, but passes each event on before the next one comes."""
    node.node()
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        percent = 0.0
        upstream.on_poll = answering(
            lambda: web.json_response(
                {"status": "completed" if percent == 100 else "inProgress", "percentageComplete": percent}
            )
        )
        job = await gateway.copy()
        asked = {"Accept-Encoding": "gzip, deflate"}
        async with script(DEVELOPMENT_SERVER, GATEWAY=gateway.url) as process:
            assert process.stdout is not None
            proxy = f"http://127.0.0.1:{int(await process.stdout.readline())}"
            async with gateway.session.get(f"{proxy}/openapi.json", headers=asked) as response:
                assert response.headers["Content-Encoding"] == "gzip"
            with anyio.fail_after(30):
                async with gateway.session.get(proxy + path.format(job=job["jobId"]), headers=asked) as response:
                    assert "Content-Encoding" not in response.headers
                    seen = []
                    async for event in events_of(response):
                        seen.append(event.name)
                        percent = min(percent + 25, 100.0)
    assert seen == [*["progress"] * (len(seen) - 1), "completed"]
    assert len(seen) >= 5


async def test_a_generated_client(tmp_path: Path) -> None:
    """Generated from the running gateway's document, checked by TypeScript's compiler, and used for a whole copy."""
    node.node()
    (tmp_path / "use.mts").write_text(USE)
    async with running(Simulator(seconds=0.5, steps=5)) as upstream, Process(upstream.url, tmp_path) as gateway:
        document, out = f"{gateway.url}/openapi.json", str(tmp_path / "client")
        async with script(GENERATE, DOCUMENT=document, OUT=out) as generating:
            said = await generating.communicate()
            assert generating.returncode == 0, said
        compiler = node.FOLDER / "node_modules" / "typescript" / "bin" / "tsc"
        options = "--noEmit --strict --target esnext --module nodenext --allowImportingTsExtensions --skipLibCheck"
        check = [node.node(), str(compiler), *options.split(), "--lib", "esnext,dom,dom.iterable", "use.mts"]
        checked = await anyio.run_process(check, cwd=tmp_path, check=False)
        assert checked.returncode == 0, checked.stdout.decode()
        environment = {**os.environ, "OPERATOR_KEY": OPERATOR_KEY}
        used = await anyio.run_process([node.node(), "use.mts"], cwd=tmp_path, env=environment, check=False)
        assert used.returncode == 0, used.stderr.decode()
    told = json.loads(used.stdout)
    job, state = told["job"], told["state"]
    assert told["location"] == f"{gateway.url}/jobs/{job['jobId']}"
    percentages = [one["percentageComplete"] for one in told["seen"]]
    assert (percentages[0], percentages[-1]) == (0, 100)
    assert percentages == sorted(percentages)
    assert told["seen"][-1] == state == told["jobs"]["value"][0]
    assert (state["status"], told["item"]["name"]) == ("completed", "Copy of LargeFolder1")
    assert told["callbacks"] == {"value": []}
    assert (told["stopped"], told["refused"], told["unknown"]) == (204, "unauthenticated", "jobNotFound")
