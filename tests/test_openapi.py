"""The OpenAPI document: valid, complete, and true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.items import parse
from gateway.openapi import document
from tests.conftest import VIRTUAL_TIME
from tests.fake_upstream import answering, faking
from tests.harness import OPERATOR, serving, tail

pytestmark = pytest.mark.anyio

DOCUMENT = document("http://127.0.0.1:8000")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return VIRTUAL_TIME


def matches(schema: str, content: Any) -> None:
    Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}).validate(
        content
    )


def test_it_is_valid() -> None:
    """By the validator of the field."""
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_its_examples_fit_their_schemas() -> None:
    """What is shown is what is meant."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            matches(name, example)


async def test_every_route_is_in_it_and_no_other(tmp_path: Path) -> None:
    """The running app's routes and methods, and the forms of an item's address."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        routes = {
            (str(getattr(route, "path", "")), method)
            for route in gateway.gateway._starlette.routes
            for method in (getattr(route, "methods", None) or ())
            if method != "HEAD"
        }
    described = {
        (path, method.upper())
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
        if not path.startswith(("/v1.0", "/beta"))
    }
    assert described == routes


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (path, method.upper())
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
        if path.startswith(("/v1.0", "/beta"))
    ],
)
def test_every_form_of_an_item_is_forwarded(path: str, method: str) -> None:
    """What the document offers, the gateway takes."""
    action = parse(method, re.sub(r"\{\w+\}", "x", path)).action
    assert action == ("copy" if method == "POST" else "read")


async def test_what_is_answered_fits(tmp_path: Path) -> None:
    """States, errors, lists and 202s of a running gateway, ended and running, failed and completed."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:

        async def get(path: str, **headers: str) -> Any:
            async with gateway.session.get(gateway.url + path, headers=headers) as response:
                return await response.json()

        running = await gateway.copy("/v1.0/me/drive/items/1")
        matches("Accepted", running)
        matches("State", await get(f"/jobs/{running['jobId']}"))
        upstream.on_poll = answering(
            lambda: web.json_response(
                {"status": "failed", "statusDescription": "d", "error": {"details": [{"code": "a", "target": "t"}]}}
            )
        )
        for event in await tail(gateway.session, running["events"]):
            matches("State", event.data)
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "1"}))
        ended = await gateway.copy("/v1.0/me/drive/items/1")
        assert (await tail(gateway.session, ended["events"]))[-1].data["resource"]
        matches("State", await get(f"/jobs/{ended['jobId']}"))
        matches("Jobs", await get("/jobs?limit=1", **OPERATOR))
        matches("Error", await get("/jobs/nobody"))
        matches("Error", await get("/v1.0/nothing"))
        assert (await get("/openapi.json"))["servers"] == [{"url": gateway.url}]
