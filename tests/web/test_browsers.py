"""What browsers of other origins may do: preflights, and the headers of every answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.web.answers import METHODS
from gateway.web.docs.resolved import operations
from gateway.web.requests import BODY_LIMIT
from tests.support.described import DOCUMENT
from tests.support.fake_upstream import faking
from tests.support.harness import TOKEN, Running, serving

pytestmark = pytest.mark.virtual_time

ORIGIN = "https://app.example.com"
OTHER = "https://evil.example.com"
COPY = "/v1.0/me/drive/items/1/copy"
EXPOSED = "Location, Retry-After, ETag, request-id, client-request-id"


def cors(response: aiohttp.ClientResponse) -> dict[str, str]:
    """The response's headers on what browsers may do, in lower case."""
    return {
        name.lower().removeprefix("access-control-"): value
        for name, value in response.headers.items()
        if name.lower().startswith("access-control-")
    }


async def preflight(gateway: Running, origin: str, path: str = COPY, **asked: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers on what browsers may do, and the error's message if there is one."""
    headers = {"Origin": origin, "Access-Control-Request-Method": asked.pop("method", "POST")}
    headers |= {f"Access-Control-Request-{name}": value for name, value in asked.items()}
    async with gateway.session.options(gateway.url + path, headers=headers) as response:
        assert "Origin" in response.headers["Vary"].split(", ")
        assert response.headers["request-id"]
        if response.status == 200:
            return 200, cors(response), None
        error = (await response.json())["error"]
        assert error["code"] == "corsNotAllowed"
        return response.status, cors(response), error["message"]


@pytest.mark.parametrize("configured", [ORIGIN, f"https://b.example.com,{ORIGIN}", "*"])
@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (None, None),
        ("", None),
        ("authorization", "authorization"),
        ("authorization,content-type,sdkversion", "authorization, content-type, sdkversion"),
        ("Cache-Control, tracestate ,\tConsistencyLevel", "Cache-Control, tracestate, ConsistencyLevel"),
        ("x-requested-with,,x_odd!#$%&'*+.^`|~1", "x-requested-with, x_odd!#$%&'*+.^`|~1"),
        (",".join(["x-" + "a" * 60] * 100), ", ".join(["x-" + "a" * 60] * 100)),
    ],
)
async def test_an_allowed_origin_may_send_any_header(
    configured: str, asked: str | None, allowed: str | None, tmp_path: Path
) -> None:
    """Its preflight is answered with what it asks for, for an hour, and never with credentials."""
    async with faking() as upstream, serving(upstream.url, tmp_path, cors_origins=configured) as gateway:
        status, headers, _ = await preflight(gateway, ORIGIN, **({} if asked is None else {"Headers": asked}))
        assert status == 200
        assert headers == {
            "allow-origin": "*" if configured == "*" else ORIGIN,
            "allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
            "max-age": "3600",
            **({} if allowed is None else {"allow-headers": allowed}),
        }
        assert upstream.asked == []


async def test_a_browser_that_asks_for_a_private_network(tmp_path: Path) -> None:
    """Chrome did so before it asked the person: it is answered, and promised nothing."""
    async with faking() as upstream, serving(upstream.url, tmp_path, cors_origins=ORIGIN) as gateway:
        status, headers, _ = await preflight(gateway, ORIGIN, **{"Private-Network": "true"})
        assert status == 200
        assert "allow-private-network" not in headers


@pytest.mark.parametrize("names", ["a b", "authorization;x", "a,(b)", "ä", '"x"', "x:y"])
async def test_what_is_no_list_of_headers_is_refused(names: str, tmp_path: Path) -> None:
    """Nothing of it comes back, and the browser is still told that the origin is right."""
    async with faking() as upstream, serving(upstream.url, tmp_path, cors_origins=ORIGIN) as gateway:
        status, headers, message = await preflight(gateway, ORIGIN, Headers=names)
        assert (status, headers["allow-origin"]) == (400, ORIGIN)
        assert "allow-headers" not in headers
        assert message == "Access-Control-Request-Headers must be a list of header names."


@pytest.mark.parametrize("method", [*METHODS, "TRACE", "get", "x" * 5000])
async def test_methods(method: str, tmp_path: Path) -> None:
    """Those of the routes, whatever the path; another one is named, cut."""
    async with faking() as upstream, serving(upstream.url, tmp_path, cors_origins=ORIGIN) as gateway:
        status, headers, message = await preflight(gateway, ORIGIN, "/nothing", method=method)
        assert headers["allow-origin"] == ORIGIN
        if method in METHODS:
            assert status == 200
        else:
            assert status == 400
            assert message == f"No route has the method {method[:128]}. Use one of {', '.join(METHODS)}."


def test_the_methods_are_those_of_the_routes() -> None:
    """As the document lists them, which other tests hold to the routes."""
    assert {one.method for one in operations(DOCUMENT)} | {"HEAD"} == set(METHODS)


