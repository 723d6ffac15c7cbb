"""The commands for single jobs: what they print as JSON, watch and stop, ids that begin with a dash, and listen."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from standardwebhooks import Webhook

from gateway.core.keys import new_webhook_secret
from gateway.simulator import Receiver, Simulator, running
from tests.cli.test_follow import frame, stream
from tests.cli.test_jobs import on_terminal
from tests.support import commands
from tests.support.commands import following, gateway
from tests.support.fake_upstream import answering, faking
from tests.support.harness import COPY_BODY, OPERATOR_KEY, TOKEN, Process, Running, free_port, serving, tail

ITEM = "me/drive/items/copy"
OLD = "-aB3_dE6-hI9jK2mN5pQ8sT1v"[:24]
"""An id as gateways made them once."""


@asynccontextmanager
async def simulated(folder: Path, **values: Any) -> AsyncIterator[tuple[Simulator, Running]]:
    async with (
        running(Simulator(seconds=0.6, steps=6)) as upstream,
        serving(upstream.url, folder, **values) as served,
    ):
        yield upstream, served


async def test_states_as_json(tmp_path: Path) -> None:
    """One object a line: the answer to the copy, with the jobKey that stop takes; then as the stream has them."""
    async with simulated(tmp_path) as (_, served):
        given = {"GATEWAY_URL": served.url, "GRAPH_TOKEN": "t"}
        to = ("--to", "b!personal/01MOWKYVDOCUMENTS", "--label", "Größe 日本")
        _, plain, told = await gateway("copy", ITEM, *to, **given)
        ended, output, errors = await gateway("copy", ITEM, *to, "--json", **given)
        states = [json.loads(line) for line in output.splitlines()]
        assert (ended, states[0]["status"], states[-1]["status"]) == (0, "notStarted", "completed")
        assert {state["label"] for state in states} == {"Größe 日本"}
        job = re.search(r"job (\S+)", errors)
        assert job is not None
        _, again, _ = await gateway("tail", "--json", job[1])
        assert again == output.partition("\n")[2]
        key = states[0]["jobKey"]
        assert key not in errors + again
        assert not re.search("[Kk]ey", plain + told)
        ended, _, errors = await gateway("stop", job[1], GATEWAY_JOB_KEY=key)
        assert ended == 0, errors
        ended, output, errors = await gateway("copy", "me/drive/items/failed", *to[:2], "--json", **given)
        assert (ended, json.loads(output.splitlines()[-1])["error"]["code"]) == (1, "nameAlreadyExists")
        assert "The copy failed" in errors


async def test_the_label_is_in_every_line(tmp_path: Path) -> None:
    """Behind the percentage; a label that no header can carry is refused before anything starts. The job is followed at
    the gateway that was asked, also before its public URL leads there.
    """
    async with simulated(tmp_path, public_url="https://gateway.test") as (_, served):
        given = {"GATEWAY_URL": served.url, "GRAPH_TOKEN": "t"}
        to = ("--to", "b!personal/01MOWKYVDOCUMENTS", "--name", "Report.docx")
        ended, output, errors = await gateway("copy", ITEM, *to, **given)
        assert (ended, "job https://gateway.test/jobs/" in errors) == (0, True)
        assert all(re.search(r" %  Report\.docx(  |$)", line) for line in output.splitlines())
        ended, _, errors = await gateway("copy", ITEM, *to, "--label", "two\nlines", **given)
        assert (ended, "is not a label" in errors) == (2, True)


async def test_watching(tmp_path: Path) -> None:
    """A copy that was started without the gateway: named, followed to its end; a URL of another host is refused."""
    async with simulated(tmp_path, public_url="https://gateway.test") as (upstream, served):
        async with served.session.post(f"{upstream.url}/v1.0/{ITEM}/copy", json=COPY_BODY, headers=TOKEN) as response:
            monitor = response.headers["Location"]
        given = {"GATEWAY_URL": served.url, "GATEWAY_OPERATOR_KEY": OPERATOR_KEY}
        ended, output, errors = await gateway("watch", monitor, "--label", "From elsewhere", "--json", **given)
        states = [json.loads(line) for line in output.splitlines()]
        assert (ended, states[-1]["status"], states[-1]["label"]) == (0, "completed", "From elsewhere"), errors
        assert f"job https://gateway.test/jobs/{states[0]['jobId']}" in errors
        assert monitor not in output + errors
        ended, _, errors = await gateway("watch", "https://example.com/monitor", **given)
        assert (ended, "monitorHostNotAllowed" in errors, errors.count("GATEWAY_MONITOR_HOSTS")) == (2, True, 1)
        ended, _, errors = await gateway("watch", monitor, **{**given, "GATEWAY_OPERATOR_KEY": "another-key-for-tests"})
        assert (ended, "rejects this key" in errors, "jobKey" in errors) == (2, True, False)
    given["GATEWAY_URL"] = f"http://127.0.0.1:{free_port()}"
    ended, _, errors = await gateway("watch", monitor, **given)
    assert (ended, "no gateway reachable" in errors) == (3, True)


async def test_stopping(tmp_path: Path) -> None:
    """With the job's key or the operator's, from the environment or a file; a wrong one changes nothing."""
    async with simulated(tmp_path) as (_, served):
        for number in range(2):
            job = await served.copy("/v1.0/me/drive/items/stuck")
            url = f"{served.url}/jobs/{job['jobId']}"
            ended, _, errors = await gateway("stop", url)
            assert (ended, "neither GATEWAY_JOB_KEY nor GATEWAY_OPERATOR_KEY is set" in errors) == (2, True)
            ended, _, errors = await gateway("stop", url, GATEWAY_JOB_KEY="wrong")
            assert (ended, "rejects this key. Use the jobKey" in errors) == (2, True)
            key = tmp_path / "key"
            key.write_text([job["jobKey"], OPERATOR_KEY][number])
            option = ["--job-key-file", "--operator-key-file"][number]
            ended, output, _ = await gateway("stop", job["jobId"], option, str(key), GATEWAY_URL=served.url)
            assert (ended, "does not watch" in output) == (0, True)
            async with served.session.get(url) as response:
                assert (await response.json())["error"]["code"] == "watchStopped"


@pytest.mark.parametrize(
    ("arguments", "method", "path"),
    [
        (("tail", OLD, "--patience", "5"), "GET", f"/jobs/{OLD}/events"),
        (("tail", "--patience", "5", "--", OLD), "GET", f"/jobs/{OLD}/events"),
        (("stop", "--job-key-file", "KEY", OLD), "DELETE", f"/jobs/{OLD}"),
        (("callbacks", OLD), "GET", f"/jobs/{OLD}/callbacks"),
        (("callbacks", OLD, "retry", OLD, "--json"), "POST", f"/jobs/{OLD}/callbacks/{OLD}/retry"),
    ],
)
async def test_an_id_that_begins_with_a_dash(
    arguments: tuple[str, ...], method: str, path: str, tmp_path: Path
) -> None:
    """It is an argument wherever it stands, and what is none is still an unknown option."""
    (tmp_path / "key").write_text("a-key")
    given = [str(tmp_path / "key") if argument == "KEY" else argument for argument in arguments]
    async with faking() as fake:
        fake.on_item = answering(lambda: web.json_response({"value": []}))
        fake.on_copy = answering(lambda: web.json_response({"id": OLD}, status=202))
        if arguments[0] == "tail":
            fake.on_item = stream(frame(1, "completed"))
        ended, _, errors = await gateway(*given, GATEWAY_URL=fake.url, GATEWAY_OPERATOR_KEY="a-key")
        assert ended == 0, errors
        assert [asked[:2] for asked in fake.asked] == [(method, path)]
    ended, _, errors = await gateway(arguments[0], "-x")
    assert (ended, "No such option" in errors) == (2, True)


def screen(drawn: str, columns: int) -> list[str]:
    """The lines that a terminal shows after all of this was written to it."""
    rows: defaultdict[int, dict[int, str]] = defaultdict(dict)
    row = column = 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\s\S]", drawn):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
        elif part.startswith("\x1b"):
            if part.endswith("A"):
                row = max(0, row - int(part[2:-1] or 1))
            elif part.endswith("K"):
                rows[row].clear()
        else:
            if column == columns:
                row, column = row + 1, 0
            rows[row][column] = part
            column += 1
    return ["".join(rows[number].get(cell, " ") for cell in range(columns)).rstrip() for number in range(max(rows) + 1)]


@pytest.mark.parametrize("item", ["stuck", "rich"])
async def test_an_interrupt_leaves_one_bar(item: str, tmp_path: Path) -> None:
    """The terminal writes ^C where the cursor stands, which must not wrap the bar's last line."""
    async with simulated(tmp_path) as (_, served):
        job = await served.copy(f"/v1.0/me/drive/items/{item}", params={"seconds": "60", "steps": "600"})
        async with on_terminal("tail", job["events"]) as terminal:
            await terminal.until(r"inProgress[^✗]* %" if item == "rich" else "━")
            os.write(terminal._ours, b"\x03")
            terminal.process.send_signal(signal.SIGINT)
            drawn = await terminal.end()
            assert await terminal.process.wait() == 130
    assert "^C" in drawn
    shown = screen(drawn, 100)
    assert len([line for line in shown if "━" in line]) == 1, shown
    assert len([line for line in shown if line == "a copy"]) == 1, shown


