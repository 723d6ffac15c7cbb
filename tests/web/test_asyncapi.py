"""The AsyncAPI document: valid, and true of what streams and receivers are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from gateway.core.callback import KINDS
from gateway.simulator import Simulator, running
from gateway.web.docs import openapi
from gateway.web.docs.asyncapi import document
from gateway.web.docs.resolved import follow
from tests.support import node
from tests.support.fake_receiver import ALLOWED, receiving, settled
from tests.support.harness import Running, serving, tail

pytestmark = pytest.mark.virtual_time

DOCUMENT = document("http://127.0.0.1:8000/below")
SCHEMA = Path("node_modules", "@asyncapi", "specs", "schemas", "3.0.0-without-$id.json")


def fits(schema: Mapping[str, Any], content: Any) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(content)


def messages(channel: str) -> dict[str, Mapping[str, Any]]:
    """A channel's messages by their names."""
    named = DOCUMENT["channels"][channel]["messages"]
    return {name: follow(DOCUMENT, message) for name, message in named.items()}


@pytest.mark.parametrize("base", ["http://127.0.0.1:8000", "https://gateway.example.com/below"])
def test_it_is_valid(base: str) -> None:
    """By the schema that AsyncAPI gives out."""
    node.node()
    schema = json.loads((node.FOLDER / SCHEMA).read_text())
    Draft7Validator(schema).validate(document(base))
    with pytest.raises(Exception, match="is not valid"):
        Draft7Validator(schema).validate({**DOCUMENT, "channels": {"job": {"adress": "/"}}})


def test_its_references_and_examples_hold() -> None:
    """Each operation's messages are its channel's; each example is as its schemas say."""
    for operation in DOCUMENT["operations"].values():
        known = [id(one) for one in messages(operation["channel"]["$ref"].rpartition("/")[2]).values()]
        assert [id(follow(DOCUMENT, one)) for one in operation["messages"]] == known
    for message in DOCUMENT["components"]["messages"].values():
        for example in message["examples"]:
            fits(message["headers"], example["headers"])
            fits(message["payload"], example["payload"])


def test_it_has_the_schemas_of_the_other() -> None:
    """One state, in both documents."""
    assert DOCUMENT["components"]["schemas"] == openapi.document("http://127.0.0.1:8000/below")["components"]["schemas"]
    assert DOCUMENT["servers"]["gateway"]["pathname"] == "/below"


async def register(gateway: Running, job: dict[str, Any], url: str) -> None:
    wish = {"url": url, "events": KINDS}
    key = {"Authorization": f"Bearer {job['jobKey']}"}
    async with gateway.session.post(f"{gateway.url}/jobs/{job['jobId']}/callbacks", json=wish, headers=key) as response:
        assert response.status == 201


async def test_what_is_told_is_in_it(tmp_path: Path) -> None:
    """A copy that ends well, one given up, and a job that nobody knows: each event, each message to a receiver."""
    async with (
        receiving() as receiver,
        running(Simulator(seconds=2, clock=asyncio.get_running_loop().time)) as upstream,
        serving(upstream.url, tmp_path, **ALLOWED) as gateway,
    ):
        jobs = [await gateway.copy(json={"name": name}) for name in ("well", "stopped")]
        for job in jobs:
            await register(gateway, job, f"{receiver.url}/copies")
        key = {"Authorization": f"Bearer {jobs[1]['jobKey']}"}
        async with gateway.session.delete(f"{gateway.url}/jobs/{jobs[1]['jobId']}", headers=key) as response:
            assert response.status == 204
        query = "&".join(f"job={name}" for name in (*(job["jobId"] for job in jobs), "nobody"))
        many = await tail(gateway.session, f"{gateway.url}/events?{query}")
        one = await tail(gateway.session, jobs[0]["events"])
        for job in jobs:
            await settled(gateway, job, "delivered")
    for channel, events in (("job", one), ("jobs", many)):
        told = messages(channel)
        assert {event.name for event in events} == set(told) - ({"failed"} if channel == "job" else set())
        for event in events:
            fits(told[event.name]["headers"], {"event": event.name, "id": event.id})
            fits(told[event.name]["payload"], event.data)
    told = messages("receiver")
    assert {post.message["type"] for post in receiver.posts} == set(told)
    for post in receiver.posts:
        fits(told[post.message["type"]]["headers"], {name.lower(): value for name, value in post.headers.items()})
        fits(told[post.message["type"]]["payload"], post.message)