@pytest.mark.parametrize("configured", ["", ORIGIN])
@pytest.mark.parametrize("path", [COPY, "/jobs", "/jobs/x/events", "/nothing", "/"])
@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        (OTHER, OTHER),
        ("http://app.example.com", "http://app.example.com"),
        (f"{ORIGIN}:8443", f"{ORIGIN}:8443"),
        (f"{ORIGIN}.evil.com", f"{ORIGIN}.evil.com"),
        ("null", "null"),
        ("https://\u00e4.example.com", "https://??.example.com"),
        ("https://" + "x" * 9000, "https://" + "x" * 120),
    ],
)
async def test_another_origin_is_refused(configured: str, path: str, origin: str, shown: str, tmp_path: Path) -> None:
    """The answer names it, cleaned and cut, and the setting; also when no origin is set."""
    async with faking() as upstream, serving(upstream.url, tmp_path, cors_origins=configured) as gateway:
        refused = await preflight(gateway, origin, path, Headers="authorization")
        message = (
            f"The origin {shown} may not call this gateway. The operator allows origins with GATEWAY_CORS_ORIGINS."
        )
        assert refused == (400, {}, message)
        assert upstream.asked == []


async def test_what_is_no_preflight_is_refused_as_a_method(tmp_path: Path) -> None:
    """OPTIONS without an origin, or without a method that is asked for."""
    async with faking() as upstream, serving(upstream.url, tmp_path, cors_origins=ORIGIN) as gateway:
        for headers in ({}, {"Origin": OTHER}, {"Access-Control-Request-Method": "GET"}):
            async with gateway.session.options(f"{gateway.url}/jobs", headers=headers) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (405, "methodNotAllowed")


ANSWERS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "a copy": ("POST", COPY, {"json": {}}, 202),
    "a copy that is refused": ("POST", "/v1.0/me/drive/root/copy", {"json": {"name": "no"}}, 429),
    "an item": ("GET", "/v1.0/me/drive/root", {}, 200),
    "a state": ("GET", "/jobs/{job}", {}, 202),
    "a state that is known": ("GET", "/jobs/{job}", {"headers": {"If-None-Match": "*"}}, 304),
    "a stream": ("GET", "/jobs/{job}/events", {}, 200),
    "a stream's head": ("HEAD", "/jobs/{job}/events", {}, 200),
    "a stream of many": ("GET", "/events?job={job}", {}, 200),
    "a stream of nobody": ("GET", "/jobs/nobody/events", {}, 404),
    "a stream of none": ("GET", "/events", {}, 400),
    "no JSON": ("POST", COPY, {"data": b"no"}, 400),
    "no key": ("GET", "/jobs", {}, 401),
    "no item": ("GET", "/v1.0/no", {}, 404),
    "no path": ("GET", "/nothing", {}, 404),
    "no slash": ("GET", "/jobs/{job}/", {}, 404),
    "no method": ("POST", "/events", {}, 405),
    "no body in time": ("POST", COPY, {"headers": {"Content-Length": "5", "Connection": "close"}}, 408),
    "too long a body": ("POST", COPY, {"data": b"x" * (BODY_LIMIT + 1)}, 413),
    "a compressed body": ("POST", COPY, {"data": b"x", "headers": {"Content-Encoding": "br"}}, 415),
    "a fault of ours": ("GET", "/healthz", {}, 500),
    "the page": ("GET", "/", {}, 200),
}
"""Requests, by what is answered, and its status."""


@pytest.mark.parametrize(
    ("configured", "origin", "allowed"),
    [(ORIGIN, ORIGIN, ORIGIN), ("*", ORIGIN, "*"), (ORIGIN, OTHER, None), (ORIGIN, None, None), ("", ORIGIN, None)],
)
async def test_every_answer_to_an_origin(
    configured: str, origin: str | None, allowed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allowed one may read each, errors and streams too, and the headers named; caches keep the origins apart."""
    async with faking() as upstream, serving(upstream.url, tmp_path, cors_origins=configured) as gateway:

        async def start(request: web.Request) -> web.StreamResponse:
            refused = "no" in await request.text()
            return web.json_response({}, status=429) if refused else await upstream.accept(request)

        async def broken(_request: Any) -> None:
            raise ZeroDivisionError

        upstream.on_copy = start
        job = (await gateway.copy())["jobId"]
        health = next(route for route in gateway.gateway._starlette.routes if getattr(route, "path", "") == "/healthz")
        monkeypatch.setattr(health, "app", lambda scope, receive, send: broken(scope))
        for name, (method, path, options, status) in ANSWERS.items():
            sent = {**TOKEN, **options.get("headers", {}), **({} if origin is None else {"Origin": origin})}
            url = gateway.url + path.format(job=job)
            async with gateway.session.request(method, url, **{**options, "headers": sent}) as response:
                assert response.status == status, name
                found = cors(response)
                assert found.get("allow-origin") == allowed, name
                assert "allow-credentials" not in found
                assert allowed is None or found["expose-headers"] == EXPOSED, name
                assert ("Origin" in response.headers.get("Vary", "").split(", ")) == bool(configured), name
                response.close()