@pytest.mark.parametrize(("item", "colours"), [("copy", {"36", "32"}), ("failed", {"36", "31"})])
async def test_the_colour_of_the_bar(item: str, colours: set[str], tmp_path: Path) -> None:
    """Red means an error, and nothing else is red."""
    async with simulated(tmp_path) as (_, served):
        job = await served.copy(f"/v1.0/me/drive/items/{item}", json={})
        async with on_terminal("tail", job["events"]) as terminal:
            drawn = await terminal.end()
    assert {*re.findall(r"\x1b\[(\d+)m━", drawn)} <= {"90", *colours}
    assert ("\x1b[31mfailed" in drawn) == ("31" in colours), drawn[-900:]


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, str]]:
    receiver = Receiver()
    async with running(Simulator(receiver=receiver)) as simulator:
        yield receiver, f"{simulator.url}/receiver"


async def test_listening(tmp_path: Path) -> None:
    """Each event of several jobs is posted once, signed with the secret that is printed or given; it ends with them."""
    async with simulated(tmp_path) as (_, served), receiving() as (receiver, url):
        jobs = [await served.copy(f"/v1.0/me/drive/items/{item}") for item in ("copy", "failed")]
        given = [job["jobId"] for job in jobs]
        ended, output, errors = await gateway("listen", *given, "--forward-to", url, GATEWAY_URL=served.url)
        assert ended == 0, errors
        secret = output.split()[output.split().index("signatures:") + 1]
        told = {re.sub(r"^\S+  |\d+ ms$", "", line) for line in output.splitlines()[1:]}
        assert told == {"job.failed     a copy  204  ", "job.completed  a copy  204  "}
        states = {}
        for one in receiver.received:
            names = ("webhook-id", "webhook-timestamp", "webhook-signature")
            headers = dict(zip(names, (one.message_id, one.timestamp, one.signatures), strict=True))
            message = Webhook(secret).verify(one.body, headers)
            states[message["data"]["jobId"]] = message
        for job in jobs:
            assert states[job["jobId"]]["data"] == (await tail(served.session, job["events"]))[-1].data
        (tmp_path / "secret").write_text(own := new_webhook_secret())
        receiver.learn(own)
        receiver.received.clear()
        options = ("--events", "progress", "--secret-file", str(tmp_path / "secret"))
        ended, output, _ = await gateway("listen", jobs[0]["events"], "--forward-to", url, *options)
        shown = [receiver.as_json(one) for one in receiver.received]
        assert (ended, own in output, {one["signature"] for one in shown}) == (0, False, {"holds"})
        assert [one["message"]["data"]["status"] for one in shown][:2] == ["notStarted", "inProgress"]
        assert len({one["webhook-id"] for one in shown}) == len(shown)


