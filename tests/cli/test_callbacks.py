"""`gateway callbacks`: what happened to a job's callbacks, and another try."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio

from gateway.cli.callbacks import described
from gateway.simulator import Receiver, Simulator, running
from tests.support.commands import gateway
from tests.support.harness import OPERATOR_KEY, Running, serving, tail


async def settled(served: Running, job: dict[str, Any]) -> dict[str, Any]:
    """The job's only callback, after its first attempt."""
    headers = {"Authorization": f"Bearer {job['jobKey']}"}
    with anyio.fail_after(10):
        while True:
            async with served.session.get(f"{served.url}/jobs/{job['jobId']}/callbacks", headers=headers) as response:
                (found,) = (await response.json())["value"]
            if found["history"]:
                return dict(found)
            await anyio.sleep(0.05)


async def test_what_happened_to_each(tmp_path: Path) -> None:
    """Its state, its attempts with their results; `retry` delivers it; each as JSON too."""
    receiver = Receiver()
    async with (
        running(Simulator(seconds=0.3, receiver=receiver)) as upstream,
        serving(upstream.url, tmp_path, callback_allow="127.0.0.1/32") as served,
    ):
        job = await served.copy()
        key = {"GATEWAY_URL": served.url, "GATEWAY_JOB_KEY": job["jobKey"], "COLUMNS": "300"}
        assert await gateway("callbacks", job["jobId"], **key) == (0, "", "gateway: this job has no callbacks\n")
        async with served.session.post(
            f"{served.url}/jobs/{job['jobId']}/callbacks",
            json={"url": f"{upstream.url}/receiver?fail=503&times=1"},
            headers={"Authorization": f"Bearer {job['jobKey']}"},
        ) as response:
            assert response.status == 201
        await tail(served.session, job["events"])
        found = await settled(served, job)
        ended, output, _ = await gateway("callbacks", job["jobId"], **key)
        first, error, attempt = output.splitlines()
        assert ended == 0
        assert first == f"{found['id']}  active     1 attempt  {upstream.url}  completed, failed"
        assert re.fullmatch(r"  last error: \S.*; next attempt at \S+Z", error)
        assert re.fullmatch(r"  \S+Z  503  \d+ ms", attempt)
        ended, output, _ = await gateway("callbacks", job["jobId"], "--json", **key)
        assert (ended, json.loads(output)["history"][0]["status"]) == (0, 503)
        operator = {"GATEWAY_URL": served.url, "GATEWAY_OPERATOR_KEY": OPERATOR_KEY}
        ended, output, errors = await gateway("callbacks", job["jobId"], "retry", found["id"], "--json", **operator)
        assert (ended, json.loads(output)["id"]) == (0, found["id"]), errors
        with anyio.fail_after(10):
            while len(receiver.received) < 2:  # noqa: ASYNC110 - it keeps what comes, and wakes nobody
                await anyio.sleep(0.01)
        for wrong, status, words in (
            (("retry",), 2, "name the callback to retry"),
            (("retry", "nobody"), 2, "callbackNotFound"),
            (("retry", "a/b"), 2, "is not a callback's id"),
            (("repeat", found["id"]), 2, "retry"),
        ):
            ended, _, errors = await gateway("callbacks", job["jobId"], *wrong, **key)
            assert (ended, words in errors) == (status, True), errors


def test_what_a_receiver_said_steers_no_terminal() -> None:
    """Errors come from outside."""
    callback = {
        "id": "1",
        "state": "exhausted",
        "attempts": 10,
        "lastError": "\x1b[2J",
        "history": [{"error": "\u202e"}],
    }
    lines = list(described(callback))
    assert lines[0].startswith("1  exhausted  10 attempts")
    assert not any(character in line for line in lines for character in "\x1b\u202e")