async def test_listening_in_vain(tmp_path: Path) -> None:
    """A receiver that refuses is exit 1, a job that nobody knows 2; neither keeps the other jobs from their end."""
    async with simulated(tmp_path) as (_, served), receiving() as (receiver, url):
        job = (await served.copy(f"/v1.0/{ITEM}"))["jobId"]
        ended, output, _ = await gateway("listen", job, "--forward-to", f"{url}?fail=500", GATEWAY_URL=served.url)
        assert (ended, "job.completed  a copy  500  " in output) == (1, True)
        nowhere = f"http://127.0.0.1:{free_port()}/"
        ended, output, errors = await gateway("listen", job, "--forward-to", nowhere, GATEWAY_URL=served.url)
        assert (ended, "job.completed  a copy  connection refused  " in output) == (1, True)
        assert errors.count("is not sent again") == 1
        ended, output, errors = await gateway("listen", "nobody", job, "--forward-to", url, GATEWAY_URL=served.url)
        assert (ended, "job.completed  a copy  204  " in output, "There is no such job" in errors) == (2, True, True)
        for wrong in (("--forward-to", "nowhere"), ("--forward-to", url, "--events", "all")):
            ended, _, errors = await gateway("listen", job, *wrong, GATEWAY_URL=served.url)
            assert (ended, "is not a" in errors) == (2, True)
        ended, _, errors = await gateway("listen", job, "--forward-to", url, GATEWAY_WEBHOOK_SECRET="short")
        assert (ended, "a webhook secret is whsec_" in errors) == (2, True)
    assert len(receiver.received) == 2


async def test_listening_through_a_restart(tmp_path: Path) -> None:
    """The gateway is killed and comes back: no event is posted twice, none that the log has is left out."""
    async with running(Simulator(seconds=4, steps=20)) as upstream, receiving() as (receiver, url):
        port = free_port()
        first = await Process(upstream.url, tmp_path, port=port).start()
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{first.url}/v1.0/{ITEM}/copy", json=COPY_BODY, headers=TOKEN) as response:
                job = await response.json()
            options = ("--forward-to", url, "--events", "progress,completed")
            async with following("listen", job["events"], *options) as listen:
                for _ in range(3):
                    await listen.line()
                first.kill()
                async with Process(upstream.url, tmp_path, port=port):
                    lines = [line async for line in listen.output]
                    assert await listen.process.wait() == 0
                    log = await tail(session, job["events"])
                assert "reconnecting" in listen.errors()
        assert "job.completed  a copy  204  " in lines[-1]
        posted = [one.message_id.rpartition("_")[2] for one in receiver.received]
        assert posted == [event.id for event in log]


async def test_listening_is_interrupted(tmp_path: Path) -> None:
    """Exit 130, and no traceback."""
    async with simulated(tmp_path) as (_, served), receiving() as (receiver, url):
        job = await served.copy("/v1.0/me/drive/items/stuck")
        async with following("listen", job["events"], "--forward-to", url, "--events", "progress") as listen:
            assert "secret" in await listen.line()
            assert "job.progress" in await listen.line()
            listen.process.send_signal(signal.SIGINT)
            with anyio.fail_after(20):
                assert await listen.process.wait() == 130
            assert "Traceback" not in listen.errors()
    assert receiver.received


async def test_listening_to_a_pipe_that_is_closed(tmp_path: Path) -> None:
    """`gateway listen … | head -1` ends quietly."""
    async with simulated(tmp_path) as (_, served), receiving() as (_, url):
        job = await served.copy(f"/v1.0/{ITEM}", params={"seconds": "30", "steps": "100"})
        ours, theirs = os.pipe()
        with TemporaryFile() as errors:
            arguments = ["listen", job["events"], "--forward-to", url, "--events", "progress"]
            async with commands.running(arguments, os.environ, theirs, errors.fileno()) as listen:
                os.close(theirs)
                await anyio.to_thread.run_sync(os.read, ours, 1)
                os.close(ours)
                assert await listen.wait() == 141
            assert errors.seek(0, os.SEEK_END) == 0
